"""Whether languages with alike phonemes have alike masks.

Source: S3-Router (Fu et al., NeurIPS 2022, arXiv 2211.01522), its fourth use: the cosine of masks
against the cosine of phoneme inventories, over pairs of languages. The test is by permutation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.reports.language_figures import NamedPoint, draw_points, draw_tree
from speechprune.reports.language_masks import Language, LanguageMasks, Likeness
from speechprune.reports.mantel import LEAST, Correlation, Matrix, Orders, pearson, spearman
from speechprune.reports.phonemes import Inventory
from speechprune.state_names import layer_of, role_of
from speechprune.tables import table

_LIKENESS = ("masks", "by chance", "above chance")


@dataclass(frozen=True)
class LanguagePair:
    """Two languages: how alike their masks are, and the cosine of their phoneme inventories."""

    first: str
    second: str
    masks: Likeness
    phonemes: float

    @property
    def name(self) -> str:
        """What to call the pair."""
        return f"{self.first}-{self.second}"


@dataclass(frozen=True)
class Part:
    """What the masks of a part of the model say, over all pairs of languages.

    Attributes:
        masks: means over the pairs.
        pearson, spearman: correlations of the cosines of masks and of phonemes; None where the
            masks are equally alike in all pairs.
    """

    masks: Likeness
    pearson: Correlation | None
    spearman: Correlation | None

    @classmethod
    def of(cls, pairs: Sequence[Likeness], phonemes: Matrix, orders: Orders) -> Part:
        """Correlate; ``pairs`` are those above the diagonal of ``phonemes``, row by row."""
        cosines = _symmetric(len(phonemes), (pair.cosine for pair in pairs))
        found = [correlate(cosines, phonemes, orders) for correlate in (pearson, spearman)]
        return cls(Likeness.mean(pairs), *found)

    def describe(self) -> dict[str, Any]:
        """The values by name, with None for a correlation that is not defined."""
        found = {"pearson": self.pearson, "spearman": self.spearman}
        return {
            **{name: each and {"r": each.value, "p": each.p} for name, each in found.items()},
            **_values(self.masks),
        }

    def cells(self) -> list[str]:
        """The values as cells of a table."""
        cells: list[str] = []
        for found in (self.pearson, self.spearman):
            cells += [f"{found.value:.3f}", f"{found.p:.4f}"] if found else ["-", "-"]
        return [*cells, *_cells(self.masks)]


@dataclass(frozen=True)
class Correlations:
    """The correlations of all masks, of each 0-based layer, and of each role within a layer."""

    whole: Part
    layers: Mapping[int, Part]
    roles: Mapping[str, Part]
    orders: Orders

    @classmethod
    def of(cls, masks: LanguageMasks, permutations: int, seed: int) -> Correlations:
        """Correlate four or more languages; raises UserError if no correlation is defined."""
        phonemes = _symmetric(len(masks.languages), _phoneme_cosines(masks.languages))
        orders = Orders.of(len(masks.languages), permutations, seed)
        (whole,) = masks.between(lambda site: "all").values()
        whole_part = Part.of(whole, phonemes, orders)
        if whole_part.pearson is None:
            same = "masks" if pearson(phonemes, phonemes, orders) else "phonemes"
            raise UserError(
                f"the {same} of every two of these languages are equally alike, so that no "
                f"correlation is defined; give other {same}"
            )
        layers = masks.between(layer_of).items()
        roles = masks.between(role_of).items()
        return cls(
            whole_part,
            {n: Part.of(found, phonemes, orders) for n, found in layers if n is not None},
            {role: Part.of(found, phonemes, orders) for role, found in roles},
            orders,
        )

    def describe(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        return {
            "orders": len(self.orders.rows),
            "exact": self.orders.exact,
            "all": self.whole.describe(),
            "layers": {str(layer): part.describe() for layer, part in self.layers.items()},
            "roles": {role: part.describe() for role, part in self.roles.items()},
        }

    def describe_in_words(self) -> str:
        """The same as `describe`, as a table, and what is in it."""
        rows = [["", "r", "p", "rho", "p", *_LIKENESS], ["all", *self.whole.cells()]]
        rows += [[f"layer {layer}", *part.cells()] for layer, part in self.layers.items()]
        rows += [[role, *part.cells()] for role, part in self.roles.items()]
        orders = f"{len(self.orders.rows):,}"
        orders = f"all {orders} orders" if self.orders.exact else f"{orders} random orders"
        return (
            f"{table(rows)}\n\n"
            "r (Pearson) and rho (Spearman) correlate the cosines of masks with those of phonemes, "
            f"chance not\ntaken off; p is one-sided, by {orders} of the languages."
        )


@dataclass(frozen=True)
class Phonetics:
    """Masks of several languages against the languages' phonemes.

    Attributes:
        pairs: every two languages, those with the most alike phonemes first.
        correlations: None for fewer than four languages.
    """

    masks: LanguageMasks
    pairs: tuple[LanguagePair, ...]
    correlations: Correlations | None

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        mask_sets: Sequence[MaskSet],
        inventories: Sequence[Inventory],
        *,
        permutations: int = 10_000,
        seed: int = 0,
    ) -> Phonetics:
        """Hold the masks of languages against the languages' phonemes.

        Args:
            names, mask_sets, inventories: as in `LanguageMasks.of`.
            permutations: most orders of the languages to hold correlations against.
            seed: of these orders, where they are random.

        Raises:
            UserError: the masks are not of one model, or the masks or the phonemes of four or more
                languages are equally alike in all pairs.
        """
        masks = LanguageMasks.of(names, mask_sets, inventories)
        found = masks.between(lambda site: "all").get("all", [])
        cosines = _phoneme_cosines(masks.languages)
        pairs = [
            LanguagePair(one.name, two.name, likeness, cosine)
            for (one, two), likeness, cosine in zip(
                itertools.combinations(masks.languages, 2), found, cosines
            )
        ]
        pairs.sort(key=lambda pair: (-pair.phonemes, pair.name))
        enough = len(masks.languages) >= LEAST
        correlations = Correlations.of(masks, permutations, seed) if enough else None
        return cls(masks, tuple(pairs), correlations)

    def describe(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        return {
            "languages": [
                {
                    "language": each.name,
                    "masks": list(each.masks),
                    "density": each.density,
                    "phonemes": len(each.inventory.phonemes),
                    "inventory": each.inventory.number or None,
                }
                for each in self.masks.languages
            ],
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "phoneme_cosine": pair.phonemes,
                    **_values(pair.masks),
                }
                for pair in self.pairs
            ],
            "one_language": {name: _values(each) for name, each in self.masks.within().items()},
            "correlations": self.correlations and self.correlations.describe(),
        }

    def describe_in_words(self) -> str:
        """The same as `describe`, as tables."""
        languages = [["", "masks", "density", "phonemes", "inventory"]]
        for each in self.masks.languages:
            sizes = [str(len(each.masks)), f"{each.density:.4f}", str(len(each.inventory.phonemes))]
            languages.append([each.name, *sizes, each.inventory.number])
        pairs = [["cosine", "phonemes", *_LIKENESS]]
        for pair in self.pairs:
            pairs.append([pair.name, f"{pair.phonemes:.4f}", *_cells(pair.masks)])
        within = [["one language", *_LIKENESS]]
        within += [[name, *_cells(each)] for name, each in self.masks.within().items()]
        if self.correlations:
            last = self.correlations.describe_in_words()
        else:
            given = len(self.masks.languages)
            last = f"A correlation needs at least {LEAST} languages; given: {given}."
        tables = [table(rows) for rows in (languages, pairs, within) if len(rows) > 1]
        return "\n\n".join([*tables, last])

    def draw(self, path: Union[str, Path]) -> None:
        """Save a figure of the cosines of masks against those of phonemes, a point to each pair.

        Raises UserError if there is one language alone, and as `figures.save_figure` does.
        """
        if not self.pairs:
            raise UserError("masks of one language have no pairs to draw; give those of two")
        title = f"Phonemes and {self._whose()}"
        found = self.correlations and self.correlations.whole.pearson
        if found:
            title += f": r = {found.value:.2f}, p = {found.p:.2g}"
        draw_points(
            [NamedPoint(pair.name, pair.phonemes, pair.masks.cosine) for pair in self.pairs],
            path,
            title=title,
            labels=("cosine of phonemes", "cosine of masks"),
            levels={
                "one language": [each.cosine for each in self.masks.within().values()],
                "by chance": [pair.masks.by_chance for pair in self.pairs],
            },
        )

    def draw_dendrogram(self, path: Union[str, Path]) -> None:
        """Save the tree of the masks: average linkage by 1 - cosine.

        Raises UserError if there is one mask alone, and as `figures.save_figure` does.
        """
        cosines = self.masks.cosines()
        if len(cosines) < 2:
            raise UserError("one mask makes no tree; give two or more")
        names = [
            f"{each.name} ({name})" if len(each.masks) > 1 else each.name
            for each in self.masks.languages
            for name in each.masks
        ]
        whose = self._whose()
        draw_tree(1 - cosines, names, path, f"{whose.capitalize()}, by average linkage")

    def _whose(self) -> str:
        """How many masks a figure is of; files of masks do not tell how they were trained."""
        count = sum(len(each.masks) for each in self.masks.languages)
        return f"{count} masks of {len(self.masks.languages)} languages"


def _phoneme_cosines(languages: Sequence[Language]) -> list[float]:
    """Of every two languages, in the order of `itertools.combinations`."""
    pairs = itertools.combinations(languages, 2)
    return [one.inventory.cosine(two.inventory) for one, two in pairs]


def _symmetric(count: int, values: Iterable[float]) -> Matrix:
    """(count, count), with values above the diagonal, row by row, and 1 on it."""
    matrix = np.eye(count)
    rows, columns = np.triu_indices(count, 1)
    matrix[rows, columns] = matrix[columns, rows] = list(values)
    return matrix


def _values(masks: Likeness) -> dict[str, float]:
    found = asdict(masks)
    return {name if name == "cosine" else f"cosine_{name}": found[name] for name in found}


def _cells(masks: Likeness) -> list[str]:
    return [f"{value:.4f}" for value in astuple(masks)]


def refuse_repeated(paths: Sequence[Path]) -> None:
    """Raise UserError if a file is there twice: its masks would be alike whatever the languages."""
    real = [path.resolve() for path in paths]
    for index, path in enumerate(paths):
        if real[index] in real[:index]:
            raise UserError(f"{path} is there twice; each language and seed has masks of its own")
