"""A bare parameter of three dimensions is masked as the matrix that it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight
from speechprune.masking.matrix_view import MatrixView
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.masking.sites import Site
from speechprune.masking.unit_view import UnitView

C, H, D = 12, 3, 4
READS, WRITES = MatrixView((1, 2)), MatrixView((0,))
CASES: list[tuple[str, dict[str, Any]]] = [
    ("s3router", {"init_score": name})
    for name in ("kaiming_uniform", "xavier_normal", "weight_rank", "weight_magnitude")
]
CASES += [
    ("s3router", {"granularity": kind, "init_score": "weight_rank"}) for kind in ("row", "column")
]
CASES += [("n_m", {}), ("parp", {}), ("random", {}), ("snip", {})]


class Bare(nn.Module):
    """A linear layer, (H * D, C), as XLNet keeps it: (C, H, D); or its opposite, (C, H * D)."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.writes = writes
        self.q = nn.Parameter(torch.randn(C, H, D, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        if self.writes:
            return torch.einsum("bnd,hnd->bh", x.view(-1, H, D), self.q)
        return torch.einsum("bh,hnd->bnd", x, self.q).flatten(1)

    def as_linear(self) -> nn.Linear:
        matrix = self.q.detach().reshape(C, H * D)
        matrix = matrix if self.writes else matrix.t()
        linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        linear.weight = nn.Parameter(matrix.clone())
        return linear


def by_hand(matrix: Tensor, writes: bool) -> Tensor:
    """A matrix of (out, in) as the bare parameter."""
    return (matrix if writes else matrix.t()).reshape(C, H, D)


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize(("policy", "options"), CASES, ids=str)
def test_masks_scores_and_gradients_are_those_of_the_matrix(
    policy: str, options: dict[str, Any], writes: bool
) -> None:
    """Compared with a linear layer of the same weights, through training, saving and loading."""
    bare = Bare(writes)
    linear = bare.as_linear()
    density = 0.5
    view = WRITES if writes else READS
    pair = []
    for module, tensor, matrix in ((bare, "q", view), (linear, "weight", None)):
        site = Site("layer", "attn.q", 0, module, tensor, matrix)
        pair.append(
            MaskController([site], POLICIES.build(policy, **options), ConstantSchedule(density))
        )
    x = torch.randn(5, H * D if writes else C, generator=torch.Generator().manual_seed(1))
    for update in range(3):
        for module, controller in zip((bare, linear), pair):
            module.train()
            controller.set_num_updates(update)
            module(x).square().mean().backward()
            controller.observe()
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.05 * parameter.grad.sign())
                        parameter.grad = None
    for controller in pair:
        controller.settle()
    masks = [controller.mask_set()["layer"] for controller in pair]
    assert torch.equal(masks[0], by_hand(masks[1], writes))
    assert 0 < int(masks[0].sum()) < masks[0].numel()
    ones = [masked_weight(controller.sites[0]) for controller in pair]
    if ones[1].scores is not None:
        assert ones[0].scores is not None
        torch.testing.assert_close(ones[0].scores, ones[1].scores)
    bare.eval(), linear.eval()
    torch.testing.assert_close(bare(x), linear(x))


@pytest.mark.parametrize("granularity", ["weight", "row", "column"])
def test_a_state_dict_holds_tensors_in_the_shape_of_the_parameter(granularity: str) -> None:
    options = {"granularity": granularity}
    module, again = Bare(False), Bare(False)
    controllers = [
        MaskController(
            [Site("layer", "attn.q", 0, each, "q", READS)],
            POLICIES.build("s3router", **options),
            ConstantSchedule(0.5),
            seed=seed,
        )
        for seed, each in enumerate((module, again))
    ]
    controllers[0].set_num_updates(0)
    state = module.state_dict()
    shapes = {"weight": (C, H, D), "row": (1, H, D), "column": (C, 1, 1)}
    assert state["q_scores"].shape == shapes[granularity]
    again.load_state_dict(state)
    controllers[1].loaded()
    for key, value in again.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_heads_of_a_bare_parameter_stay_or_go_as_a_whole() -> None:
    module = Bare(False)
    site = Site("layer", "attn.q", 0, module, "q", READS)
    views = {"layer": UnitView("the heads of layer 0", 0, H, D)}
    controller = MaskController(
        [site],
        POLICIES.build("s3router", granularity="row", init_score="weight_rank"),
        ConstantSchedule(0.3),
        views=views,
    )
    controller.set_num_updates(0)
    mask = controller.mask_set()["layer"]
    largest = int(module.parametrizations.q.original.abs().sum((0, 2)).argmax())  # type: ignore
    assert mask[:, largest].all() and int(mask.sum()) == mask[:, largest].numel()


@pytest.mark.parametrize("view", [READS, WRITES, MatrixView((2, 0))])
def test_there_and_back(view: MatrixView) -> None:
    tensor = torch.arange(C * H * D).view(C, H, D)
    matrix = view.matrix(tensor)
    assert matrix.dim() == 2
    assert torch.equal(view.tensor(matrix, (C, H, D)), tensor)
    for part in (matrix[:1], matrix[:, :1]):
        spread = view.tensor(part, (C, H, D))
        assert torch.equal(view.matrix(spread.expand(C, H, D)), part.expand_as(matrix))
