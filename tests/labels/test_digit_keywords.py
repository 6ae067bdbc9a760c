"""Real spoken digits: nine of ten and more are told apart after a minute of training."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from loop import ROOT, USER_DIR, run_script

import speechprune
from speechprune.tools.evaluate import command as evaluate
from speechprune.tools.main import commands

NANO = Path(speechprune.__file__).parent / "assets" / "nano_wav2vec2.pt"


def test_digits_are_told_apart(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "fsdd" / "fsdd-5speakers.tar"
    data = tmp_path / "keywords"
    options = ["--archive", str(archive), "--task", "keyword", "--out", str(data)]
    prepared = CliRunner().invoke(commands, ["prepare", "digits", *options])
    assert prepared.exit_code == 0, prepared.output
    arguments = [
        f"hydra.run.dir={tmp_path / 'run'}",
        f"common.user_dir={USER_DIR}",
        f"task.data={data}",
        f"model.w2v_path={NANO}",
        "model._name=wav2vec_labels",
        "optimization.max_update=100",
        "dataset.validate_interval_updates=50",
        f"--config-dir={ROOT / 'config' / 'demo'}",
        "--config-name=nano_labels",
    ]
    run = run_script(tmp_path / "run", arguments).succeeded()
    shared = [str(run.path("best")), "--data", str(data), "--subset", "test", "--json"]
    found = json.loads(CliRunner().invoke(evaluate, shared).output)
    assert found["utterances"] == 250
    assert found["accuracy"] >= 0.95
