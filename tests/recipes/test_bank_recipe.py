"""`speechprune recipe bank`: several tasks on one model, in one bank, with real training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from forked_training import SHORT, runs_in_forks
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.bank.bank import Bank
from speechprune.bank.task import Task
from speechprune.checkpoint import digest
from speechprune.locks import locked
from speechprune.models.mask_reading import read_mask_set
from speechprune.recipes import bank as steps
from speechprune.recipes.tasks import METHODS, TaskData, TaskSetting, tasks_of
from speechprune.tools.main import commands

UPDATES = 2
RATES = {"masks": "0.02", "head": "0.03", "weights": "0.002"}


def write_task(folder: Path, seed: int, *labels: str) -> Path:
    """A corpus with the splits train, valid and test, and some of .ltr, .phn and .lbl."""
    write_corpus(folder, train=8, valid=4, seed=seed)
    write_corpus(folder / "other", train=1, valid=3, seed=seed + 100)
    for ending in ("tsv", "ltr"):
        shutil.copy(folder / "other" / f"valid.{ending}", folder / f"test.{ending}")
    for split in ("train", "valid", "test"):
        letters = (folder / f"{split}.ltr").read_text()
        (folder / f"{split}.phn").write_text(letters.replace("| ", "").replace(" |", ""))
        rows = [f"{'even' if i % 2 else 'odd'}" for i in range(letters.count("\n"))]
        (folder / f"{split}.lbl").write_text("".join(f"{row}\n" for row in rows))
    (folder / "dict.phn.txt").write_text("".join(f"{letter} 1\n" for letter in "ABCDE"))
    (folder / "dict.lbl.txt").write_text("parity\teven\t1\nparity\todd\t1\n")
    for ending in {"ltr", "phn", "lbl"} - set(labels):
        for path in (*folder.glob(f"*.{ending}"), folder / f"dict.{ending}.txt"):
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder / "es", 1, "ltr")
    write_task(folder / "it", 2, "phn", "ltr")
    write_task(folder / "parity", 3, "lbl")
    write_wav2vec2(folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def trained() -> Iterator[list[str]]:
    with runs_in_forks() as begun:
        yield begun


def recipe(folder: Path, out: str, tasks: dict[str, str], *more: object) -> Result:
    words = ["recipe", "bank", "--model", folder / "model.pt", "--out", folder / out]
    for name, data in tasks.items():
        words += ["--task", f"{name}={folder / data}"]
    words += ["--config-name", "demo/nano", "--labels-config-name", "demo/nano_labels"]
    words += ["--updates", UPDATES, *SHORT[:2]]
    for method, rate in RATES.items():
        words += [f"--{method}-learning-rate", rate]
    return CliRunner().invoke(commands, [str(word) for word in (*words, *more)])


def report_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


THREE = {"es": "es", "it": "it:phn", "parity": "parity"}


@pytest.fixture(scope="module")
def report(folder: Path, trained: list[str]) -> dict[str, Any]:
    found = report_of(recipe(folder, "three", THREE, "--json"))
    assert trained == [f"{task}/{method}" for task in THREE for method in METHODS]
    return found


def evaluated(folder: Path, task: str, method: str) -> dict[str, Any]:
    """What `speechprune evaluate` prints of a training's best checkpoint."""
    best = folder / "three" / task / method / "checkpoints/checkpoint_best.pt"
    words = ["evaluate", best, "--data", folder / task, "--subset", "test", "--json"]
    result = CliRunner().invoke(commands, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_errors_are_those_that_evaluate_prints(folder: Path, report: dict[str, Any]) -> None:
    assert [(t["name"], t["kind"], t["rate"]) for t in report["tasks"]] == [
        ("es", "letters", "WER"),
        ("it", "units", "UER"),
        ("parity", "labels", "1 - accuracy"),
    ]
    for task in report["tasks"]:
        assert task["utterances"] == {"train": 8, "valid": 4, "test": 3}
        assert list(task["errors"]) == list(METHODS)
        for method, error in task["errors"].items():
            found = evaluated(folder, task["name"], method)
            expected = found["wer"] if "wer" in found else 1 - found["accuracy"]
            assert error == expected
            if task["name"] == "es":
                assert task["character_errors"][method] == found["cer"]
    for method, mean in report["means"].items():
        errors = [task["errors"][method] for task in report["tasks"]]
        assert mean == pytest.approx(sum(errors) / 3)


def test_sizes_are_those_that_bank_list_prints(folder: Path, report: dict[str, Any]) -> None:
    words = ["bank", "list", str(folder / "three" / report["bank"])]
    sizes = json.loads(CliRunner().invoke(commands, [*words, "--json"]).stdout)
    assert report["sizes"] == sizes
    for task, size in zip(report["tasks"], sizes["tasks"]):
        assert (task["name"], task["density"]) == (size["name"], size["density"])
        rate = size["error_rate"]
        assert rate["percent"] == 100 * task["errors"]["masks"] and rate["split"] == "test"
    share = (sizes["file_bytes"] - sizes["base_bytes"]) / 3 / sizes["base_bytes"]
    assert report["share_of_a_task"] == pytest.approx(share)
    assert report["saving_at"]["3"] == pytest.approx(
        1 - sizes["file_bytes"] / sizes["base_bytes"] / 3
    )
    assert report["saving_at"]["11"] == pytest.approx(1 - (1 + 11 * share) / 11)
    # The paper's share of 0.0241 gives its 88.5 %.
    assert report["published"]["saving"] == pytest.approx(1 - (1 + 11 * 0.0241) / 11, abs=1e-4)


def test_the_report_is_for_people_too(folder: Path, report: dict[str, Any]) -> None:
    text = (folder / "three/report.md").read_text()
    es, sizes = report["tasks"][0], report["sizes"]
    row = next(line for line in text.splitlines() if line.startswith("| es |"))
    words, letters = es["errors"]["masks"], es["character_errors"]["masks"]
    assert f"| 8 | 3 | WER (CER) | {100 * words:.2f} ({100 * letters:.2f}) |" in row
    assert f"| {sizes['tasks'][0]['mask_bytes']:,} |" in row
    assert f"= {100 * sizes['saving']:.1f} %." in text and "88.5 % fewer parameters" in text
    assert (folder / "three/report.png").read_bytes()[:4] == b"\x89PNG"


def test_trainings_are_what_their_names_say(folder: Path, report: dict[str, Any]) -> None:
    base = torch.load(folder / "model.pt", weights_only=True)["model"]
    site = "encoder.layers.0.fc1.weight"
    for task, metric in (("es", "wer"), ("it", "uer"), ("parity", "accuracy")):
        kept = {}
        for method in METHODS:
            path = folder / "three" / task / method / "checkpoints/checkpoint_best.pt"
            state = torch.load(path, weights_only=True)
            cfg = state["cfg"]
            assert cfg["checkpoint"]["best_checkpoint_metric"] == metric
            assert cfg["checkpoint"]["maximize_best_checkpoint_metric"] is (metric == "accuracy")
            assert cfg["optimization"]["lr"] == [float(RATES[method])]
            assert state["optimizer_history"][-1]["num_updates"] == UPDATES
            kept[method] = state["model"][f"w2v_encoder.w2v_model.{site}"]
        assert torch.equal(kept["head"], base[site]) and not torch.equal(
            kept["weights"], base[site]
        )
        masks = read_mask_set(folder / "three" / task / "masks/checkpoints/checkpoint_best.pt")
        assert masks.density == pytest.approx(0.9, abs=1e-3)
        assert all("fc" in name for name in masks)
        assert Bank(folder / "three/tasks.bank").masks(task) == masks


def test_again_nothing_is_trained_or_written_otherwise(
    folder: Path, report: dict[str, Any], trained: list[str]
) -> None:
    before, bank = len(trained), (folder / "three/tasks.bank").read_bytes()
    other_order = dict(reversed(THREE.items()))
    found = report_of(recipe(folder, "three", other_order, "--json"))
    assert len(trained) == before and (folder / "three/tasks.bank").read_bytes() == bank
    assert _by_name(found) == _by_name(report)
    assert found["means"] == pytest.approx(report["means"])


def test_interrupted_anywhere_it_goes_on_to_the_same_end(
    folder: Path, report: dict[str, Any], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {"es": "es", "parity": "parity"}
    before = len(trained)
    add_task, bank = steps.add_task, folder / "interrupted/tasks.bank"

    def add_one(path: Path, task: Task, onto: str) -> Bank:
        return add_task(path, task, onto) if task.name == "es" else _interrupt()

    for name, interrupted, in_bank in (
        ("create", _interrupt, None),
        ("finish_all", _interrupt, []),
        ("evaluate_checkpoint", _interrupt, []),
        ("add_task", _interrupt, []),
        ("add_task", add_one, ["es"]),
        ("Report", _interrupt, ["es", "parity"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(steps, name, interrupted)
            result = recipe(folder, "interrupted", tasks, "--methods", "masks")
        assert result.exit_code == 130, result.output
        assert (Bank(bank).names if bank.exists() else None) == in_bank
        assert not (folder / "interrupted/report.json").exists()
    found = report_of(recipe(folder, "interrupted", tasks, "--methods", "masks", "--json"))
    assert trained[before:] == ["es/masks", "parity/masks"]
    for name, task in _by_name(found).items():
        expected = _by_name(report)[name]
        assert task["errors"] == {"masks": expected["errors"]["masks"]}
        whole = Bank(folder / "three/tasks.bank")
        assert Bank(bank).masks(name) == whole.masks(name)


def _interrupt(*args: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


def _by_name(report: dict[str, Any]) -> dict[str, Any]:
    return {task["name"]: task for task in report["tasks"]}


def test_a_further_task_or_method_is_all_that_is_trained(folder: Path, trained: list[str]) -> None:
    def add(tasks: dict[str, str], methods: str, *more: object) -> list[str]:
        """The trainings that a command begins."""
        before = len(trained)
        words = ("--methods", methods, "--json", *more)
        found = report_of(recipe(folder, "growing", tasks, *words))
        assert [task["name"] for task in found["tasks"]] == list(tasks)
        assert list(found["means"]) == list(dict.fromkeys(["masks", *methods.split(",")]))
        return trained[before:]

    both = {"parity": "parity", "it": "it:ltr"}
    assert add({"it": "it:ltr"}, "masks") == ["it/masks"]
    assert add(both, "masks") == ["parity/masks"]
    path = folder / "growing/tasks.bank"
    first = Bank(path)
    assert first.names == ["it", "parity"]
    assert sorted(add(both, "head", "--jobs", 2)) == ["it/head", "parity/head"]
    # What was trained anew takes the place of the old.
    shutil.rmtree(folder / "growing/it/masks")
    assert add(both, "masks") == ["it/masks"]
    assert Bank(path).names == ["parity", "it"]
    best = folder / "growing/it/masks/checkpoints/checkpoint_best.pt"
    assert Bank(path).about("it")["source"] == digest(best) != first.about("it")["source"]
    assert Bank(path).about("parity") == first.about("parity")


def test_each_task_has_a_seed_of_its_own_whatever_the_order(tmp_path: Path) -> None:
    data = TaskData(tmp_path, "ltr")

    def seeds(*names: str, seed: int = 1) -> dict[str, int]:
        tasks = dict.fromkeys(names, data)
        setting = TaskSetting(tmp_path, tasks, tmp_path / "model.pt", seed=seed)
        return {name: setting.seed_of(name) for name in names}

    found = seeds("es", "it", "zh")
    assert len(set(found.values())) == 3 and all(0 <= s < 2**31 for s in found.values())
    assert found == seeds("zh", "it", "es") and found["it"] == seeds("it")["it"]
    assert set(seeds("es", "it", seed=2).values()).isdisjoint(found.values())


def test_biases_and_norms_train_beside_masks_alone_and_the_bank_keeps_them(
    folder: Path, trained: list[str]
) -> None:
    more = ("--train-norms", "--methods", "head")
    assert recipe(folder, "norms", {"es": "es"}, *more).exit_code == 0
    before = torch.load(folder / "model.pt")["model"]
    moved = {}
    for method in ("masks", "head"):
        last = folder / "norms" / "es" / method / "checkpoints/checkpoint_last.pt"
        after = torch.load(last)["model"]
        moved[method] = {
            key.rpartition(".")[2] if "layer_norm" not in key else "layer_norm"
            for key in before
            if (new := after.get(f"w2v_encoder.w2v_model.{key}")) is not None
            and not torch.equal(new, before[key])
        }
    assert moved == {"masks": {"bias", "layer_norm"}, "head": set()}
    kept = {key.rpartition(".")[2] for key in Bank(folder / "norms" / "tasks.bank").own("es")}
    assert kept == {"weight", "bias"}


def test_data_may_have_a_colon_in_their_names(tmp_path: Path) -> None:
    for name in ("a:b", "c"):
        write_task(tmp_path / name, 1, "ltr")
    found = tasks_of([f"x={tmp_path}/a:b", f"y={tmp_path}/a:b:ltr", f"z={tmp_path}/c"])
    assert [data.folder.name for data in found.values()] == ["a:b", "a:b", "c"]


@pytest.mark.parametrize(
    ("tasks", "more", "complaint"),
    [
        ("es=es es=it:phn", "", "two tasks are called 'es'"),
        ("es", "", "'es' is not a task; give NAME=DATA"),
        ("auto=es", "", "'auto' cannot be the name of a task"),
        ("es=nowhere", "", "no folder"),
        ("es=it", "", "has several labels, .ltr, .phn; choose one, such as"),
        ("es=es:phn", "", "has no SPLIT.phn; its labels are .ltr"),
        ("es=es", "--test nothing", "nothing.tsv is missing"),
        ("es=es", "--train nothing", "nothing.tsv is missing"),
        ("es=es", "--test valid", "is also a split"),
        ("es=es", "--methods mask", "unknown method 'mask'; did you mean 'masks'?"),
        ("es=es", "--sparsity 1", "1.0 is not in the range"),
        ("es=es", "--config-name demo/nanno", "did you mean 'demo/nano'?"),
        ("es=es", "common.seed=2", "use --seed"),
        ("es=es", "model.prune_rate=0.5", "use --sparsity"),
        ("es=es", "optimization.lr=[0.1]", "use --masks-learning-rate"),
        ("es=es", "dataset.valid_subset=test", "use --valid"),
        ("es=es", "checkpoint.patience=1", "checkpoint.patience may end a training before"),
        ("es=es", "dataset.disable_validation=true", "leaves no best checkpoint"),
        ("es=es", "dataset.validate_after_updates=3", "leaves no best checkpoint in 2 updates"),
        ("es=es", "model.dropot=0.1", "did you mean 'model.dropout'"),
        ("es=es parity=parity", "criterion.zero_infinity=true", "the task parity: "),
        ("es=es", "task.normalize=true", "pretrained with normalize=false"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    folder: Path, trained: list[str], tasks: str, more: str, complaint: str
) -> None:
    words = ["recipe", "bank", "--model", f"{folder}/model.pt", "--out", f"{folder}/refused"]
    for task in tasks.split():
        words += ["--task", task.replace("=", f"={folder}/")]
    words += ["--config-name", "demo/nano", "--labels-config-name", "demo/nano_labels"]
    words += ["--updates", "2", *(w for m, r in RATES.items() for w in (f"--{m}-learning-rate", r))]
    refused(words + more.split(), complaint, trained)
    assert not list((folder / "refused").rglob("*.pt"))


def refused(words: list[str], complaint: str, trained: list[str]) -> None:
    before = len(trained)
    result = CliRunner().invoke(commands, words)
    assert result.exit_code != 0 and complaint in result.output, result.output
    assert result.stderr.count("\n") == 1 or "Usage" in result.output, result.output
    assert len(trained) == before


def test_labels_that_do_not_fit_their_slots_are_refused(
    folder: Path, trained: list[str], tmp_path: Path
) -> None:
    data = write_task(tmp_path / "broken", 3, "lbl")
    labels = data / "test.lbl"
    labels.write_text(labels.read_text().replace("odd\n", "odd\tloud\n", 1))
    result = recipe(folder, "refused", {"es": "es", "parity": str(data)})
    assert result.exit_code != 0 and "has 2 column(s) for 1 slot(s), parity" in result.output
    assert not list((folder / "refused").rglob("*.pt"))


def test_a_base_that_is_finetuned_already_is_refused(folder: Path, trained: list[str]) -> None:
    write_finetuned(folder / "finetuned.pt", folder / "model.pt", folder / "es")
    words = ["recipe", "bank", "--model", f"{folder}/finetuned.pt", "--out", f"{folder}/refused"]
    words += ["--task", f"es={folder}/es", "--config-name", "demo/nano"]
    refused(words, "is a finetuned model", trained)


def test_a_folder_of_other_settings_or_other_tasks_is_refused(
    folder: Path, report: dict[str, Any], trained: list[str]
) -> None:
    before = len(trained)
    for tasks, more, complaint in (
        (THREE, ("--sparsity", "0.2"), "sparsity=0.1, not 0.2"),
        (THREE, ("--train-norms",), "norms=null, not true"),
        ({**THREE, "es": "it:ltr"}, (), "made with other settings (data of es="),
        ({"es": "es"}, (), "holds it, parity too; give --task for each"),
    ):
        result = recipe(folder, "three", tasks, *more)
        assert result.exit_code != 0 and complaint in result.output, result.output
        assert result.stderr.count("\n") == 1
    assert len(trained) == before


def test_a_folder_in_use_is_refused(folder: Path, trained: list[str]) -> None:
    with locked(folder / "used"):
        result = recipe(folder, "used", {"es": "es"}, "--methods", "masks")
    assert result.exit_code != 0 and result.stderr.count("\n") == 1


def test_a_damaged_bank_is_refused(
    folder: Path, report: dict[str, Any], trained: list[str], tmp_path: Path
) -> None:
    (tmp_path / "tasks.bank").write_bytes((folder / "three/tasks.bank").read_bytes()[:-100])
    before = len(trained)
    result = recipe(folder, str(tmp_path), THREE)
    assert result.exit_code != 0 and result.stderr.count("\n") == 1 and len(trained) == before
