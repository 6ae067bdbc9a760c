"""fp32 training of `wav2vec_ctc_st` by fairseq's trainer, against S3-Router written by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import write_corpus, write_data2vec, write_wav2vec2
from omegaconf import DictConfig
from s3router_by_hand import EPSILON, Experiment, Reference
from torch import Tensor, nn

import speechprune.plugin  # noqa: F401
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.state_names import key_of

CONFIG = Path(__file__).resolve().parents[2] / "config" / "finetuning"
UPDATES = 6
SEED = 1  # of the new CTC head
MICRO_BATCHES = 2
LEARNING_RATE = 0.01
DETERMINISTIC = [
    *(f"model.{name}=0.0" for name in ("dropout", "attention_dropout", "activation_dropout")),
    "model.layerdrop=0.0",
    "model.mask_prob=0.0",
    "model.mask_channel_prob=0.0",
]


ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
EXPERIMENTS = {
    "ffn": Experiment(["fix_attn=true", "prune_rate=0.9", "init_score=weight_rank"]),
    "everything": Experiment(
        ["fix_attn=false", "prune_rate=0.3", "init_score=weight_magnitude_with_scale"],
        roles=(*ATTENTION, "fc1", "fc2"),
        rates={"": 0.3},
    ),
    "front": Experiment(
        [
            "fix_fc=true",
            "no_prune_post_extract_proj=false",
            "prune_rate=0.5",
            "fc_attn_prune_rate=[0.2,0.6]",
        ],
        roles=(*ATTENTION, "post_extract_proj"),
        rates={"layers": 0.6, "": 0.5},
    ),
    "rows": Experiment(
        ["fix_attn=false", "prune_rate=0.7", "linear_st_op=linear_st_outstr"],
        roles=(*ATTENTION, "fc1", "fc2"),
        rates={"": 0.7},
        shared="row",
    ),
    "columns": Experiment(
        ["fix_attn=true", "linear_st_op=linear_st_instr", "layerwise_prune_rate=[0.4,0.8]"],
        rates={"layers.0": 0.4, "layers.1": 0.8},
        shared="column",
    ),
    "sigmoid": Experiment(
        ["fix_attn=false", "prune_rate=0.5", "ste_sigmoid=true"],
        roles=(*ATTENTION, "fc1", "fc2"),
        rates={"": 0.5},
        sigmoid=True,
    ),
    "co_train": Experiment(
        ["fix_attn=true", "prune_rate=0.8", "co_train=true"], rates={"": 0.8}, train_everything=True
    ),
    "positions": Experiment(
        ["fix_attn=true", "no_prune_pos=false", "prune_rate=0.6"],
        roles=("fc1", "fc2", "0"),
        rates={"": 0.6},
    ),
    "positions_co_trained": Experiment(
        ["fix_attn=true", "no_prune_pos=false", "prune_rate=0.6", "co_train=true"],
        roles=("fc1", "fc2", "0"),
        rates={"": 0.6},
        train_everything=True,
    ),
    "whole_outside": Experiment(
        [
            "fix_attn=true",
            "no_prune_post_extract_proj=false",
            "prune_rate=0.5",
            "layerwise_prune_rate=[0.4,0.8]",
        ],
        roles=("fc1", "fc2", "post_extract_proj"),
        rates={"layers.0": 0.4, "layers.1": 0.8, "": 1.0},
    ),
    "rows_and_head": Experiment(
        [
            "fix_attn=true",
            "no_prune_proj=false",
            "no_prune_post_extract_proj=false",
            "prune_rate=0.5",
            "linear_st_op=linear_st_outstr",
        ],
        roles=("fc1", "fc2", "post_extract_proj", "proj"),
        rates={"": 0.5},
        shared="row",
    ),
    "recomputed": Experiment(
        ["fix_attn=false", "prune_rate=0.6", "checkpoint_activations=true"],
        roles=(*ATTENTION, "fc1", "fc2"),
        rates={"": 0.6},
    ),
    "xlsr": Experiment(
        ["fix_attn=false", "prune_rate=0.9"],
        roles=(*ATTENTION, "fc1", "fc2"),
        pretrained="xlsr",
    ),
    "data2vec": Experiment(["fix_attn=true", "prune_rate=0.9"], pretrained="data2vec"),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and a pretrained model of each kind."""
    folder = tmp_path_factory.mktemp("reference")
    write_corpus(folder / "data", train=6, valid=1)
    write_wav2vec2(folder / "base.pt")
    write_wav2vec2(
        folder / "xlsr.pt", layer_norm_first=True, extractor_mode="layer_norm", normalize=True
    )
    write_data2vec(folder / "data2vec.pt")
    return folder


