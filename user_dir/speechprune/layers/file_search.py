"""Plans by the similarity matrix in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from speechprune import __version__
from speechprune.files import digest
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlans
from speechprune.layers.search import beam, exhaustive, greedy, random


def search(
    path: Union[str, Path], drop: int, method: str, top: int = 10, seed: int = 0
) -> LayerPlans:
    """The best plans by the matrix in a file, with where they came from.

    Args:
        method: "greedy", which finds one plan, "beam", "exhaustive", "random" or "exact".

    Raises:
        UserError: the file holds no matrix, ``drop`` is not within its model, or an exhaustive
            search would not end.
    """
    matrix = SimilarityMatrix.load(path)
    values = matrix.values
    if method == "greedy":
        plans = greedy(values, drop)
    elif method == "random":
        plans = random(values, drop, top, seed=seed)
    else:
        plans = {"beam": beam, "exhaustive": exhaustive, "exact": exact}[method](values, drop, top)
    provenance = {
        "version": __version__,
        "matrix": digest(path),
        "measure": matrix.measure,
        "method": method,
        **({"seed": seed} if method == "random" else {}),
        "of": dict(matrix.provenance),
    }
    return LayerPlans(tuple(plans), matrix.layers, provenance)
