"""Settings of fairseq's speech encoders as configurations of Hugging Face, and back."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from collections.abc import Mapping
from typing import Any

from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from speechprune.backbones import backbone_called
from speechprune.checkpoint.evaluated import convolutions
from speechprune.errors import UserError
from speechprune.exporting.network import Network, Quantizer

#: What Hugging Face calls each family, by fairseq's name of it.
MODEL_TYPES: Mapping[str, str] = {
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "data2vec_audio": "data2vec-audio",
}
#: What fairseq calls activations, and Hugging Face.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_new",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
    "swish": "swish",
}
#: Further names of Hugging Face's for the same.
_ALSO_CALLED = {"silu": "swish", "gelu_pytorch_tanh": "gelu_accurate"}
#: Settings of training: fairseq's names for an encoder, and Hugging Face's.
_SHARES = {
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "layerdrop",
    "dropout_input": "feat_proj_dropout",
    "mask_prob": "mask_time_prob",
    "mask_channel_prob": "mask_feature_prob",
}
_LENGTHS = {"mask_length": "mask_time_length", "mask_channel_length": "mask_feature_length"}
#: Those of finetuning that fairseq calls otherwise.
_OF_FINETUNING = {"layerdrop": "encoder_layerdrop"}
#: Settings of fairseq's that make another network, unless they have these values.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "layer_type": ("transformer", None),
    "quantize_input": (False, None),
    "attn_type": ("", None),
    "adp_num": (-1, 0, None),
}
#: The same of Hugging Face's, where a configuration has them.
_ONLY_THERE: Mapping[str, tuple[Any, ...]] = {
    "feat_extract_activation": ("gelu",),
    "layer_norm_eps": (1e-5,),
    "add_adapter": (False, None),
    "adapter_attn_dim": (None,),
    "feat_proj_layer_norm": (True,),
}
_LARGEST_SIZE = 1 << 16


def network_of_settings(family: str, settings: Mapping[str, Any], path: object) -> Network:
    """The network that fairseq builds for the settings of an encoder.

    Raises UserError if Hugging Face has none such.
    """
    backbone_called(family).make_known()
    found = {**default_settings(family), **settings}
    for name, known in _ONLY.items():
        if name in found and found[name] not in known:
            raise UserError(
                f"{path} was built with {name}={found[name]}, for which Hugging Face has no model"
            )
    if found["activation_fn"] not in _ACTIVATIONS:
        raise UserError(
            f"{path} has the activation {found['activation_fn']}, which Hugging Face lacks"
        )
    depth = found.get("pos_conv_depth") or 1
    network = Network(
        family=family,
        layers=found["encoder_layers"],
        channels=found["encoder_embed_dim"],
        heads=found["encoder_attention_heads"],
        ffn_channels=found["encoder_ffn_embed_dim"],
        convolutions=tuple(convolutions(found["conv_feature_layers"])),
        conv_bias=found["conv_bias"],
        group_norm=found["extractor_mode"] == "default",
        layer_norm_first=found["layer_norm_first"],
        activation=found["activation_fn"],
        position_kernel=max(3, found["conv_pos"] // depth) if depth > 1 else found["conv_pos"],
        position_groups=found["conv_pos_groups"],
        position_layers=depth,
        position_batch_norm=bool(found.get("conv_pos_batch_norm")),
    )
    _refuse_other_network(network, path)
    return network


def settings_of(network: Network) -> dict[str, Any]:
    """The settings with which fairseq builds a network, those of training by default."""
    backbone_called(network.family).make_known()
    own = {
        "encoder_layers": network.layers,
        "encoder_embed_dim": network.channels,
        "encoder_attention_heads": network.heads,
        "encoder_ffn_embed_dim": network.ffn_channels,
        "conv_feature_layers": str(list(network.convolutions)),
        "conv_bias": network.conv_bias,
        "extractor_mode": "default" if network.group_norm else "layer_norm",
        "layer_norm_first": network.layer_norm_first,
        "activation_fn": network.activation,
        "conv_pos": network.position_kernel * network.position_layers,
        "conv_pos_groups": network.position_groups,
    }
    if network.position_layers > 1:
        own["pos_conv_depth"] = network.position_layers
    if network.family == "hubert":
        own["conv_pos_batch_norm"] = network.position_batch_norm
    return {**default_settings(network.family), **own, "_name": network.family}


def network_of_config(config: Any, path: object) -> Network:
    """The network that Hugging Face builds for a configuration.

    Args:
        config: as `transformers` makes it of a file, which may say anything.

    Raises:
        UserError: fairseq has none such, or a value is out of bounds.
    """
    for name, known in _ONLY_THERE.items():
        if getattr(config, name, known[0]) not in known:
            raise UserError(
                f"{path} says {name}={getattr(config, name)!r}, for which fairseq has no encoder"
            )
    activation = {theirs: ours for ours, theirs in _ACTIVATIONS.items()} | _ALSO_CALLED
    if config.hidden_act not in activation:
        raise UserError(f"{path} says hidden_act={config.hidden_act!r}, which fairseq lacks")
    family = {theirs: ours for ours, theirs in MODEL_TYPES.items()}[config.model_type]
    of_data2vec = family == "data2vec_audio"
    front_end = [getattr(config, f"conv_{part}") for part in ("dim", "kernel", "stride")]
    network = Network(
        family=family,
        layers=_size(config, "num_hidden_layers", path),
        channels=_size(config, "hidden_size", path),
        heads=_size(config, "num_attention_heads", path),
        ffn_channels=_size(config, "intermediate_size", path),
        convolutions=tuple(zip(*front_end)),
        conv_bias=bool(config.conv_bias),
        group_norm=getattr(config, "feat_extract_norm", "layer") == "group",
        layer_norm_first=bool(getattr(config, "do_stable_layer_norm", False)),
        activation=activation[config.hidden_act],
        position_kernel=_size(
            config, "conv_pos_kernel_size" if of_data2vec else "num_conv_pos_embeddings", path
        ),
        position_groups=_size(config, "num_conv_pos_embedding_groups", path),
        position_layers=_size(config, "num_conv_pos_embeddings", path) if of_data2vec else 1,
        position_batch_norm=bool(getattr(config, "conv_pos_batch_norm", False)),
    )
    if not network.convolutions or not all(
        type(size) is int and 0 < size <= _LARGEST_SIZE
        for convolution in network.convolutions
        for size in convolution
    ):
        raise UserError(f"{path}: the sizes of its convolutions are not whole numbers from 1 up")
    _refuse_other_network(network, path)
    return network


def config_of(network: Network) -> dict[str, Any]:
    """The configuration of Hugging Face's that is a network, as JSON holds it."""
    channels, kernels, strides = map(list, zip(*network.convolutions))
    own = {
        "model_type": MODEL_TYPES[network.family],
        "num_hidden_layers": network.layers,
        "hidden_size": network.channels,
        "num_attention_heads": network.heads,
        "intermediate_size": network.ffn_channels,
        "hidden_act": _ACTIVATIONS[network.activation],
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "num_feat_extract_layers": len(channels),
        "conv_bias": network.conv_bias,
        "feat_extract_activation": "gelu",
        "layer_norm_eps": 1e-5,
        "num_conv_pos_embeddings": network.position_kernel,
        "num_conv_pos_embedding_groups": network.position_groups,
        # fairseq begins with these symbols, and its blank is the first.
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if network.family == "data2vec_audio":
        own["num_conv_pos_embeddings"] = network.position_layers
        return {**own, "conv_pos_kernel_size": network.position_kernel}
    own["feat_extract_norm"] = "group" if network.group_norm else "layer"
    own["do_stable_layer_norm"] = network.layer_norm_first
    if network.family == "hubert":
        own["conv_pos_batch_norm"] = network.position_batch_norm
        own["feat_proj_layer_norm"] = True
    return own


def training_config(settings: Mapping[str, Any], finetuning: Mapping[str, Any]) -> dict[str, Any]:
    """Dropout and masked spans as Hugging Face's configuration has them.

    Args:
        settings: of the encoder in its pretraining.
        finetuning: of the finetuned model, which come before those; empty for a pretrained one.
    """
    found = {**settings, **{_OF_FINETUNING.get(k, k): v for k, v in finetuning.items()}}
    config = {
        theirs: found[ours]
        for ours, theirs in (*_SHARES.items(), *_LENGTHS.items())
        if found.get(ours) is not None
    }
    masks_spans = bool(finetuning.get("apply_mask", True)) and any(
        config.get(name, 0) > 0 for name in ("mask_time_prob", "mask_feature_prob")
    )
    if not masks_spans:
        # Without a share, Hugging Face's model has no embedding of masked spans to load.
        config["mask_time_prob"] = config.get("mask_time_prob") or 0.05
    if finetuning.get("final_dropout") is not None:
        config["final_dropout"] = finetuning["final_dropout"]
    return {**config, "apply_spec_augment": masks_spans}


def training_settings(config: Any, path: object) -> dict[str, Any]:
    """Dropout and masked spans as fairseq's encoder has them; raises UserError for a share that is
    none, or a length."""
    found: dict[str, Any] = {}
    for ours, theirs in _SHARES.items():
        found[ours] = _share(config, theirs, path)
    for ours, theirs in _LENGTHS.items():
        found[ours] = _size(config, theirs, path)
    return found


def _share(config: Any, name: str, path: object) -> float:
    share = getattr(config, name)
    if isinstance(share, bool) or not 0.0 <= share <= 1.0:
        raise UserError(f"{path} says {name}={share!r}, which is not a share from 0 to 1")
    return float(share)


def finetuning_settings(training: Mapping[str, Any], config: Any, path: object) -> dict[str, Any]:
    """The same as fairseq's finetuned models have them; raises UserError for a share that is none.

    Args:
        training: as `training_settings` gives them.
    """
    renamed = {theirs: ours for ours, theirs in _OF_FINETUNING.items()}
    own = {renamed.get(name, name): value for name, value in training.items()}
    apply_mask = bool(getattr(config, "apply_spec_augment", True))
    final_dropout = _share(config, "final_dropout", path)
    return {**own, "final_dropout": final_dropout, "apply_mask": apply_mask}


def quantizer_of_config(config: Any, path: object) -> Quantizer:
    """That of a pretrained wav2vec 2.0; raises UserError for sizes that are none."""
    found = Quantizer(
        groups=_size(config, "num_codevector_groups", path),
        vectors=_size(config, "num_codevectors_per_group", path),
        width=_size(config, "codevector_dim", path),
        loss_width=_size(config, "proj_codevector_dim", path),
    )
    if found.width % found.groups:
        raise UserError(f"{path}: codevector_dim is no multiple of num_codevector_groups")
    return found


def quantizer_settings(quantizer: Quantizer) -> dict[str, Any]:
    """Settings with which fairseq builds a quantizer."""
    return {
        "quantize_targets": True,
        "latent_groups": quantizer.groups,
        "latent_vars": quantizer.vectors,
        "latent_dim": quantizer.width,
        "final_dim": quantizer.loss_width,
    }


def extractor_config(normalize: bool, rate: int, *, has_tokenizer: bool) -> dict[str, Any]:
    """Settings of Hugging Face's feature extractor, which hears audio as an encoder does.

    Args:
        rate: of the audio, in Hz.
        has_tokenizer: whether a tokenizer is beside it.
    """
    config = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": rate,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": normalize,
        "return_attention_mask": True,
    }
    return {**config, "processor_class": "Wav2Vec2Processor"} if has_tokenizer else config


