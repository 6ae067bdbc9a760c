"""The recipes compose, and the five published command lines are accepted as written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import speechprune.plugin  # noqa: F401  (registers our models)
from speechprune.config.generate import render, rendered

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config"
RECIPES = sorted(
    str(path.relative_to(CONFIG).with_suffix(""))
    for folder in ("finetuning", "xlsr")
    for path in (CONFIG / folder).glob("*.yaml")
)

COMMON = [
    "hydra.run.dir=/gone/outputs",
    "dataset.max_tokens_valid=800000",
    "dataset.max_tokens=1200000",
    "distributed_training.distributed_init_method=tcp://localhost:15460",
    "checkpoint.no_epoch_checkpoints=false",
    "checkpoint.save_interval=1000",
    "optimization.lr=[0.00005]",
]
ENGLISH = ["task.data=/data", "dataset.train_subset=train-1h", "dataset.valid_subset=test-clean"]
MASKS = [
    "model._name=wav2vec_ctc_st",
    "model.prune_rate=0.9",
    "model.fix_attn=true",
    "model.trainable_proj=true",
    "lr_scheduler.final_lr_scale=0.0001",
]
COMMANDS = {
    "base": (
        "finetuning/base_1h",
        ["model.w2v_path=small.pt", *ENGLISH, *COMMON, *MASKS, "model.init_score=weight_rank"],
    ),
    "data2vec": (
        "finetuning/base_1h",
        ["model.w2v_path=audio_base_ls.pt", *ENGLISH, *COMMON, *MASKS, "task.normalize=true"],
    ),
    "xlsr": (
        "xlsr/finetune",
        [
            "task.data=/data",
            "dataset.train_subset=zh_TW-train",
            "dataset.valid_subset=zh_TW-test",
            "model.w2v_path=xlsr2_300m.pt",
            *COMMON,
            *MASKS,
            "model.prune_rate=0.94",
            "model.checkpoint_activations=true",
            "checkpoint.best_checkpoint_metric=uer",
            "model.init_score=weight_rank",
        ],
    ),
    "weights": (
        "finetuning/base_1h",
        ["model.w2v_path=small.pt", *ENGLISH, *COMMON, "model._name=wav2vec_ctc"],
    ),
    "prune": (
        "finetuning/base_1h",
        [
            "model.w2v_path=small.pt",
            *ENGLISH,
            *COMMON,
            "model._name=wav2vec_ctc_st",
            "model.prune_rate=0.3",
            "model.fix_attn=false",
            "model.trainable_proj=true",
            "model.init_score=weight_magnitude_with_scale",
            "checkpoint.finetune_from_model=/gone/checkpoint_best.pt",
        ],
    ),
}
S3_ROUTER_DEFAULTS = {
    "prune_rate": 0.9,
    "no_prune_proj": True,
    "no_prune_extractor": True,
    "no_prune_pos": True,
    # The original's class says false, but every recipe of its authors says true: with
    # `fix_attn=true` only fc1 and fc2 are masked.
    "no_prune_post_extract_proj": True,
    "trainable_bias": False,
    "trainable_layer_norm": False,
    "trainable_pos": False,
    "trainable_proj": False,
    "trainable_post_extract_proj": False,
    "trainable_if_unpruned": False,
    "init_score": "kaiming_uniform",
    "init_score_scale": 1.0,
    "fix_attn": False,
    "fix_fc": False,
    "layerwise_prune_rate": [],
    "fc_attn_prune_rate": [],
    "co_train": False,
    "ste_sigmoid": False,
    "linear_st_op": "linear_st",
    "fix_mask": False,
    "fix_mask_before": None,
    "load_mask_only": False,
    "load_mask_before": None,
    "eval_only": False,
}


def compose(config: str, overrides: list[str]) -> DictConfig:
    """What ``fairseq-hydra-train OVERRIDES --config-dir ... --config-name ...`` composes."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    folder, name = config.split("/")
    hydra_init(name)
    with initialize_config_dir(str(CONFIG / folder), version_base="1.1"):
        cfg = hydra_compose(config_name=name, overrides=overrides)
    add_defaults(cfg)
    return cfg


