"""Very small models and corpora in the files that fairseq writes: random weights, real layouts."""

from __future__ import annotations

import io
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

SAMPLE_RATE = 16000
LETTERS = "ABCDE"
LETTER_SECONDS = 0.1
CONV_FEATURE_LAYERS = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2"


def write_wav2vec2(
    path: Path,
    *,
    layer_norm_first: bool = False,
    extractor_mode: str = "default",
    normalize: bool = False,
    layers: int = 2,
    seed: int = 0,
) -> Path:
    """A pretrained wav2vec 2.0 with random weights: 32 channels, 4 heads, FFN width 64.

    ``layer_norm_first=True, extractor_mode="layer_norm", normalize=True`` is shaped like XLS-R.
    """
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

    settings = {
        **_encoder_settings(layers),
        "_name": "wav2vec2",
        "extractor_mode": extractor_mode,
        "layer_norm_first": layer_norm_first,
        "conv_bias": layer_norm_first,
        "quantize_targets": True,
        "final_dim": 16,
        "latent_vars": 4,
    }
    model = _build(Wav2Vec2Model, settings, seed)
    return _write_pretrained(path, settings, model.state_dict(), normalize)


def write_data2vec(path: Path, *, normalize: bool = True, layers: int = 2, seed: int = 0) -> Path:
    """A pretrained data2vec audio with random weights, with its teacher under ``model["_ema"]``.

    Written without data2vec's class: its tensors are wav2vec 2.0's, less the quantizer's.
    """
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

    settings = {
        **_encoder_settings(layers),
        "_name": "data2vec_audio",
        "extractor_mode": "layer_norm",
        "conv_pos": 15,
        "pos_conv_depth": 5,
    }
    weights = _build(Wav2Vec2Model, settings, seed).state_dict()
    weights = {k: v for k, v in weights.items() if not k.startswith("project_q")}
    teacher = {
        k[len("encoder.") :]: v.clone() for k, v in weights.items() if k.startswith("encoder.")
    }
    settings.update(average_top_k_layers=layers, ema_anneal_end_step=1000, max_update=1000)
    return _write_pretrained(path, settings, {**weights, "_ema": teacher}, normalize)


