"""A folder of Hugging Face's with a speech encoder: read as data, of which nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speechprune.checkpoint.contents import check_tensors, refuse_infinite
from speechprune.checkpoint.file import PathLike, digest, read_tensors
from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.exporting.huggingface_config import MODEL_TYPES, network_of_config
from speechprune.exporting.huggingface_names import PREFIXES, todays_name
from speechprune.exporting.network import Network

_CONFIG = "config.json"
_EXTRACTOR, _PROCESSOR = "preprocessor_config.json", "processor_config.json"
_VOCABULARY, _TOKENIZER, _ADDED = "vocab.json", "tokenizer_config.json", "added_tokens.json"
#: The files that weights may be in, the first that is there; an index names several.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_ADVICE = "download it again"


@dataclass(frozen=True)
class HuggingFaceFolder:
    """What a folder holds, as far as it is known to be sound.

    Attributes:
        path: of the folder.
        config: as transformers makes it of what it knows in the file.
        network: of the encoder.
        weights: the file with them, or with the names of such files.
        tensors: by today's names.
    """

    path: Path
    config: Any
    network: Network
    weights: Path
    tensors: Mapping[str, Tensor]

    @cached_property
    def encoder(self) -> Mapping[str, Tensor]:
        """The tensors of the encoder, by names relative to it."""
        prefix = PREFIXES[self.network.family]
        own = {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}
        return own or self.tensors

    @cached_property
    def heads(self) -> Mapping[str, Tensor]:
        """The tensors of whatever is beside it."""
        if self.encoder is self.tensors:
            return {}
        prefix = PREFIXES[self.network.family]
        return {k: v for k, v in self.tensors.items() if not k.startswith(prefix)}

    @property
    def digest(self) -> str:
        """SHA-256 of the file with the weights."""
        return digest(self.weights)

    def listening(self) -> tuple[bool, int]:
        """Whether audio is normalised for the model, and its rate in Hz.

        Raises UserError if no file tells.
        """
        found: Any = _json(self.path / _EXTRACTOR)
        if found is None:
            found = (_json(self.path / _PROCESSOR) or {}).get("feature_extractor")
        if not isinstance(found, dict):
            raise UserError(
                f"{self.path} has no {_EXTRACTOR}, which tells whether audio is normalised; "
                f"{_ADVICE}"
            )
        normalize, rate = found.get("do_normalize", True), found.get("sampling_rate", 16000)
        if not isinstance(normalize, bool) or type(rate) is not int or rate < 1:
            raise UserError(f"{self.path / _EXTRACTOR} is damaged; {_ADVICE}")
        return normalize, rate

    def tokens(self) -> tuple[dict[str, int], dict[str, Any]]:
        """The number of each token, and the tokenizer's settings.

        Raises UserError if there is no vocabulary, or one for each of several languages.
        """
        vocabulary = _json(self.path / _VOCABULARY)
        if vocabulary is None:
            raise UserError(
                f"{self.path} has a CTC head, but no {_VOCABULARY}, which tells its symbols; "
                f"{_ADVICE}"
            )
        if any(isinstance(value, dict) for value in vocabulary.values()):
            raise UserError(
                f"{self.path / _VOCABULARY} is of several languages, whose adapters fairseq lacks"
            )
        settings = _json(self.path / _TOKENIZER) or {}
        added = settings.get("added_tokens_decoder")
        for number, token in added.items() if isinstance(added, dict) else ():
            if isinstance(token, dict) and isinstance(token.get("content"), str):
                vocabulary.setdefault(token["content"], int(number) if number.isdigit() else -1)
        vocabulary.update(_json(self.path / _ADDED) or {})
        return vocabulary, settings


def read_folder(path: PathLike) -> HuggingFaceFolder:
    """The wav2vec 2.0, HuBERT or data2vec model in a folder.

    Raises:
        UserError: it is no such folder, or a file in it is damaged or would run code.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(
            f"{path} is no folder; download a model first, as by `hf download NAME --local-dir DIR`"
        )
    config = _config(path)
    network = network_of_config(config, path / _CONFIG)
    weights = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise UserError(f"{path} has no {_WEIGHTS[0]}, nor weights of another name; {_ADVICE}")
    tensors = {
        todays_name(name): tensor
        for file in _files(weights)
        for name, tensor in _tensors(file).items()
    }
    return HuggingFaceFolder(path, config, network, weights, tensors)


def _config(folder: Path) -> Any:
    """The configuration, of nothing but what transformers' class of it knows: others could name
    code to download."""
    from transformers import CONFIG_MAPPING

    path = folder / _CONFIG
    found = read_json(path, _ADVICE)
    kind = found.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES.values():
        raise UserError(
            f"{path} is of a {kind!r} model; only {', '.join(MODEL_TYPES.values())} are known"
        )
    known: Any = CONFIG_MAPPING[kind]
    own = {name: found[name] for name in known.__dataclass_fields__ if name in found}
    own = {name: value for name, value in own.items() if name not in _OF_TRANSFORMERS}
    if "apply_spec_augment" in found:
        own["apply_spec_augment"] = found["apply_spec_augment"]
    try:
        return known(**own)
    # transformers checks some types and numbers, each in another way.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no configuration of a {kind} model ({reason})") from error


#: What all configurations have, and none of it is a part of a network.
_OF_TRANSFORMERS = frozenset(
    "transformers_version architectures dtype attn_implementation _name_or_path".split()
)


def _files(weights: Path) -> Iterator[Path]:
    """The files that an index names, or the one that it is."""
    if weights.suffix != ".json":
        yield weights
        return
    names = read_json(weights, _ADVICE).get("weight_map")
    if not isinstance(names, dict):
        raise UserError(f"{weights} names no files; {_ADVICE}")
    for name in sorted(set(map(str, names.values()))):
        if Path(name).name != name:
            raise UserError(f"{weights} names {name!r}, which is not in its folder; {_ADVICE}")
        yield weights.parent / name


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_tensors(path)
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is missing or damaged ({reason}); {_ADVICE}") from error
    check_tensors(found, path)
    refuse_infinite(found, path)
    return found


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no such file."""
    return read_json(path, _ADVICE) if path.is_file() else None
