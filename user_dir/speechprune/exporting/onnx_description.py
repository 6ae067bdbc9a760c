"""What an ONNX file says of itself, in its metadata: all that it takes to hear with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from speechprune.errors import UserError
from speechprune.exporting.onnx_cost import Costs
from speechprune.exporting.onnx_layouts import LAYOUTS, Layout

#: The key in the metadata of a file, and the form of what is there.
KEY, FORM = "speechprune", 1
FLOAT32, INT8 = "float32", "int8"
#: More than any file says of itself.
_LONGEST = 1 << 24
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("layout", "precision", "labels", "family", "source", "digest"), (str,)),
    **dict.fromkeys(("version",), (str,)),
    **dict.fromkeys(("normalize", "trained_normalized"), (bool,)),
    **dict.fromkeys(("sample_rate", "parameters"), (int,)),
    "density": (int, float),
    "symbols": (list,),
    "costs": (dict,),
    "provenance": (dict,),
}


@dataclass(frozen=True)
class Description:
    """What a file says.

    Attributes:
        layout: its name.
        precision: "float32" or "int8".
        sample_rate: in Hz.
        normalize: whether the caller gives each recording mean 0 and variance 1.
        trained_normalized: whether the model was trained on such recordings.
        labels: the kind of the labels in training, such as "ltr".
        symbols: of the outputs, in their order; the first is the blank.
        parameters: of the model.
        density: share of the maskable weights that is kept.
        costs: multiply-adds.
        family: of the encoder, by its name in fairseq's registry.
        source: the name of the checkpoint or bank, without its folder.
        digest: its SHA-256, in hexadecimal.
        provenance: what was noted of how the source came about.
        version: of speechprune.
    """

    layout: str
    precision: str
    sample_rate: int
    normalize: bool
    trained_normalized: bool
    labels: str
    symbols: tuple[str, ...]
    parameters: int
    density: float
    costs: Costs
    family: str
    source: str
    digest: str
    provenance: Mapping[str, Any]
    version: str

    @property
    def names(self) -> Layout:
        """Its layout."""
        return LAYOUTS[self.layout]

    def encode(self) -> str:
        """As `decode` reads it; what JSON has no words for is left to `str`."""
        return json.dumps({"form": FORM, **asdict(self)}, ensure_ascii=False, default=str)

    @classmethod
    def decode(cls, text: str | None, path: object) -> Description:
        """What a file says.

        Args:
            text: as `encode` gives it; None if the file says nothing.
            path: of the file.

        Raises:
            UserError: it was not exported by speechprune, or says what cannot be.
        """
        if text is None:
            raise UserError(
                f"{path} was not exported by speechprune: it does not say what its outputs stand "
                "for; write one by `speechprune export onnx`"
            )
        try:
            if len(text) > _LONGEST:
                raise ValueError("it is too long")
            found = json.loads(text)
            form = found.pop("form")
            if form != FORM:
                raise ValueError(f"its form is {form!r}, not {FORM}")
            return cls(**_checked(found))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is damaged: what it says of itself is wrong: {reason}"
            ) from error


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """Values of the fields; raises ValueError, TypeError or KeyError if some cannot be."""
    own = {name: found[name] for name in (field.name for field in fields(Description))}
    for name, kinds in _KINDS.items():
        value = own[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{name} is {value!r}"[:80])
    costs = Costs(**own["costs"])
    own["costs"] = Costs(
        tuple((_count(k, 1), _count(s, 1), _count(m)) for k, s, m in costs.convolutions),
        *(_count(value) for value in (costs.fixed, costs.of_frame, costs.of_pair)),
    )
    own["symbols"] = tuple(own["symbols"])
    if own["layout"] not in LAYOUTS or own["precision"] not in (FLOAT32, INT8):
        raise ValueError(f"no layout is called {own['layout']!r} in {own['precision']!r}"[:80])
    if not own["costs"].convolutions or _count(own["sample_rate"], 1) > 1_000_000:
        raise ValueError("its rates and costs are those of no model")
    if not 0.0 <= own["density"] <= 1.0:
        raise ValueError(f"its density is {own['density']}")
    if len(own["symbols"]) < 4 or len(set(own["symbols"])) < len(own["symbols"]):
        raise ValueError("its symbols are too few, or not all different")
    if not all(isinstance(symbol, str) and symbol for symbol in own["symbols"]):
        raise ValueError("a symbol is not a text")
    return own


def _count(value: Any, least: int = 0) -> int:
    """A whole number; raises ValueError if it is none, or too small."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 62:
        raise ValueError(f"{value!r} is not a number of at least {least}"[:80])
    return value