def compose(lab: Path, experiment: Experiment) -> DictConfig:
    """The config of a run on a CPU, through hydra as fairseq's command does it."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    normalize = str(experiment.pretrained != "base").lower()
    overrides = [
        f"task.data={lab / 'data'}",
        f"task.normalize={normalize}",
        f"model.w2v_path={lab / experiment.pretrained}.pt",
        "common.cpu=true",
        "common.fp16=false",
        "distributed_training.distributed_world_size=1",
        f"optimization.update_freq=[{MICRO_BATCHES}]",
        f"optimization.max_update={UPDATES}",
        f"optimization.lr=[{LEARNING_RATE}]",
        f"optimizer.adam_eps={EPSILON}",
        "model.trainable_proj=true",
        *DETERMINISTIC,
        *(f"model.{flag}" for flag in experiment.flags),
    ]
    hydra_init("base_1h")
    with initialize_config_dir(str(CONFIG), version_base="1.1"):
        cfg = hydra_compose(config_name="base_1h", overrides=overrides)
    add_defaults(cfg)
    return cfg


def micro_batches(task: Any, update: int) -> list[dict[str, Any]]:
    """Two batches of three utterances of different lengths, in another order at each update."""
    dataset = task.dataset("train")
    order = [(update + index * (1 + update % 2 * 4)) % 6 for index in range(6)]
    return [dataset.collater([dataset[index] for index in order[i : i + 3]]) for i in (0, 3)]


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_training_follows_the_reference(lab: Path, name: str) -> None:
    experiment = EXPERIMENTS[name]
    trainer, task, reference = start(lab, experiment)
    sites = {key_of(site.name): site for site in trainer.model.mask_controller.sites}
    assert sorted(sites) == sorted(expected_sites(reference.model, experiment))
    flips = 0
    for update in range(UPDATES):
        batches = micro_batches(task, update)
        lr = trainer.lr_step_update()
        before = {key: mask.clone() for key, mask in reference.masks.items()}
        trainer.train_step(copy.deepcopy(batches))
        reference.update(batches, lr)
        for key, site in sites.items():
            masked = masked_weight(site)
            assert torch.equal(masked.mask, reference.masks[key]), (update, key)
            assert_close(masked.scores, reference.scores[key], (update, key))
            assert_close(original_weight(site), reference.weights[key], (update, key))
            if before:
                flips += int((before[key] ^ reference.masks[key]).sum())
        state = trainer.model.state_dict()
        for key, parameter in reference.model.named_parameters():
            if key not in sites:
                assert_close(state[key], parameter, (update, key))
        for key, parts in reference.norms.items():
            for part, value in zip("gv", parts):
                assert_close(state[f"{key}_{part}"], value, (update, key))
    assert flips >= UPDATES
    validated_network_is_the_next_one(trainer, reference, batches[0])


def validated_network_is_the_next_one(
    trainer: Any, reference: Reference, batch: dict[str, Any]
) -> None:
    """After the last update, evaluation computes with the masks of the scores as they now are."""
    reference.choose_masks()
    models = trainer.model.eval(), reference.model.eval()
    with torch.no_grad():
        ours, theirs = (model(**batch["net_input"])["encoder_out"] for model in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def expected_sites(model: nn.Module, experiment: Experiment) -> list[str]:
    """Names of the weights that the flags put a mask on, found in the stock model."""
    names = [n for n, _ in model.named_parameters() if n.endswith(".weight")]
    names = [name for name in names if "feature_extractor" not in name]
    return [name for name in names if name.split(".")[-2] in experiment.roles]


def start(lab: Path, experiment: Experiment) -> tuple[Any, Any, Reference]:
    """fairseq's trainer on our model, its task, and the reference started from the same values."""
    from fairseq import tasks
    from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
    from fairseq.trainer import Trainer

    cfg = compose(lab, experiment)
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train")
    torch.manual_seed(SEED)
    stock_cfg = copy.deepcopy(cfg.model)
    model = task.build_model(cfg.model)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    trainer.lr_step_begin_epoch(1)

    stock = Wav2VecCtc.build_model(stock_cfg, task)
    state = model.state_dict()
    scores = {
        key[: -len("scores")] + "weight": value.clone()
        for key, value in state.items()
        if key.endswith(".scores")
    }
    plain = {key: value.clone() for key, value in state.items() if key in stock.state_dict()}
    assert plain.keys() == stock.state_dict().keys()
    stock.load_state_dict(plain)
    return trainer, task, Reference(stock.train(), experiment, scores)


def assert_close(found: Tensor, expected: Tensor, where: Any) -> None:
    """Equal but for the rounding of fp32 in sums."""
    torch.testing.assert_close(
        found.detach(), expected.detach(), rtol=1e-4, atol=2e-5, msg=lambda text: f"{where}: {text}"
    )
