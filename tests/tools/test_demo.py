"""The demo's comparison, with nothing but two updates of each run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from nano import write_corpus, write_wav2vec2

from speechprune.errors import UserError
from speechprune.recipes.demo import METHODS, adapt_and_measure
from speechprune.tools.main import commands

SHORT = (
    *("model.mask_length=2", "dataset.max_tokens=100000"),
    # Those that methods set too, and users may.
    *("optimization.lr=[0.001]", "model.prune_rate=0.6"),
)


def test_three_ways_are_compared_once(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "a, b")
    for path in sorted(data.glob("valid.*")):
        shutil.copy(path, path.with_name(path.name.replace("valid", "test")))
    model = write_wav2vec2(tmp_path / "it's.pt")
    out = tmp_path / "out, all"
    results = adapt_and_measure(data, model, out, 2, SHORT, jobs=2)
    assert [result.name for result in results] == [method.name for method in METHODS]
    head, weights, masks = results
    assert (head.kept, weights.kept) == (1.0, 1.0) and masks.kept == pytest.approx(0.6, abs=1e-3)
    # A head of 10 symbols on 32 channels in fp32; the masks of 2 layers, a bit per weight; the
    # biases of their projections and 2 norms each, of the positions and of the front end, which has
    # 16 channels, and its norm and the encoder's.
    assert head.bytes == 4 * (32 * 10 + 10)
    norms = 2 * (4 * 32 + 64 + 32 + 4 * 32) + 32 + 32 + 2 * 16 + 2 * 32
    assert masks.bytes == head.bytes + 2 * (4 * 32 * 32 + 2 * 32 * 64) // 8 + 4 * norms
    assert weights.bytes > 10 * masks.bytes
    assert [row["name"] for row in json.loads((out / "results.json").read_text())] == [
        method.name for method in METHODS
    ]
    logs = {path: path.stat().st_mtime_ns for path in out.glob("*/train.log")}
    assert adapt_and_measure(data, model, out, 2, SHORT, jobs=2) == results
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/train.log")} == logs
    with pytest.raises(
        UserError, match="was made with other settings .optimization.max_update=2, not 3"
    ):
        adapt_and_measure(data, model, out, 3, SHORT, jobs=2)


def test_a_training_that_ends_early_tells_the_updates_that_it_made(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", train=2, valid=1)
    for path in sorted(data.glob("valid.*")):
        shutil.copy(path, path.with_name(path.name.replace("valid", "test")))
    model, out = write_wav2vec2(tmp_path / "model.pt"), tmp_path / "out"
    early = (*SHORT, "optimization.stop_time_hours=1e-9")
    results = adapt_and_measure(data, model, out, 9, early, jobs=2)
    assert [result.updates for result in results] == [1, 1, 1]


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("model._name=wav2vec_ctc", "leave it out"),
        ("model.freeze_finetune_updates=0", "leave it out"),
        ("model.trainable_bias=false", "leave it out"),
        ("checkpoint.restore_file=other.pt", "leave it out"),
        ("+task.data=elsewhere", "use --data"),
        ("model.w2v_path=other.pt", "use --model"),
        ("optimization.max_update=3", "use --updates"),
        ("hydra.run.dir=elsewhere", "use --out"),
    ],
)
def test_what_tells_the_methods_apart_is_the_demos_own(
    tmp_path: Path, override: str, advice: str
) -> None:
    """Refused before its corpus is made."""
    words = ["demo", "--out", str(tmp_path / "out"), "--updates", "2", override]
    result = CliRunner().invoke(commands, words)
    key = override.lstrip("+").partition("=")[0]
    assert result.exit_code == 1
    assert result.stderr == f"speechprune: error: {key} is set by the demo itself; {advice}\n"
    assert not list((tmp_path / "out").glob("[!.]*"))
