"""The map of claims: what is trained on which data, how rates are chosen, and what is counted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from nano import write_corpus

from benchmarks.claims.command import _measure, described
from benchmarks.claims.data import Fold, make_fold
from benchmarks.claims.figure import draw
from benchmarks.claims.figure import main as figure_command
from benchmarks.claims.measured import Errors, MethodResult, PanelResult, SeedResult
from benchmarks.claims.methods import METHODS, Method, make_known
from benchmarks.claims.own_bytes import own_bytes
from benchmarks.claims.panel import Panel
from benchmarks.claims.table import main as table_command
from benchmarks.claims.table import tables
from benchmarks.claims.whole import WholeMap
from benchmarks.claims.why import INGREDIENTS
from speechprune.bank.coding import entropy
from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.manifest import Split, Utterance, read_split, write_manifest
from speechprune.masking.bits import pack_bits
from speechprune.masking.masked_site import masked_weight
from speechprune.models.loading import load_recogniser
from speechprune.recipes.nano import ASSET
from speechprune.training.rehearsal import rehearse
from speechprune.training.run import TrainingRun

ALL = {**METHODS, **INGREDIENTS}
LORA = METHODS["LoRA FFN"]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Twenty utterances of 6 s in each split, by two speakers in turn; no recordings."""
    splits = []
    for name in ("train", "valid", "test"):
        utterances = tuple(
            Utterance(f"{name}/{n:02}.flac", 6 * SAMPLE_RATE, "ONE TWO", ("ann", "bob")[n % 2])
            for n in range(20)
        )
        splits.append(Split(name, tmp_path, utterances))
    folder = tmp_path / "whole"
    folder.mkdir()
    write_manifest(folder, splits, {})
    return folder


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    """One seed on a corpus of tones, two updates."""
    data = write_corpus(tmp_path / "data", train=4, valid=2)
    for split in ("trained", "known", "unknown"):
        for ending in ("tsv", "ltr", "wrd"):
            (data / f"{split}.{ending}").write_bytes((data / f"valid.{ending}").read_bytes())
    return Panel(ASSET, 2, (Fold(data, "nobody"),), tmp_path / "runs", 1, lambda line: None)


def test_a_speaker_is_heard_nowhere_but_in_the_split_of_the_unknown(
    whole: Path, tmp_path: Path
) -> None:
    fold = make_fold(whole, tmp_path / "folds", "bob", 0.5)
    heard = {
        name: {each.speaker for each in read_split(fold.folder, name).utterances}
        for name in ("train", "valid", "trained", "known", "unknown")
    }
    assert heard.pop("unknown") == {"bob"}
    assert all(speakers == {"ann"} for speakers in heard.values())


def test_more_minutes_are_the_same_and_more(whole: Path, tmp_path: Path) -> None:
    few, many = (
        read_split(make_fold(whole, tmp_path / "folds", "ann", minutes).folder, "train")
        for minutes in (0.3, 0.7)
    )
    assert many.utterances[: len(few.utterances)] == few.utterances
    assert 0.3 <= few.seconds / 60 < 0.4 and 0.7 <= many.seconds / 60 < 0.8


@pytest.mark.parametrize("name", ALL)
def test_methods_are_settings_that_train(name: str, panel: Panel) -> None:
    method = ALL[name]
    run = replace(panel, updates=500).run(method, method.rates[0], 1)
    cfg = rehearse(["--config-name", run.config, *run.all_overrides])
    assert cfg.optimization.max_update == 500 and cfg.optimization.lr == [method.rates[0]]
    assert len(method.rates) >= 5 and list(method.rates) == sorted(method.rates)
    assert cfg.model.freeze_finetune_updates == (100 if "head first" in name else 0)


