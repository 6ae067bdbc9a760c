"""A folder of Hugging Face's as a checkpoint of fairseq's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq.data.dictionary import Dictionary
from torch import Tensor

from speechprune import __version__
from speechprune.checkpoint.file import PROVENANCE, PathLike, write
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.checkpoint.training_state import HISTORY
from speechprune.decoding.greedy import spells_words
from speechprune.errors import UserError
from speechprune.exporting.comparing import (
    TOLERANCE,
    Hear,
    heard,
    largest_difference,
    refuse_difference,
)
from speechprune.exporting.hearing import fairseq_hears, transformers_hears
from speechprune.exporting.huggingface_config import (
    default_settings,
    finetuning_settings,
    quantizer_of_config,
    quantizer_settings,
    settings_of,
    training_settings,
)
from speechprune.exporting.huggingface_folder import HuggingFaceFolder, read_folder
from speechprune.exporting.huggingface_names import (
    PROJECTION,
    SPAN_EMBEDDING,
    Named,
    ctc_head_names,
    encoder_names,
    fitting,
    quantizer_names,
)
from speechprune.exporting.huggingface_vocabulary import Outputs, outputs_of
from speechprune.files import check_output, folder_beside, put_copy, refuse_to_replace
from speechprune.huggingface.availability import prepare_transformers
from speechprune.models.names import WEIGHTS
from speechprune.state_names import ENCODER, FINETUNED, MASK_EMBEDDING

#: The output layer of a CTC model.
_CTC_HEAD = ("lm_head.weight", "lm_head.bias")


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        out: the checkpoint.
        family: what fairseq calls the encoder.
        is_finetuned: whether it has a CTC head.
        left_out: tensors of other heads, for which fairseq has no place.
        has_span_embedding: whether the folder had one for masked spans; else it is zeros.
        difference: the largest between the outputs of both models.
    """

    out: Path
    family: str
    is_finetuned: bool
    left_out: tuple[str, ...]
    has_span_embedding: bool
    difference: float


def import_huggingface(
    folder: PathLike, out: PathLike, *, tolerance: float = TOLERANCE
) -> Imported:
    """Write the model in a folder of Hugging Face's as a checkpoint of fairseq's.

    A CTC model becomes a finetuned one, with its dictionary; all others become pretrained ones, fit
    for `model.w2v_path`: that of wav2vec 2.0 with its quantizer, if the folder has one. Tensors
    keep their types. The checkpoint is loaded and compared with what transformers makes of the
    same tensors before it is put at ``out``.

    Args:
        tolerance: the largest difference of outputs.

    Raises:
        UserError: transformers is missing; the folder cannot be read, or its configuration, its
            tensors and its vocabulary do not fit each other; fairseq has no such network; the
            outputs differ; or ``out`` cannot be written.
    """
    check_output(out)
    prepare_transformers()
    source = read_folder(folder)
    refuse_to_replace(out, source.weights)
    outputs = _outputs(source) if any(name in source.heads for name in _CTC_HEAD) else None
    named = [str(name) for name in getattr(source.config, "architectures", None) or ()]
    if outputs is None and any(name.endswith("ForCTC") for name in named):
        raise UserError(
            f"{source.path} says that its model is {', '.join(named)}, but its weights have no "
            f"{' or '.join(_CTC_HEAD)}; download the folder again"
        )
    state, used = _pretrained(source) if outputs is None else _finetuned(source, outputs)
    state[PROVENANCE] = {"version": __version__, "imported_from": source.digest}
    with folder_beside(out) as temporary:
        write(state, temporary / "checkpoint.pt")
        theirs = _theirs(source, outputs)
        difference = largest_difference(
            heard(fairseq_hears(temporary / "checkpoint.pt")), heard(theirs)
        )
        refuse_difference(folder, difference, tolerance, what="the checkpoint")
        put_copy(temporary / "checkpoint.pt", out)
    return Imported(
        Path(out),
        source.network.family,
        outputs is not None,
        tuple(sorted(set(source.heads) - used)),
        SPAN_EMBEDDING in source.encoder,
        difference,
    )


def _pretrained(source: HuggingFaceFolder) -> tuple[dict[str, Any], set[str]]:
    """The state of a pretrained checkpoint, and the names of heads that are in it."""
    weights, settings = _encoder(source), _encoder_settings(source)
    names: list[Named] = []
    if source.network.family == "wav2vec2" and "quantizer.codevectors" in source.heads:
        quantizer = quantizer_of_config(source.config, source.path)
        names = quantizer_names(source.network, quantizer)
        settings.update(quantizer_settings(quantizer))
    for each in names:
        weights[each.fairseq] = fitting(source.heads, each.hugging_face, each, source.path)
    state = pretrained_state(weights, _task(source), settings, updates=0)
    return state, {each.hugging_face for each in names}


