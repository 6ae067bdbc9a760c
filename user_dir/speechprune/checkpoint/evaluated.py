"""Settings that fairseq gives to `eval`: literals of Python, and nothing that would run."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from speechprune.errors import UserError

#: Longer than any setting that is meant well.
_LONGEST_TEXT = 10_000
#: Entries of a list, those of the tuples in it too.
_MOST_ENTRIES = 1_000
#: The largest number of channels, and of samples in a kernel or a stride.
_LARGEST_SIZE = 1 << 16

#: All else that fairseq evaluates in any of its models, tasks, criterions and optimizers.
ANY_LITERAL = frozenset(
    """
    adafactor_eps adamax_betas adaptive_input_cutoff adaptive_softmax_cutoff character_filters
    conv_aggregator_layers decoder_attention decoder_glu decoder_kernel_size_list
    decoder_layers downsample encoder_attention encoder_glu encoder_kernel_size_list
    encoder_layers extra_data extra_lang_pairs feature_encoder_spec gated_attention lamb_betas
    langtoks left_pad_source left_pad_target pipeline_balance pipeline_decoder_balance
    pipeline_decoder_devices pipeline_devices pipeline_encoder_balance
    pipeline_encoder_devices pretrained project_input sampling_weights self_attention
    weight_softmax wer_args xformers_att_config
    """.split()
)


def literal(text: str) -> Any:
    """What a literal of Python stands for: constants, tuples, lists and dicts of them, and lists
    or tuples that are added or repeated, as in ``[(512, 3, 2)] * 4 + [(512, 2, 2)]``.

    Raises:
        ValueError: it is anything else, or has more than a thousand entries.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"{len(text)} characters are too many")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("it is not a literal of Python") from error


def refuse_code(settings: Any, where: object) -> None:
    """Raise UserError if a setting that fairseq evaluates is not what it has to be.

    Args:
        settings: nested to any depth, as containers of Python or omegaconf, or as a namespace.
        where: what the settings are of, for the message.
    """
    for name, value in _evaluated(settings):
        form, fits = FORMS.get(name, ("a literal of Python", _is_literal))
        try:
            is_fit = fits(value)
        except ValueError:
            is_fit = False
        if not is_fit:
            raise UserError(f"{where}: {name}={_shortened(value)} is refused: it must be {form}")


def _value(node: ast.expr) -> Any:
    """The value of a literal; raises ValueError for every other expression."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if isinstance(number, (int, float)):
            return -number
    if isinstance(node, (ast.Tuple, ast.List)):
        entries = [_value(entry) for entry in node.elts]
        return _bounded(tuple(entries) if isinstance(node, ast.Tuple) else entries)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.BinOp):
        return _combined(node.op, _value(node.left), _value(node.right))
    raise ValueError("it is not a literal of Python")


def _combined(operator: ast.operator, left: Any, right: Any) -> Any:
    """Two lists or tuples as one, or one of them several times."""
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, (tuple, list)):
        if isinstance(operator, ast.Add) and type(left) is type(right):
            return _bounded(type(left)([*left, *right]))
        if isinstance(operator, ast.Mult) and isinstance(right, int):
            if _entries(left) * right <= _MOST_ENTRIES:
                return left * right
    raise ValueError("lists are only added to lists, and repeated a few times")


def _bounded(sequence: Any) -> Any:
    if _entries(sequence) > _MOST_ENTRIES:
        raise ValueError("it has too many entries")
    return sequence


def _entries(value: Any) -> int:
    """The entries of a sequence, with those of the sequences in it."""
    return 1 + sum(map(_entries, value)) if isinstance(value, (tuple, list)) else 1


def _evaluated(settings: Any) -> Iterator[tuple[str, Any]]:
    """The settings that fairseq evaluates, by name; those without a value are left out."""
    if isinstance(settings, Namespace):
        settings = vars(settings)
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            is_text = isinstance(value, str)
            if value is not None and (name in FORMS or (is_text and name in ANY_LITERAL)):
                yield name, value
            else:
                yield from _evaluated(value)
    elif isinstance(settings, Sequence) and not isinstance(settings, (str, bytes)):
        for value in settings:
            yield from _evaluated(value)


def _is_literal(text: str) -> bool:
    literal(text)
    return True


def convolutions(text: str) -> list[tuple[int, int, int]]:
    """Channels, kernel and stride of each layer of a front end, from ``conv_feature_layers``.

    Raises:
        ValueError: it is anything else.
    """
    found = literal(text)
    if not _are_convolutions(text):
        raise ValueError("no list of convolutions")
    layers: list[tuple[int, int, int]] = list(found)
    return layers


def _are_convolutions(text: Any) -> bool:
    # fairseq evaluates whatever it is: a list would be an error.
    value = literal(text) if isinstance(text, str) else None
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, (tuple, list)) and len(entry) == 3 for entry in value)
        and all(type(size) is int and 1 <= size <= _LARGEST_SIZE for e in value for size in e)
    )


def _are_betas(value: Any) -> bool:
    value = literal(value) if isinstance(value, str) else value
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 2
        and all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in value)
    )


def _shortened(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


#: What has to be more than a literal, in words and as a test.
FORMS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "conv_feature_layers": (
        "the text of a list of convolutions (channels, kernel, stride), such as "
        "[(512, 10, 5)] + [(512, 3, 2)] * 4",
        _are_convolutions,
    ),
    "adam_betas": ("two numbers from 0 to below 1, such as (0.9, 0.98)", _are_betas),
}