def write_hubert(
    path: Path,
    *,
    layer_norm_first: bool = False,
    extractor_mode: str = "default",
    conv_pos_batch_norm: bool = False,
    normalize: bool = False,
    layers: int = 2,
    seed: int = 0,
    with_task_state: bool = True,
) -> Path:
    """A pretrained HuBERT with random weights, written by fairseq's own classes.

    ``layer_norm_first=True, extractor_mode="layer_norm", normalize=True`` is shaped like the large
    one. The folder of its targets is gone; published files have their dictionaries in `task_state`.
    """
    from fairseq.data.dictionary import Dictionary
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
    from omegaconf import OmegaConf

    targets = Dictionary()
    for unit in range(10):
        targets.add_symbol(str(unit))
    task = {
        **_defaults(HubertPretrainingConfig),
        "_name": "hubert_pretraining",
        "data": "/pretraining/data/that/is/gone",
        "label_dir": "/targets/that/are/gone",
        "labels": ["km"],
        "label_rate": 50.0,
        "sample_rate": SAMPLE_RATE,
        "normalize": normalize,
    }
    settings = {
        **_defaults(HubertConfig),
        **_encoder_settings(layers),
        "_name": "hubert",
        "label_rate": 50.0,
        "conv_pos_batch_norm": conv_pos_batch_norm,
        "extractor_mode": extractor_mode,
        "layer_norm_first": layer_norm_first,
        "final_dim": 16,
        "untie_final_proj": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = {key: value for key, value in settings.items() if key != "_name"}
        cfg = OmegaConf.merge(OmegaConf.structured(HubertConfig), known)
        model = HubertModel(cfg, OmegaConf.create(task), [targets])
    criterion = {"_name": "hubert", "pred_masked_weight": 1.0}
    sections = {"task": task, "model": settings, "criterion": criterion, "lr_scheduler": None}
    state = _state(sections, model.state_dict())
    if with_task_state:
        state["task_state"] = {"dictionaries": [targets]}
    torch.save(state, path)
    return path


def write_finetuned(
    path: Path,
    pretrained: Path,
    data: Path,
    *,
    model: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """An untrained CTC model on ``pretrained``, in the file that fairseq saves while training.

    Args:
        data: a folder of :func:`write_corpus`, or one that suits the task.
        model: settings of the model; ``_name`` is `wav2vec_ctc` unless it says otherwise.
        task: settings of the task, if it is another one than `audio_finetuning`.
    """
    from fairseq import tasks
    from omegaconf import OmegaConf

    import speechprune.plugin  # noqa: F401  (its classes are safe to load)

    state = torch.load(pretrained, weights_only=True)
    normalize = state["cfg"]["task"]["normalize"] if state.get("cfg") else state["args"].normalize
    shared = {"normalize": normalize, "data": str(data)}
    cfg = OmegaConf.create(
        {
            "common": {"seed": seed, "tpu": False, "user_dir": "/user/dir/that/is/gone"},
            "checkpoint": {
                "finetune_from_model": None,
                "save_dir": "checkpoints",
                "restore_file": "checkpoint_last.pt",
            },
            "distributed_training": {"ddp_backend": "legacy_ddp"},
            "optimization": {"sentence_avg": True},
            "criterion": {"_name": "ctc", "zero_infinity": True},
            "task": {**(task or {"_name": "audio_finetuning", "labels": "ltr"}), **shared},
            "model": {
                "_name": "wav2vec_ctc",
                "w2v_path": str(pretrained),
                **shared,
                **(model or {}),
            },
        }
    )
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        torch.manual_seed(seed)
        setup = tasks.setup_task(cfg.task)
        cfg.task = setup.cfg
        built = setup.build_model(cfg.model)
        cfg.model = built.cfg
    state = _state(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True), built.state_dict())
    torch.save({**state, "task_state": setup.state_dict()}, path)
    return path


def rewrite_as_of_2020(path: Path) -> Path:
    """Turn a checkpoint into the layout of 2020: no archive, and one flat namespace `args`."""
    state = torch.load(path, weights_only=True)
    cfg = state.pop("cfg")
    pretrained = cfg["model"].get("w2v_args")
    state["args"] = _flat_namespace(cfg)
    if pretrained is not None:
        state["args"].w2v_args = _flat_namespace(pretrained)
        state["args"].task = "audio_pretraining"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def _flat_namespace(cfg: dict[str, Any]) -> Namespace:
    flat: dict[str, Any] = {}
    for section in cfg.values():
        flat.update({k: v for k, v in (section or {}).items() if k != "_name"})
    names = {"task": "task", "model": "arch", "criterion": "criterion"}
    flat.update({key: cfg[section]["_name"] for section, key in names.items() if cfg.get(section)})
    return Namespace(**flat)


def write_corpus(
    folder: Path,
    *,
    train: int = 6,
    valid: int = 4,
    sample_rate: int = SAMPLE_RATE,
    seed: int = 0,
) -> Path:
    """Manifests, transcripts and audio of two subsets, ``train`` and ``valid``: each letter a tone.

    An utterance is two to four words of two to four letters (A to E), 0.1 s per letter or gap.
    """
    generator = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for subset, count in (("train", train), ("valid", valid)):
        sentences = [_sentence(generator) for _ in range(count)]
        rows = [str(folder / "audio")]
        for index, sentence in enumerate(sentences):
            audio = _speak(sentence, sample_rate, generator)
            name = f"{subset}-{index}.wav"
            soundfile.write(folder / "audio" / name, audio, sample_rate)
            rows.append(f"{name}\t{len(audio)}")
        _write_lines(folder / f"{subset}.tsv", rows)
        _write_lines(folder / f"{subset}.wrd", sentences)
        _write_lines(folder / f"{subset}.ltr", [_letters(s) for s in sentences])
    _write_lines(folder / "dict.ltr.txt", [f"{symbol} 1" for symbol in "|" + LETTERS])
    return folder


def _encoder_settings(layers: int) -> dict[str, Any]:
    return {
        "encoder_layers": layers,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 4,
        "conv_feature_layers": CONV_FEATURE_LAYERS,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    }


def _build(model_class: type, settings: dict[str, Any], seed: int) -> torch.nn.Module:
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
    from omegaconf import OmegaConf

    known = {k: v for k, v in settings.items() if k != "_name"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), known))


def _defaults(settings: type) -> dict[str, Any]:
    """The defaults of a dataclass of settings, less those that other groups give."""
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)
    return {k: v for k, v in container.items() if not str(v).startswith(("${", "???"))}


def _write_pretrained(
    path: Path, settings: dict[str, Any], weights: dict[str, Any], normalize: bool
) -> Path:
    task = {
        "_name": "audio_pretraining",
        "data": "/pretraining/data/that/is/gone",
        "sample_rate": SAMPLE_RATE,
        "normalize": normalize,
        "enable_padding": False,
        "max_sample_size": 250000,
        "min_sample_size": 32000,
    }
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config

    criterion = {"_name": "wav2vec", "infonce": True, "log_keys": ["prob_perplexity"]}
    # fairseq overrides only the settings that a checkpoint names; real ones name all.
    model = {**_defaults(Wav2Vec2Config), **settings}
    cfg = {"task": task, "model": model, "criterion": criterion, "lr_scheduler": None}
    torch.save(_state(cfg, weights), path)
    return path


def _state(cfg: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    history = {
        "criterion_name": cfg["criterion"]["_name"],
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 1,
    }
    return {
        "args": None,
        "cfg": cfg,
        "model": weights,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }


def _sentence(generator: np.random.Generator) -> str:
    words = []
    for _ in range(generator.integers(2, 5)):
        size = generator.integers(2, 5)
        words.append("".join(LETTERS[i] for i in generator.integers(0, len(LETTERS), size)))
    return " ".join(words)


def _letters(sentence: str) -> str:
    return " ".join(sentence.replace(" ", "|")) + " |"


def _speak(sentence: str, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    time = np.arange(int(LETTER_SECONDS * sample_rate)) / sample_rate
    pieces = []
    for letter in f" {sentence} ":
        frequency = 0.0 if letter == " " else 300.0 * (1 + LETTERS.index(letter))
        pieces.append(0.3 * np.sin(2 * np.pi * frequency * time))
    audio = np.concatenate(pieces)
    return (audio + 0.01 * generator.standard_normal(len(audio))).astype(np.float32)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