def default_settings(name: str) -> dict[str, Any]:
    """What fairseq takes for settings of a model that are not given; without those that it takes
    from elsewhere.

    Args:
        name: in fairseq's registry.
    """
    structured = OmegaConf.structured(MODEL_DATACLASS_REGISTRY[name])
    container: Any = OmegaConf.to_container(structured, enum_to_str=True)
    return {k: v for k, v in container.items() if not str(v).startswith(("${", "???"))}


def _refuse_other_network(network: Network, path: object) -> None:
    """Raise UserError for a network that one of the libraries has for another family only."""
    of_data2vec = network.family == "data2vec_audio"
    if of_data2vec != (network.position_layers > 1):
        raise UserError(
            f"{path}: {network.family} with {network.position_layers} convolutions for positions "
            "is not in both libraries, in which data2vec has several and other families one"
        )
    if of_data2vec and (network.group_norm or network.layer_norm_first):
        raise UserError(
            f"{path}: data2vec with a group norm, or with layers that begin with their norm, is "
            "not in Hugging Face"
        )
    if of_data2vec and network.position_kernel < 3:
        raise UserError(f"{path}: fairseq's data2vec has no convolutions for positions below 3")
    if network.channels % network.heads or network.channels % network.position_groups:
        raise UserError(
            f"{path}: its {network.channels} channels are no multiple of its {network.heads} heads "
            f"and {network.position_groups} groups of positions"
        )


def _size(config: Any, name: str, path: object) -> int:
    value = getattr(config, name)
    if type(value) is not int or not 0 < value <= _LARGEST_SIZE:
        raise UserError(f"{path} says {name}={value!r}, which is no whole number from 1 up")
    return value