@pytest.mark.parametrize(
    "name, best, tried",
    [
        ("head alone", 0, (0, 1, 2, 3)),
        ("head alone", 1, (0, 1, 2, 3)),
        ("head alone", 2, (1, 2, 3)),
        ("head alone", 4, (1, 2, 3, 4)),
        ("weights", 1, (0, 1, 2, 3, 4)),
        ("LoRA FFN", 3, (2, 3, 4)),
        ("LoRA FFN", 0, (0, 1, 2, 3, 4)),
        ("LoRA FFN", 6, (2, 3, 4, 5, 6)),
    ],
)
def test_rates_are_tried_until_the_best_has_worse_ones_beside_it(
    name: str, best: int, tried: tuple[int, ...], panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors grow with the distance from the best place."""
    rates = METHODS[name].rates
    errors = {f"{rate:g}": abs(place - best) / 10 for place, rate in enumerate(rates)}
    monkeypatch.setattr(Panel, "_train", lambda self, runs: None)
    monkeypatch.setattr(
        Panel,
        "_errors",
        lambda self, run, which, split: Errors(1.0, errors[run.name.split("-")[-3]]),
    )
    found = panel._try_rates(METHODS[name])
    assert tuple(rates.index(rate) for rate in found) == tried
    assert min(found, key=found.__getitem__) == rates[best]


def test_bytes_are_of_what_training_changed_and_of_masks_as_banks_code_them() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(200, 300, generator=generator) < 0.9
    frozen, moved = torch.ones(200, 300), torch.ones(7)
    before = {"fc1.weight": frozen.half(), "fc1.bias": torch.zeros(7)}
    encoder, head = "w2v_encoder.w2v_model.", "w2v_encoder.proj.weight"
    after = {f"{encoder}fc1.weight": frozen, f"{encoder}fc1.bias": moved, head: torch.ones(5, 3)}
    assert own_bytes(after, before) == 2 * (7 + 15)
    masked = {
        f"{encoder}fc1.weight_mask": pack_bits(mask),
        f"{encoder}fc1.scores": torch.rand(200, 300, generator=generator),
    }
    of_mask = own_bytes({**after, **masked}, before) - 2 * (7 + 15)
    assert entropy(mask.float().mean().item(), mask.numel()) == pytest.approx(of_mask, rel=0.03)
    whole = {f"{encoder}fc1.weight_mask": pack_bits(torch.ones_like(mask))}
    assert own_bytes({**after, **whole}, before) == 2 * (7 + 15)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_what_half_precision_only_rounded_takes_no_bytes(precision: torch.dtype) -> None:
    """fairseq saves the rounded weights in float32."""
    before = {"fc1.weight": torch.linspace(-1, 1, 7), "counter": torch.tensor(3)}
    encoder, head = "w2v_encoder.w2v_model.", torch.ones(5, 3)
    after = {f"{encoder}{key}": value.to(precision).float() for key, value in before.items()}
    assert not torch.equal(after[f"{encoder}fc1.weight"], before["fc1.weight"])
    assert own_bytes({**after, "w2v_encoder.proj.weight": head}, before) == 2 * 15
    after[f"{encoder}fc1.weight"][3] += 1e-3
    assert own_bytes({**after, "w2v_encoder.proj.weight": head}, before) == 2 * (15 + 7)


def test_lora_trains_evaluates_and_takes_the_bytes_of_its_factors_and_head(panel: Panel) -> None:
    make_known()
    found = panel.measured(replace(LORA, rates=(0.01,)))
    assert set(found.tried) == {0.01} and found.seeds[0].errors["best"]["unknown"].wer > 0
    run = panel.run(LORA, 0.01, 1)
    model = load_recogniser(run.checkpoint, Path(run.data)).model
    layers = model.w2v_encoder.w2v_model.encoder.layers
    head = sum(p.numel() for p in model.w2v_encoder.proj.parameters())
    rank, both_sides = 4, 160 + 640
    assert found.bytes == 2 * (len(layers) * 2 * rank * both_sides + head)
    layer, x = layers[0].fc1, torch.randn(3, 160)
    up, down = (p.half().float() for p in (layer.low_rank.up, layer.low_rank.down))
    expected = x @ (layer.weight + up @ down).T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_mask_dropout_lets_removed_connections_act_in_training_alone(panel: Panel) -> None:
    make_known()
    method = replace(INGREDIENTS["mask dropout"], rates=(0.02,))
    panel.measured(method)
    run = panel.run(method, 0.02, 1)
    model = load_recogniser(run.checkpoint, Path(run.data)).model
    masked = masked_weight(model.mask_controller.sites[0])
    values = torch.randn(masked.mask.shape)
    model.eval()
    masked.forget_product()
    assert torch.equal(masked.product(values), values * masked.mask)
    model.train()
    first, second = masked.product(values), masked.product(values)
    assert torch.equal(first[masked.mask], values[masked.mask])
    back = (first[~masked.mask] != 0).float().mean().item()
    assert back == pytest.approx(0.2, abs=0.03)
    assert not torch.equal(first, second), "drawn anew each time"


def result(minutes: float, name: str, wers: list[float]) -> PanelResult:
    seeds = tuple(
        SeedResult(
            number,
            f"speaker{number}",
            {
                which: {s: Errors(wer, wer / 3) for s in ("trained", "known", "unknown")}
                for which in ("last", "best")
            },
        )
        for number, wer in enumerate(wers, 1)
    )
    method = MethodResult(name, {0.001: 0.5, 0.002: 0.25}, 1234, seeds)
    return PanelResult("nano", "d1", "r1", minutes, 500, (method,))


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    before = result(3, "weights", [0.2, 0.1, 1.3])
    before.save(tmp_path / "panel.json")
    assert PanelResult.load(tmp_path / "panel.json") == before
    assert "seeds 1 without speaker1, 2 without" in before.title and "500 updates" in before.title


def test_what_is_measured_anew_takes_the_place_of_what_was_known() -> None:
    before = result(3, "weights", [0.2])
    masks, anew = (result(3, name, [0.4]).methods[0] for name in ("masks", "weights"))
    order = ["masks", "weights"]
    both = before.with_method(masks, order)
    assert both.with_method(anew, order).methods == (masks, anew), "in the order of tables"
    assert before.methods == result(3, "weights", [0.2]).methods


@pytest.mark.parametrize(
    ("change", "seeds", "reason"),
    [
        ({"digest": "d2"}, 1, "digest='d1'"),
        ({"recordings": "r2"}, 1, "recordings='r1'"),
        ({}, 2, "of seeds 1 without speaker1, not of seeds 1 without speaker1, 2 without"),
        ({"name": "weights as they were"}, 1, "methods of other names: .'weights as they were'"),
    ],
)
def test_what_does_not_go_with_what_is_known_is_refused_before_training(
    tmp_path: Path, panel: Panel, change: dict[str, str], seeds: int, reason: str
) -> None:
    known = result(3, change.pop("name", "weights"), [0.2])
    known.save(tmp_path / "panel.json")
    folds = tuple(Fold(tmp_path, f"speaker{n}") for n in range(1, 1 + seeds))
    place = replace(known, methods=(), **change)
    with pytest.raises(click.ClickException, match=reason):
        _measure(replace(panel, folds=folds), place, METHODS, ["weights"], tmp_path / "panel.json")


def test_a_rate_at_which_training_diverges_is_the_worst(
    panel: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(self: Panel, runs: list[TrainingRun]) -> None:
        for run in runs:
            if "rate-0.004" in run.name:
                raise UserError(f"{run.name}: training failed (training diverged (Nan)); see log")

    monkeypatch.setattr(Panel, "_train", train)
    monkeypatch.setattr(Panel, "_errors", lambda self, run, which, split: Errors(0.5, 0.5))
    tried = panel._try_rates(METHODS["weights"])
    assert tried == {0.0002: 0.5, 0.0005: 0.5, 0.001: 0.5, 0.002: 0.5, 0.004: math.inf}
    before = result(3, "weights", [0.2])
    diverged = replace(before.methods[0], tried=tried)
    panel_of = replace(before, methods=(diverged,))
    panel_of.save(tmp_path / "panel.json")
    assert "Infinity" not in (tmp_path / "panel.json").read_text()
    assert PanelResult.load(tmp_path / "panel.json") == panel_of
    assert list(described(panel_of))[-1].endswith("0.002: 50.0, 0.004: diverged")


def test_other_failures_end_a_panel(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(self: Panel, runs: list[TrainingRun]) -> None:
        raise UserError(f"{runs[0].name}: training failed (disk full); see /diverged/train.log")

    monkeypatch.setattr(Panel, "_train", train)
    with pytest.raises(UserError, match="training failed"):
        panel._try_rates(METHODS["weights"])


def test_tables_have_a_row_of_words_and_one_of_characters_for_each_method() -> None:
    lines = list(described(result(3, "weights", [0.2, 0.1, 1.3])))
    assert "3 labelled minutes" in lines[0]
    rows = [line.split("  ") for line in lines if line.startswith("weights")]
    assert [row[-1].strip() for row in rows] == [
        "20.0 (10.0 to 130.0)",
        "6.7 (3.3 to 43.3)",
        "0.001: 50.0, 0.002: 25.0",
    ]


def test_intervals_are_of_values_that_there_were() -> None:
    cells = list(result(3, "weights", [0.2, 0.1, 1.3]).methods[0].row("wer"))
    assert cells[:3] == ["weights", "0.002", "1,234"] and cells[3] == "20.0 (10.0 to 130.0)"


def test_a_map_is_of_one_model_with_the_same_seeds() -> None:
    panels = [result(3, "masks", [0.4, 0.1, 0.3]), result(1, "weights", [0.2, 0.1, 1.3])]
    assert [panel.minutes for panel in WholeMap.of(panels).panels] == [1, 3]
    with pytest.raises(ValueError, match="one model"):
        WholeMap.of([*panels, replace(panels[0], digest="d2")])
    with pytest.raises(ValueError, match="same speech"):
        WholeMap.of([*panels, replace(panels[0], recordings="r2")])
    with pytest.raises(ValueError, match="and seeds"):
        WholeMap.of([*panels, result(10, "masks", [0.4])])
    with pytest.raises(ValueError, match="same minutes"):
        WholeMap.of([panels[0], panels[0]])


def test_commands_show_the_map_of_files_or_say_in_one_line_why_not(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{minutes}.json") for minutes in (1, 3)]
    for file, minutes, name in zip(files, (1, 3), ("weights", "masks")):
        result(minutes, name, [0.4, 0.1, 0.3]).save(Path(file))

    def run(command: click.Command, *words: str) -> str:
        found = CliRunner().invoke(command, words)
        assert isinstance(found.exception, SystemExit) or found.exception is None
        return found.output

    shown = run(table_command, *files)
    assert "weights" in shown and "masks" in shown
    assert "weights" not in run(table_command, *files, "--method", "masks")
    assert run(figure_command, *files, "--out", str(tmp_path / "map.png")) == ""
    assert (tmp_path / "map.png").exists()
    assert "Error: not measured: LoRA" in run(table_command, *files, "--method", "LoRA")
    assert "Error: two panels have the same" in run(table_command, files[0], files[0])
    Path(files[0]).write_text("{}")
    assert "is not a panel of the map" in run(table_command, *files)


def test_a_map_is_drawn(tmp_path: Path) -> None:
    panels = [result(1, "weights", [0.2, 0.1, 1.3]), result(3, "masks", [0.4, 0.1, 0.3])]
    draw(WholeMap.of([*panels, replace(panels[0], updates=2000)]), tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_some_methods_of_a_map_are_those_that_were_measured_where_they_were() -> None:
    first, second = result(1, "weights", [0.2, 0.1, 1.3]), result(3, "masks", [0.4, 0.1, 0.3])
    both = replace(second, methods=(*second.methods, *first.methods))
    whole = WholeMap.of([first, both])
    assert whole.only(["masks"]) == WholeMap.of([second])
    assert whole.only(["weights", "masks"]) == whole
    with pytest.raises(ValueError, match="not measured: LoRA"):
        whole.only(["masks", "LoRA"])


def test_a_map_in_tables_has_a_column_for_each_place() -> None:
    first, second = result(1, "weights", [0.2, 0.1, 1.3]), result(3, "masks", [0.4, 0.1, 0.3])
    both = replace(second, methods=(*second.methods, *first.methods))
    lines = list(tables(WholeMap.of([replace(first, updates=2000), both, first])))
    at = lines.index("\nknown speakers")
    assert [line.split() for line in lines[at + 1 : at + 5]] == [
        ["updates", "500", "2,000"],
        ["labelled", "minutes", "1", "3", "1"],
        ["masks", "-", "30.0", "-"],
        ["weights", "20.0", "20.0", "20.0"],
    ]
    starts = [lines[at + 1].index("500"), lines[at + 1].index("2,000") + len("2,000")]
    assert starts == [lines[at + 2].index("1") - 2, len(lines[at + 2])], "above their minutes"


def test_a_method_is_called_in_paths_what_it_is_called_in_tables() -> None:
    slugs = [method.slug for method in ALL.values()]
    assert len(set(slugs)) == len(ALL) and not any("/" in slug for slug in slugs)
    assert Method("masks FFN, 4 %", (), ()).slug == "masks-FFN-4"
