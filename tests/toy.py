"""A model small enough to check by hand, with the ways in which speech models use their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import MaskPolicy
from speechprune.masking.schedule import ConstantSchedule
from speechprune.masking.sites import Site

CHANNELS = 12
SITES = (
    ("conv.weight", "front.conv"),
    ("attention.in_proj_weight", "attn.q"),
    ("attention.out_proj.weight", "attn.out"),
    ("gate.weight", "front.proj"),
    ("fc1.weight", "ffn.in"),
    ("fc2.weight", "ffn.out"),
)


class Toy(nn.Module):
    """Audio (B, T) -> (B, T, 5).

    Like fairseq's attention, ``attention`` and the gate use weights of modules that nobody calls.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv1d(4, CHANNELS, 3, padding=1)
            self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)
            self.gate = nn.Linear(CHANNELS, CHANNELS)
            self.fc1 = nn.Linear(CHANNELS, 2 * CHANNELS)
            self.fc2 = nn.Linear(2 * CHANNELS, CHANNELS)
            self.head = nn.Linear(CHANNELS, 5)

    def forward(self, audio: Tensor) -> Tensor:
        four = torch.stack([audio, audio.abs(), audio.square(), audio.roll(1, -1)], dim=1)
        x = F.gelu(self.conv(four)).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x * F.linear(x, self.gate.weight, self.gate.bias).sigmoid()
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x)


class MaskedToy(Toy):
    """`Toy` with masks; only the head, the scores and what the policy trains are trainable."""

    def __init__(
        self,
        policy: MaskPolicy,
        density: float = 0.5,
        *,
        seed: int = 0,
        weights: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(seed)
        with torch.no_grad():
            for name, _ in SITES:
                weight = self.get_parameter(name)
                weight.copy_(weight if weights is None else weights(weight))
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        self.put_masks(policy, density, **options)

    def put_masks(self, policy: MaskPolicy, density: float, **options: Any) -> None:
        """Mask every site; ``options`` are those of the controller."""
        sites = options.pop("sites", None) or toy_sites(self)
        self.mask_controller = MaskController(sites, policy, ConstantSchedule(density), **options)

    @property
    def sites(self) -> list[Site]:
        return self.mask_controller.sites

    def masks(self) -> dict[str, Tensor]:
        """A copy of every mask, in the shape of the scores."""
        return {site.name: masked_weight(site).mask.clone() for site in self.sites}

    def scores(self) -> dict[str, Tensor]:
        """The scores themselves, of the sites that have some."""
        found = {site.name: masked_weight(site).scores for site in self.sites}
        return {name: scores for name, scores in found.items() if scores is not None}

    def originals(self) -> dict[str, Tensor]:
        """A copy of every unmasked weight."""
        return {site.name: original_weight(site).detach().clone() for site in self.sites}


def toy_sites(model: Toy) -> list[Site]:
    """Every tensor of a toy that can have a mask."""
    sites = []
    for name, role in SITES:
        owner, _, tensor = name.rpartition(".")
        sites.append(Site(name, role, None, model.get_submodule(owner), tensor))
    return sites


def toy_batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Audio (3, 20) and a target (3, 20, 5)."""
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(3, 20, generator=generator)
    target = torch.randn(3, 20, 5, generator=generator)
    return audio.to(dtype), target.to(dtype)


def toy_loss(model: nn.Module, seed: int = 0) -> Tensor:
    """The loss on one batch, in the model's precision."""
    audio, target = toy_batch(seed, next(model.parameters()).dtype)
    return F.mse_loss(model(audio).float(), target.float())


class SignDescent:
    """Steps of one length, against the sign of the gradient: connections flip at every update.

    `torch.optim` would import torch's compiler, which takes longer than these tests.
    """

    def __init__(self, model: nn.Module, lr: float = 0.05) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.lr = lr

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.sub_(self.lr * parameter.grad.sign())


def train_update(
    model: MaskedToy, optimizer: SignDescent, update: int, micro_batches: int = 2
) -> None:
    """One update as fairseq makes it: masks, forward and backward per micro-batch; then a step."""
    model.train()
    optimizer.zero_grad()
    for index in range(micro_batches):
        model.mask_controller.set_num_updates(update)
        toy_loss(model, micro_batches * update + index).backward()
    model.mask_controller.observe()
    optimizer.step()


def train(model: MaskedToy, updates: int) -> MaskedToy:
    """``model`` after some updates."""
    optimizer = SignDescent(model)
    for update in range(updates):
        train_update(model, optimizer, update)
    return model


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    """What the model makes of one batch in evaluation mode; the model stays in that mode."""
    model.eval()
    return model(toy_batch(99, next(model.parameters()).dtype)[0])


def kept_of(numel: int, density: float) -> int:
    """How many entries are kept, in the float arithmetic of S3-Router's code."""
    return numel - int((1 - density) * numel)


def top(importance: Tensor, count: int) -> Tensor:
    """The mask of the largest entries by a stable sort: equal ones rank by index."""
    order = importance.detach().flatten().float().sort(descending=True, stable=True).indices
    mask = torch.zeros(importance.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(importance.shape)


def load_backbone(path: Path, **overrides: Any) -> nn.Module:
    """The pretrained model of `nano.py` at ``path``, built by fairseq's own class."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
    from omegaconf import OmegaConf

    import speechprune  # noqa: F401

    state = torch.load(path, weights_only=True)
    settings = {**state["cfg"]["model"], **overrides}
    name = settings.pop("_name")
    schema = OmegaConf.structured(MODEL_DATACLASS_REGISTRY[name])
    model = MODEL_REGISTRY[name].build_model(OmegaConf.merge(schema, settings), None)
    model.remove_pretraining_modules()
    weights = {key: value for key, value in state["model"].items() if key != "_ema"}
    found = model.load_state_dict(weights, strict=False)
    assert not found.missing_keys, found.missing_keys
    return model.eval()
