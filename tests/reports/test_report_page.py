"""`speechprune report`: one page, from the numbers of its sources, safe and the same each time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from banks import task, write_bank
from click.testing import CliRunner, Result
from matrices import some_matrix
from nano import write_corpus, write_finetuned, write_wav2vec2
from page_reading import Node, read_page, values_of

from speechprune.checkpoint import read
from speechprune.decoding.inference import evaluate, read_references, transcribe
from speechprune.decoding.scoring import count_word_errors
from speechprune.intervals import Interval
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.manifests.recording import decode_recording
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_recogniser
from speechprune.models.mask_reading import read_mask_set
from speechprune.reports.page.charts import Chart, Series
from speechprune.reports.page.contents import Contents, Examples, Transcripts
from speechprune.reports.page.page import page_of
from speechprune.tools.main import commands

HOSTILE = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>\x00\u202e'
LOSSES = {5: 30.0, 10: 12.5, 15: 7.25, 20: 9.0}
BAD_EVALUATION = b'{"wer": -1, "cer": 0, "parameters": 1, "subset": "a", "data": "b", "density": 1}'
MASKED = {"_name": "wav2vec_ctc_st", "prune_rate": 0.7, "fix_attn": True, "trainable_proj": True}


class Bench:
    """Runs that nobody trained, of real layouts: a dense one and one with masks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_corpus(folder / "data", train=2, valid=3)
        self.pretrained = write_wav2vec2(folder / "pretrained.pt")
        self.dense = self.run("dense", {"_name": "wav2vec_ctc"})
        self.masked = self.run("masked", MASKED)

    def run(self, name: str, model: dict[str, object]) -> Path:
        folder = self.folder / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        last = folder / "checkpoints" / "checkpoint_last.pt"
        write_finetuned(last, self.pretrained, self.data, model=model)
        state = torch.load(last, weights_only=True)
        planned = {"dataset": {"train_subset": "train"}, "optimization": {"max_update": 1}}
        torch.save({**state, "cfg": {**state["cfg"], **planned}}, last)
        lines = [
            f"[t][train_inner][INFO] - {json.dumps({'loss': str(y), 'num_updates': str(x)})}\n"
            for x, y in LOSSES.items()
        ]
        (folder / "hydra_train.log").write_text("".join(lines))
        return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("page"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["report", *map(str, arguments)])