def value(cfg: DictConfig, key: str) -> object:
    found = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_published_command_lines_are_accepted_as_written(command: str) -> None:
    config, overrides = COMMANDS[command]
    cfg = compose(config, overrides)
    last = dict(o.split("=", 1) for o in overrides if not o.startswith("hydra."))
    for key, text in last.items():
        assert value(cfg, key) == value(OmegaConf.from_dotlist([f"{key}={text}"]), key), key
    assert cfg.optimization.max_update == (13000 if command == "xlsr" else 15000)
    assert cfg.optimizer.lr == [0.00005]
    assert cfg.dataset.required_batch_size_multiple == 1
    assert cfg.model.normalize == (command in ("data2vec", "xlsr"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_the_original_one(recipe: str) -> None:
    cfg = compose(recipe, ["task.data=/data", "model.w2v_path=small.pt"])
    size, _, amount = recipe.split("/")[1].partition("_")
    updates = {"10m": 13000, "1h": 15000, "10h": 20000, "": 13000}[amount]
    expected = {
        "optimization.max_update": updates,
        "optimization.lr": [0.00005],
        "optimization.update_freq": [4],
        "optimization.sentence_avg": True,
        "optimizer._name": "adam",
        "lr_scheduler._name": "tri_stage",
        "lr_scheduler.phase_ratio": [0.1, 0.4, 0.5],
        "lr_scheduler.max_update": updates,
        "common.fp16": True,
        "distributed_training.distributed_world_size": 2,
        "dataset.required_batch_size_multiple": 1,
        "dataset.validate_after_updates": 0,
        "criterion._name": "ctc",
        "criterion.zero_infinity": True,
        "task._name": "audio_finetuning",
        "task.labels": "ltr",
        "task.normalize": size != "base",
        "model._name": "wav2vec_ctc_st",
        "model.apply_mask": True,
        "model.dropout": 0.1,
        "model.attention_dropout": 0.1,
        "model.freeze_finetune_updates": 0,
        "model.data": "/data",
    }
    for key, wanted in expected.items():
        assert value(cfg, key) == wanted, key
    assert ast.literal_eval(str(cfg.optimizer.adam_betas)) == (0.9, 0.98)
    for flag, wanted in S3_ROUTER_DEFAULTS.items():
        assert value(cfg, f"model.{flag}") == wanted, flag
    assert 0 < cfg.dataset.validate_interval_updates <= updates // 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_plain_weights_too(recipe: str) -> None:
    overrides = ["task.data=/data", "model.w2v_path=small.pt", "model._name=wav2vec_ctc"]
    cfg = compose(recipe, overrides)
    assert cfg.model._name == "wav2vec_ctc"
    assert cfg.model.dropout == 0.1
    assert cfg.model.data == "/data"


def test_the_random_head_of_the_demo_learns() -> None:
    overrides = ["task.data=/data", "model.w2v_path=small.pt"]
    assert value(compose("demo/nano", overrides), "model.trainable_proj") is True


def test_the_files_are_current() -> None:
    """`make configs` would write them as they are."""
    for path, text in rendered().items():
        assert path.read_text(encoding="utf-8") == text, path
    written = {*CONFIG.glob("*/*.yaml")} - set(rendered())
    assert {path.parent.name for path in written} == {"pretraining", "sweeps"}


def test_a_key_that_the_template_lacks_is_refused() -> None:
    with pytest.raises(KeyError, match="model.dropot"):
        render("model:\n  dropout: 0.1  # a share\n", {"model.dropot": "0.2"})
    assert render("model:\n  dropout: 0.1  # a share\n", {"model.dropout": "0.2"}) == (
        "model:\n  dropout: 0.2  # a share\n"
    )


def test_all_recipes_are_there() -> None:
    sizes = [f"finetuning/{m}_{a}" for m in ("base", "vox") for a in ("10m", "1h", "10h")]
    assert RECIPES == sorted([*sizes, "xlsr/finetune"])


def test_every_key_of_a_recipe_is_known_to_fairseq_or_to_masks() -> None:
    """A key that nobody reads would be a misspelt one: fairseq drops those silently."""
    from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig

    from speechprune.models.layer_flags import LayerFlags
    from speechprune.models.pruning_flags import PruningFlags
    from speechprune.models.slim_flags import SlimFlags

    others = (LayerFlags(), PruningFlags(), SlimFlags())
    own = {**S3_ROUTER_DEFAULTS, **{flag: None for flags in others for flag in vars(flags)}}
    known = {"_name", *Wav2Vec2CtcConfig.__dataclass_fields__, *own}
    for recipe in RECIPES:
        model = OmegaConf.load(CONFIG / f"{recipe}.yaml").model
        assert set(model) <= known, recipe
        assert set(S3_ROUTER_DEFAULTS) <= set(model), recipe


@pytest.mark.parametrize("config", ["labels/base", "demo/nano_labels"])
def test_configs_for_labels_are_whole(config: str) -> None:
    """The settings of models are those of all configs, and those of the task and criterion ours."""
    from speechprune.criterions.config import LabelsConfig
    from speechprune.tasks.audio_labels import AudioLabelsConfig

    own, other = (OmegaConf.load(CONFIG / f"{name}.yaml") for name in (config, "demo/nano"))
    assert set(own.model) == set(other.model)
    interpolated = {"sample_rate", "seed", "train_subset", "_name"}
    assert set(own.task) - {"_name"} == set(AudioLabelsConfig.__dataclass_fields__) - interpolated
    assert set(own.criterion) == set(LabelsConfig.__dataclass_fields__)
    overrides = ["task.data=/data", "model.w2v_path=small.pt"]
    cfg = compose(config, overrides)
    assert value(cfg, "checkpoint.maximize_best_checkpoint_metric") is True
    assert value(cfg, "model.trainable_proj") is True and value(cfg, "model.data") == "/data"