def _finetuned(source: HuggingFaceFolder, outputs: Outputs) -> tuple[dict[str, Any], set[str]]:
    """The same of a finetuned one."""
    encoder, settings = _encoder(source), _encoder_settings(source)
    names = ctc_head_names(source.network, source.config.vocab_size)
    head = {
        FINETUNED + each.fairseq: outputs.ordered(
            fitting(source.heads, each.hugging_face, each, source.path),
            is_bias=len(each.shape) == 1,
        )
        for each in names
    }
    weights = {**{ENCODER + name: tensor for name, tensor in encoder.items()}, **head}
    pretraining = pretrained_state({}, _task(source), settings, updates=0)["cfg"]
    state = _finetuned_state(source, weights, outputs.dictionary, pretraining)
    return state, {each.hugging_face for each in names}


def _finetuned_state(
    source: HuggingFaceFolder,
    weights: Mapping[str, Tensor],
    dictionary: Dictionary,
    pretraining: Mapping[str, Any],
) -> dict[str, Any]:
    """As fairseq saves it when it finetunes, without paths and without a state of training."""
    normalize, rate = source.listening()
    training = training_settings(source.config, source.path / "config.json")
    task = {
        "_name": "audio_finetuning",
        "data": ".",
        "labels": "ltr" if spells_words(dictionary) else "phn",
        "normalize": normalize,
        "sample_rate": rate,
    }
    model = {
        **default_settings(WEIGHTS),
        **finetuning_settings(training, source.config, source.path),
        "_name": WEIGHTS,
        "data": ".",
        "normalize": normalize,
        "w2v_path": "",
        "w2v_args": dict(pretraining),
    }
    return {
        "args": None,
        "cfg": {
            "common": {"seed": 1, "user_dir": None},
            "task": task,
            "model": model,
            "criterion": {"_name": "ctc", "zero_infinity": True},
        },
        "model": dict(weights),
        "criterion": None,
        "optimizer_history": [dict(HISTORY)],
        "task_state": {"target_dictionary": dictionary},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }


def _task(source: HuggingFaceFolder) -> dict[str, Any]:
    """How the encoder wants to hear audio."""
    normalize, rate = source.listening()
    return {"_name": "audio_pretraining", "normalize": normalize, "sample_rate": rate}


def _encoder_settings(source: HuggingFaceFolder) -> dict[str, Any]:
    return {
        **settings_of(source.network),
        **training_settings(source.config, source.path / "config.json"),
    }


def _outputs(source: HuggingFaceFolder) -> Outputs:
    vocabulary, tokenizer = source.tokens()
    return outputs_of(
        vocabulary,
        tokenizer,
        source.config.pad_token_id,
        source.config.vocab_size,
        str(source.path / "vocab.json"),
    )


def _encoder(source: HuggingFaceFolder) -> dict[str, Tensor]:
    """The tensors of the encoder under fairseq's names.

    Raises UserError for the first that is missing, is of another shape, or has no place in fairseq.
    """
    found, path = source.encoder, source.weights
    known = {f"{PROJECTION}.weight", f"{PROJECTION}.bias"}
    renamed = {}
    for each in encoder_names(source.network):
        known.add(each.hugging_face)
        if each.hugging_face == SPAN_EMBEDDING and SPAN_EMBEDDING not in found:
            kind = next(iter(found.values())).dtype
            renamed[MASK_EMBEDDING] = torch.zeros(each.shape, dtype=kind)
            continue
        renamed[each.fairseq] = fitting(found, each.hugging_face, each, path)
    for name in found:
        if name not in known:
            raise UserError(f"{path} has a tensor {name}, for which fairseq has no place")
    if not source.network.has_projection:
        _refuse_projection(source)
    return renamed


def _refuse_projection(source: HuggingFaceFolder) -> None:
    """Raise UserError if the projection changes anything: between equal widths fairseq has none."""
    weight, bias = (source.encoder.get(f"{PROJECTION}.{part}") for part in ("weight", "bias"))
    identity = torch.eye(source.network.channels)
    if weight is None or bias is None or bias.any() or not torch.equal(weight.float(), identity):
        raise UserError(
            f"{source.weights} projects the {source.network.channels} channels of its convolutions "
            "to as many, which fairseq does not"
        )


def _theirs(source: HuggingFaceFolder, outputs: Outputs | None) -> Hear:
    """What transformers makes of audio with the tensors of a folder.

    Args:
        outputs: of a CTC model, whose logits are given in the order of fairseq's dictionary.
    """
    from transformers import AutoModel, AutoModelForCTC, Wav2Vec2FeatureExtractor

    if outputs is None:
        model = AutoModel.from_config(source.config)
        model.load_state_dict(source.encoder, strict=False)
    else:
        model = AutoModelForCTC.from_config(source.config)
        model.load_state_dict(source.tensors, strict=False)
    normalize, rate = source.listening()
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=rate, do_normalize=normalize, return_attention_mask=True
    )
    hear = transformers_hears(model.float(), extractor)
    if outputs is None:
        return hear
    ordered = partial(outputs.ordered, is_bias=True)
    return lambda audio: [ordered(logits.T).T for logits in hear(audio)]