def page(*arguments: object, out: Path) -> Node:
    result = run(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    return read_page(out)


def refused(*arguments: object) -> str:
    """The one line of a refusal."""
    result = run(*arguments)
    lines = [line for line in result.stderr.splitlines() if "error: " in line]
    assert result.exit_code == 1 and len(lines) == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exc_info
    return lines[0]


@pytest.fixture(scope="module")
def evaluated(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Node, Path]:
    out = tmp_path_factory.mktemp("out") / "report.html"
    return page(bench.folder / "runs", "--subset", "valid", "--examples", "2", out=out), out


def test_error_rates_are_those_of_evaluations(bench: Bench, evaluated: tuple[Node, Path]) -> None:
    rows = {row[0]: row for row in evaluated[0].table("Every model that was measured")}
    assert set(rows) == {"model", "dense", "masked"}
    for folder in (bench.dense, bench.masked):
        path = folder / "checkpoints" / "checkpoint_last.pt"
        loaded = load_recogniser(path)
        found = evaluate(loaded, read_references(loaded, bench.data, "valid"))
        masks = read_mask_set(path).tally if folder is bench.masked else None
        removed = masks.total - masks.kept if masks else 0
        shown = [f"{100 * each.rate:.2f}" for each in (found.words, found.characters)]
        assert rows[folder.name][1:4] == [*shown, f"{found.parameters - removed:,}"]


def test_curves_are_those_of_the_log(evaluated: tuple[Node, Path]) -> None:
    chart = evaluated[0].chart("Training loss")
    assert len(chart.all("polyline")) == 2
    for number in range(2):
        assert np.allclose(values_of(chart, number), list(LOSSES.items()), atol=0.1)
    rows = evaluated[0].table("Where each curve begins")
    assert ["Training loss", "dense", "4", "20", "30", "7.25", "30", "9"] in rows


def test_charts_name_the_seed_and_the_updates_of_runs(evaluated: tuple[Node, Path]) -> None:
    legends = [[item.text for item in each.all("li")] for each in evaluated[0].all("ul", "legend")]
    names = ("dense", "masked")
    assert [f"{name}: seed 0; 1 update" for name in names] in legends
    assert [f"{name}: seed 0" for name in names] in legends
    (told,) = [p.text for p in evaluated[0].all("p") if p.text.startswith("Error rates of")]
    assert told == "Error rates of the last checkpoints: seed 0; 1 update in all"


def test_a_chart_holds_its_intervals_from_the_least_to_the_most() -> None:
    found = [Interval.of([20.0, 40.0, 97.0]), Interval.of([30.0])]
    series = Series("RP", 0, [50.0, 90.0], [40.0, 30.0], ["a", "b"], intervals=found)
    chart = read_page(Chart("WER", "sparsity (%)", "WER (%)", [series], from_zero=True).draw())
    (bar,) = chart.all("line", "line")
    ticks = {float(t.text): float(t.attributes["y"]) - 3.5 for t in chart.all("text", "y")}
    (low, at_low), (high, at_high) = min(ticks.items()), max(ticks.items())
    ends = [float(bar.attributes[name]) for name in ("y1", "y2")]
    values = [low + (high - low) * (end - at_low) / (at_high - at_low) for end in ends]
    assert np.allclose(values, [20.0, 97.0], atol=0.5) and high >= 97.0


def test_densities_are_those_of_the_masks(bench: Bench, evaluated: tuple[Node, Path]) -> None:
    masks = read_mask_set(bench.masked / "checkpoints" / "checkpoint_last.pt")
    rows = evaluated[0].table("Share kept by layer and role, masked")
    for layer in range(2):
        kept = masks[f"encoder.layers.{layer}.fc1.weight"].float().mean()
        cell = dict(zip(rows[0], rows[1 + layer]))["fc1"]
        assert cell == f"{kept:.3f}"
    assert rows[-1][-1] == f"{masks.density:.3f}"


def test_transcripts_are_those_of_the_models(bench: Bench, evaluated: tuple[Node, Path]) -> None:
    items = evaluated[0].all("ol", "examples")[0].all("li")
    assert len(items) == 2
    loaded = load_recogniser(bench.dense / "checkpoints" / "checkpoint_last.pt")
    split = read_references(loaded, bench.data, "valid")
    for item, utterance in zip(items, split.utterances):
        names = [each.text.split()[0] for each in item.all("dt")]
        assert names == ["said", "dense", "masked"]
        said, heard = item.all("dd")[:2]
        assert said.text == utterance.text
        samples = decode_recording(split.root / utterance.path).samples
        (text,) = transcribe(loaded, [samples.astype(np.float32)])
        counts = count_word_errors(utterance.text, text)
        marks = [len(heard.all(tag, c)) for tag, c in (("span", "swap"), ("del", "missed"))]
        assert [*marks, len(heard.all("ins", "added"))] == [
            *(counts.substitutions, counts.deletions, counts.insertions)
        ]


def test_nothing_comes_from_elsewhere_and_nothing_runs(evaluated: tuple[Node, Path]) -> None:
    text = evaluated[1].read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|url\(|@import|javascript:", text)
    assert not evaluated[0].all("script") and not evaluated[0].all("link")
    assert not re.search(r"<[^>]*\s(on\w+|style|src)=", text)
    (policy,) = [
        meta.attributes["content"]
        for meta in evaluated[0].all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_a_page_is_the_same_each_time(bench: Bench, tmp_path: Path) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    for out in (first, second, second):
        page(bench.folder / "runs", "--subset", "valid", "--examples", "1", out=out)
    assert first.read_bytes() == second.read_bytes()


def test_what_is_missing_is_said(bench: Bench, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(bench.dense, tmp_path / "bare"))
    for path in (*bare.glob("evaluation-*"), bare / "hydra_train.log"):
        path.unlink(missing_ok=True)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "train.log").write_text('[t][train_inner][INFO] - {"loss": "3", "num_up\n')
    text = page(bare, begun, out=tmp_path / "page.html").text
    assert "bare has no evaluation" in text
    assert "bare has no log of its training" in text
    assert "begun is not compared: it holds no run: no checkpoints/checkpoint_last.pt" in text
    assert "train.log of begun: 1 damaged line left out" in text
    assert "Nothing was transcribed" in text and "Without masks: bare." in text


def test_an_evaluation_of_another_checkpoint_is_left_out(bench: Bench, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bench.dense, tmp_path / "copy"))
    page(copy, "--subset", "valid", out=tmp_path / "page.html")
    last = copy / "checkpoints" / "checkpoint_last.pt"
    state = read(last)
    state["cfg"]["common"]["seed"] = 9
    torch.save(state, last)
    text = page(copy, out=tmp_path / "page.html").text
    assert "the evaluation of copy on valid is of another checkpoint" in text


def test_files_of_masks_layers_and_evaluations(tmp_path: Path) -> None:
    sites = [f"encoder.layers.{n}.fc1.weight" for n in range(2)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    sets = [MaskSet({s: torch.rand(8, 6, generator=g) < 0.5 for s in sites}) for g in generators]
    for name, masks in zip(("one", "two"), sets):
        masks.save(tmp_path / f"{name}.safetensors")
    matrix = some_matrix()
    matrix.save(tmp_path / "matrix.safetensors")
    plan = LayerPlan(matrix.layers, (1,), 0.25)
    LayerPlans((plan,), matrix.layers).save(tmp_path / "plans.json")
    measured = {"checkpoint": "x.pt", "data": "elsewhere", "subset": "test", "units": False}
    measured |= {"wer": 0.25, "cer": 0.125, "parameters": 1000, "density": 1.0}
    measured |= {"seconds_of_audio_per_second": 80.0, "device": "cpu"}
    (tmp_path / "fast.json").write_text(json.dumps(measured))
    names = ("one.safetensors", "two.safetensors", "matrix.safetensors", "plans.json", "fast.json")
    found = page(*(tmp_path / name for name in names), out=tmp_path / "page.html")
    one, two = (np.concatenate([m[s].numpy().ravel() for s in sites]) for m in sets)
    iou = (one & two).sum() / (one | two).sum()
    assert found.table("IOU: kept in both")[1] == ["one", "1.000", f"{iou:.3f}"]
    shown = [[float(cell) for cell in row[1:]] for row in found.table(matrix.measure)[1:]]
    assert np.allclose(shown, matrix.values, atol=0.0051)
    strip = found.table("Layers that stay (●) and that go (×)")[1]
    assert strip[1 : 1 + matrix.layers] == ["×" if n == 1 else "●" for n in range(matrix.layers)]
    assert strip[-1] == "0.2500"
    row = found.table("Every model that was measured")[1]
    assert row == ["fast", "25.00", "12.50", "1,000", "80.0 (cpu)"]


def test_what_was_timed_side_by_side(tmp_path: Path) -> None:
    model = {"real_time_factor": 0.02, "throughput": 60.5, "parameters": 1234567}
    model |= {"multiply_adds": 2_000_000_000}
    rows = [
        {**model, "path": "a/dense.pt", "latency": 0.5, "peak": 2_000_000_000, "size": 8_000_000},
        {**model, "path": "a/slim.onnx", "latency": 0.125, "peak": 5e8, "size": 1_500_000},
    ]
    told = {"seconds": 10.0, "batch": 4, "threads": 2, "repeats": 5, "models": rows}
    (tmp_path / "speed.json").write_text(json.dumps(told))
    found = page(tmp_path / "speed.json", out=tmp_path / "page.html")
    table = found.table("10 s of noise; alone and in batches of 4, 2 threads, median of 5 rounds")
    assert table[2] == [
        *("slim.onnx", "125.0", "0.0200", "60.5", "4.00×", "500", "1.5", "1,234,567", "2G")
    ]
    assert table[1][4] == "1.00×"
    del rows[1]["latency"]
    for damaged in (told, {**told, "models": []}):
        (tmp_path / "speed.json").write_text(json.dumps(damaged))
        line = refused(tmp_path / "speed.json", "--out", tmp_path / "b.html")
        assert "speed.json is damaged" in line


def test_tasks_of_a_bank_have_their_masks(tmp_path: Path) -> None:
    bank = write_bank(tmp_path / "tasks.bank", task("es", seed=1), task("it", seed=2))
    found = page(bank.path, out=tmp_path / "page.html")
    table = found.table("IOU: kept in both")
    assert [row[0] for row in table[1:]] == ["tasks: es", "tasks: it"]


def test_classes_and_metrics_are_shown_by_what_they_lack(tmp_path: Path) -> None:
    shared = {"data": "d", "parameters": 10, "density": 1.0, "device": "cpu"}
    labels = {**shared, "subset": "test", "accuracy": 0.75, "seconds_of_audio_per_second": 2.0}
    metrics = {"f1": {"value": 0.5}, "mcc": {"value": None}, "pearson": {"value": -0.25}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "text.json").write_text(json.dumps({**shared, "subset": "dev", "metrics": metrics}))
    found = page(tmp_path / "labels.json", tmp_path / "text.json", out=tmp_path / "page.html")
    tables = [each for each in found.all("table") if "Every model" in each.text]
    heads = [[cell.text for cell in each.all("th")] for each in tables]
    assert heads[0][1] == "1 - accuracy %" and heads[1][1:3] == ["1 - f1 %", "1 - pearson %"]
    assert "25.00" in tables[0].text and "50.00" in tables[1].text and "125.00" in tables[1].text


def test_other_data_stand_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        measured = {"data": f"data {name}", "subset": "test", "wer": 0.2, "cer": 0.1}
        measured |= {"parameters": 10, "density": 1.0}
        (tmp_path / f"{name}.json").write_text(json.dumps(measured))
    found = page(tmp_path / "a.json", tmp_path / "b.json", out=tmp_path / "page.html")
    assert "Not everything was measured on the same data" in found.text
    titles = [each.text for each in found.all("h3")]
    assert titles == ["Measured on test of data a", "Measured on test of data b"]


def test_names_and_transcripts_from_outside_are_text(tmp_path: Path) -> None:
    heard = Transcripts(HOSTILE, f"said {HOSTILE}", {HOSTILE: f"heard {HOSTILE}"})
    found = read_page(page_of(Contents(examples=[Examples(HOSTILE, [heard])]), HOSTILE))
    assert not found.all("script") and not found.all("img")
    assert found.all("h1")[0].text == HOSTILE.replace("\x00", "\ufffd")
    folder = tmp_path / "<b>bold"
    folder.mkdir()
    (folder / "train.log").write_text("")
    named = page(folder, out=tmp_path / "page.html")
    assert not named.all("b") and "<b>bold is not compared" in named.text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty", None, "holds nothing to report on"),
        ("notes.txt", b"hello", "is none of what a page can tell of"),
        ("other.json", b'{"a": 1}', "is none of what a page can tell of"),
        ("broken.json", b'{"a": ', "is damaged"),
        ("cut.pt", b"PK\x03\x04", "is truncated, damaged"),
        ("cut.safetensors", b"\x10" + bytes(7) + b"{", "not a mask file, or damaged"),
        ("bad.json", BAD_EVALUATION, "is damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    name: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    line = refused(path, "--out", tmp_path / "page.html")
    assert name in line and reason in line
    assert not (tmp_path / "page.html").exists()


def test_outputs_that_would_be_lost_are_refused(bench: Bench, tmp_path: Path) -> None:
    assert "is a folder" in refused(bench.dense, "--out", tmp_path)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    assert "another kind of file" in refused(bench.dense, "--out", other)
    assert other.read_text() == "mine"
    assert "is given twice" in refused(bench.dense, bench.dense, "--out", tmp_path / "page.html")
    assert "does not exist" in refused(tmp_path / "none", "--out", tmp_path / "page.html")
