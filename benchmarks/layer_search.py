"""Choosing layers to drop, beside the plain way: similarity, search, and verification of plans.

    python -m benchmarks.layer_search

Both ways run in one process and take turns; times are medians. The plain ways are in
`benchmarks.original_layer_search`. Of a plain SVCCA some pairs are timed, and the time of all is
worked out; ours is timed whole. Run it on an idle machine: other work slows threads unequally.

Models of random weights tell times, and their references are what the whole model transcribes. A
race depends on how much worse bad plans are: --model measures it on a finetuned model.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import original_layer_search as original
from benchmarks.layer_verification import Case, random_case, given_case
from speechprune.files import write_atomically
from speechprune.inference import best_device
from speechprune.layers import search
from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlan
from speechprune.layers.similarity import MEASURES
from speechprune.layers.similarity.statistics import UtteranceMeans
from speechprune.tables import table
