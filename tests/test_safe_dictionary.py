"""Finetuned checkpoints are read by `torch.load` where speechprune was imported after torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nano import write_corpus, write_finetuned, write_wav2vec2

SCRIPT = """
import sys, torch, speechprune
assert "fairseq" not in sys.modules
states = [torch.load(sys.argv[1], weights_only=True) for _ in range(2)]
import speechprune.plugin
states.append(torch.load(sys.argv[1], weights_only=True))
from fairseq.data.dictionary import Dictionary
dictionaries = [state["task_state"]["target_dictionary"] for state in states]
assert all(type(each) is Dictionary and each == dictionaries[0] for each in dictionaries)
print(dictionaries[0].symbols)
"""


def test_dictionaries_are_fairseqs_before_and_after_it_is_imported(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", train=1, valid=1)
    path = write_finetuned(tmp_path / "finetuned.pt", write_wav2vec2(tmp_path / "p.pt"), data)
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert "'A', 'B'" in ran.stdout
