"""A bank's model: whatever was used before, each task computes what its checkpoint does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from banks import say
from checkpoints import MASKS, refusal, rewrite
from mask_files import MASKED
from model_banks import CONTEXT, TAKEN, Lab, outputs
from nano import rewrite_as_of_2020, write_data2vec, write_hubert, write_wav2vec2
from s3router_files import S3RouterFile
from safetensors.numpy import load_file
from slim_files import with_idle_units

from speechprune.bank.bank import Bank, add_task
from speechprune.decoding.inference import count_parameters
from speechprune.errors import UserError
from speechprune.models.loading import LoadedLabeller, LoadedModel, load_finetuned
from speechprune.models.mask_flags import MaskFlags, masked_roles
from speechprune.models.shared import SharedModel
from speechprune.rewriting.banking import add, create, extract
from speechprune.rewriting.baseline_masks import Ranking
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.masks import apply_masks
from speechprune.rewriting.slimming import apply
from speechprune.state_names import ENCODER, HEAD

FC1 = "encoder.layers.0.fc1.weight"


def half(path: Path) -> Path:
    """As fairseq saves what was trained in fp16."""

    def round_all(state: dict[str, Any]) -> None:
        for key, tensor in state["model"].items():
            if tensor.is_floating_point():
                state["model"][key] = tensor.half().float()

    return rewrite(path, round_all)


def free(path: Path) -> Path:
    """Norms, biases and the embedding of masked spans, as training moves them."""

    def move(state: dict[str, Any]) -> None:
        for key, tensor in state["model"].items():
            if key.startswith(ENCODER) and key.endswith(("layer_norm.weight", "fc1.bias")):
                state["model"][key] = tensor + torch.linspace(-0.5, 0.5, tensor.numel())

    return rewrite(path, move)


def slim(folder: Path) -> Path:
    """The encoder of a model that has lost heads and channels."""
    whole = Lab(folder / "whole")
    apply(with_idle_units(whole.finetuned("idle", {"_name": "wav2vec_ctc"})), folder / "slim.pt")
    export_encoder(folder / "slim.pt", folder / "slim_encoder.pt")
    return folder / "slim_encoder.pt"


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "base": write_wav2vec2,
    "xlsr": lambda path: write_wav2vec2(
        path, layer_norm_first=True, extractor_mode="layer_norm", normalize=True, layers=3
    ),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
    "hubert-batch-norm": lambda path: write_hubert(path, conv_pos_batch_norm=True),
    "hubert-large": lambda path: write_hubert(
        path, layer_norm_first=True, extractor_mode="layer_norm", normalize=True
    ),
    "2020": lambda path: rewrite_as_of_2020(write_wav2vec2(path)),
    "slim": lambda path: slim(path.parent).rename(path),
}


def assert_same(found: LoadedModel, expected: LoadedModel) -> None:
    assert torch.equal(outputs(found), outputs(expected))
    assert (found.density, found.removed) == (expected.density, expected.removed)
    assert count_parameters(found.model) == count_parameters(expected.model)
    assert found.provenance == expected.provenance
    assert found.cfg.task.normalize == expected.cfg.task.normalize


def walk(shared: SharedModel, sources: dict[str, Path], steps: int, every: int = 1) -> None:
    """Switch at random, and compare outputs with those of the task's checkpoint every so often."""
    expected = {name: outputs(load_finetuned(path)) for name, path in sources.items()}
    distinct = {tensor.numpy().tobytes() for tensor in expected.values()}
    assert len(distinct) == len(expected), "the premise: tasks differ"
    names = list(sources)
    for step, number in enumerate(np.random.default_rng(0).integers(len(names), size=steps)):
        name = names[number]
        loaded = shared.use(name)
        if step % every == 0:
            assert torch.equal(outputs(loaded), expected[name]), name


def add_all(lab: Lab, sources: dict[str, Path]) -> SharedModel:
    for name, path in sources.items():
        add(lab.bank, name, path)
    return SharedModel(lab.bank)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_its_checkpoints_do(tmp_path: Path, family: str) -> None:
    lab = Lab(tmp_path, FAMILIES[family])
    attention = {**MASKED, "fix_attn": False, "prune_rate": 0.5}
    sources = {
        "es": lab.finetuned("es", MASKED, seed=1),
        "fr": lab.finetuned("fr", attention, seed=2),
        "half": half(lab.finetuned("half", MASKED, seed=3)),
        "freed": free(lab.finetuned("freed", MASKED, seed=4)),
        "tone": lab.labelled("tone", seed=5),
    }
    shared = add_all(lab, sources)
    assert {Bank(lab.bank).precision(name) for name in sources} == {"float32", "float16"}
    walk(shared, sources, 50, every=5)
    for name, path in sources.items():
        extract(lab.bank, name, tmp_path / "out.pt")
        assert_same(shared.use(name), load_finetuned(path))
        out = load_finetuned(tmp_path / "out.pt")
        assert torch.equal(outputs(shared.use(name)), outputs(out))
        (tmp_path / "out.pt").unlink()


def test_hundreds_of_switches_among_masks_of_every_kind(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    sources = {
        kind.replace(" ", "-"): lab.finetuned(kind, settings, seed=number)
        for number, (kind, settings) in enumerate(TAKEN.items())
    }
    sources["s3router"] = tmp_path / "s3router.pt"
    S3RouterFile(sources["s3router"], lab.pretrained, lab.data, prune_rate=0.6, trainable_proj=True)
    sources["st-2020"] = rewrite_as_of_2020(lab.finetuned("2020", MASKS, seed=30))
    sources["zeros"] = with_zeros(lab)
    shared = add_all(lab, sources)
    walk(shared, sources, 400, every=10)
    for name, path in sources.items():
        assert_same(shared.use(name), load_finetuned(path))


def with_zeros(lab: Lab) -> Path:
    """Saved with the zeros of its masks, which are on directions under weight norm too."""
    roles = masked_roles(MaskFlags(no_prune_post_extract_proj=True, no_prune_pos=False))
    ranking = Ranking(lab.pretrained, "global-magnitude", roles=roles, biases=True, seed=0)
    ranking.masks(0.6).save(lab.folder / "masks.safetensors")
    own = {"mask_file": str(lab.folder / "masks.safetensors"), "no_prune_pos": False, **CONTEXT}
    settings = {"_name": "wav2vec_ctc_masked", "no_prune_post_extract_proj": True, **own}
    return lab.finetuned("zeros", settings, seed=31)


def test_a_base_of_half_precision(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    rewrite(lab.pretrained, _to_half)
    lab.bank.unlink()
    create(lab.pretrained, lab.bank)
    sources = {"es": lab.finetuned("es", MASKED, seed=1)}
    sources["fr"] = rewrite(lab.finetuned("fr", MASKED, seed=2), _to_half)
    walk(add_all(lab, sources), sources, 20)


def _to_half(state: dict[str, Any]) -> None:
    tensors = state["model"]
    for key, tensor in tensors.items():
        tensors[key] = tensor.half() if tensor.is_floating_point() else tensor


def test_what_only_pretraining_needs_does_no_harm(tmp_path: Path) -> None:
    """Finetuned HuBERT models of fairseq hold it."""
    lab = Lab(tmp_path, write_hubert)
    plain = lab.finetuned("plain", {"_name": "wav2vec_ctc"})
    ranking = Ranking(
        lab.pretrained, "magnitude", roles=["ffn.in", "ffn.out"], biases=False, seed=0
    )
    apply_masks(plain, ranking.masks(0.5), tmp_path / "source.pt")
    heads = {f"{ENCODER}label_embs_concat": torch.ones(10, 16)}
    rewrite(tmp_path / "source.pt", lambda state: state["model"].update(heads))
    add(lab.bank, "es", tmp_path / "source.pt")
    assert heads.keys() < set(Bank(lab.bank).own("es"))
    other = lab.finetuned("other", MASKED, seed=1)
    add(lab.bank, "fr", other)
    walk(SharedModel(lab.bank), {"es": tmp_path / "source.pt", "fr": other}, 10)


class Two:
    """A bank of two tasks of texts and one of classes."""

    def __init__(self, folder: Path) -> None:
        lab = Lab(folder)
        self.folder, self.bank = folder, lab.bank
        self.sources = {
            "es": lab.finetuned("es", MASKED, seed=1),
            "fr": lab.finetuned("fr", MASKED, seed=2),
            "tone": lab.labelled("tone"),
        }
        add_all(lab, self.sources)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two(tmp_path_factory.mktemp("two"))


def test_a_model_whose_task_has_gone_refuses_to_run(two: Two) -> None:
    shared = SharedModel(two.bank)
    spanish, tone = shared.use("es"), shared.use("tone")
    for stale, part in ((spanish, spanish.model), (spanish, spanish.model.w2v_encoder)):
        message = refusal(outputs, replace(stale, model=part))
        assert "the model of 'es'" in message and "those of 'tone' by now" in message
    assert str(two.bank) in message and "use('es')" in message
    before = outputs(tone)
    assert shared.use("es") is spanish
    outputs(spanish)
    with pytest.raises(UserError, match="those of 'es' by now"):
        outputs(tone)
    assert torch.equal(outputs(shared.use("tone")), before)


def test_an_unknown_task_leaves_the_present_one(two: Two) -> None:
    shared = SharedModel(two.bank)
    spanish = shared.use("es")
    before = outputs(spanish)
    assert "did you mean 'es'?" in refusal(shared.use, "ess")
    assert torch.equal(outputs(spanish), before)


def test_models_that_were_moved_switch_where_they_are(two: Two) -> None:
    """To half precision, in the place of a GPU."""
    shared = SharedModel(two.bank)
    shared.use("es")
    fr = shared.use("fr")
    fr.model.half()
    for name in ("es", "tone", "fr"):
        weights = dict(shared.use(name).model.named_parameters())
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
        expected = load_finetuned(two.sources[name])
        masks = expected.model.mask_controller.mask_set()
        own = expected.model.state_dict()[f"{ENCODER}{FC1}"] * masks[FC1]
        assert torch.equal(weights[f"{ENCODER}{FC1}"], own.half())
    shared.use("fr").model.float()
    for name, path in two.sources.items():
        assert torch.equal(outputs(shared.use(name)), outputs(load_finetuned(path)))


def test_heads_stay_ready_as_long_as_there_is_room(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechprune.models import shared as module

    shared = SharedModel(two.bank)
    found = {name: shared.use(name) for name in shared.tasks}
    assert all(shared.use(name) is loaded for name, loaded in found.items())
    monkeypatch.setattr(module, "_LEAST_ROOM", 2 * module._OVERHEAD)
    shared.use("tone")
    assert shared.use("es") is not found["es"]
    found["es"].model.eval()
    assert torch.equal(outputs(found["es"]), outputs(shared.use("es")))  # its task is back


def test_labels_keep_their_slots(two: Two) -> None:
    found, expected = SharedModel(two.bank).use("tone"), load_finetuned(two.sources["tone"])
    assert isinstance(found, LoadedLabeller) and isinstance(expected, LoadedLabeller)
    assert found.slots == expected.slots == found.model.slots


def test_a_model_is_whole_or_refused(two: Two, tmp_path: Path) -> None:
    """What the file lacks would be whatever is in memory."""
    tensors = load_file(two.bank)
    gone = "encoder.layers.1.final_layer_norm.bias"
    del tensors[f"base/{gone}"]
    path = tmp_path / "bank.safetensors"
    path.write_bytes(two.bank.read_bytes())

    def other_base(header: dict[str, Any]) -> None:
        from speechprune.checksums import checksum

        left = {key[len("base/") :]: t for key, t in tensors.items() if key.startswith("base/")}
        header["base"]["sha256"] = checksum({}, left)

    say(path, other_base, tensors)
    message = refusal(SharedModel, path)
    assert "lacks weights" in message and gone in message


def test_damage_is_found_before_anything_is_heard(two: Two, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from speechprune.bank.stored import StoredTensors

    path = tmp_path / "bank.safetensors"
    metadata = dict(StoredTensors(two.bank).metadata)
    for key, refused in ((f"base/{FC1}", SharedModel), (f"tasks/es/own/{HEAD}weight", None)):
        tensors = {name: array.copy() for name, array in load_file(two.bank).items()}
        tensors[key][0, 0] += 1
        save_file(tensors, path, metadata)
        if refused is not None:
            assert "damaged in its shared weights" in refusal(refused, path)
            continue
        shared = SharedModel(path)
        french = outputs(shared.use("fr"))
        assert "the task 'es' is damaged" in refusal(shared.use, "es")
        assert torch.equal(outputs(shared.use("fr")), french)


@pytest.mark.parametrize(
    "change",
    [{"encoder_attention_heads": 2}, {"activation_fn": "relu"}, {"layer_norm_first": True}],
    ids=str,
)
def test_an_encoder_that_computes_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Its weights fit, and its outputs would be another model's."""
    lab = Lab(tmp_path)
    source = lab.finetuned("es", MASKED)
    add(lab.bank, "fr", source)
    rewrite(source, lambda s: s["cfg"]["model"]["w2v_args"]["model"].update(change))
    add(lab.bank, "es", source)
    shared = SharedModel(lab.bank)
    ((key, value),) = change.items()
    message = refusal(shared.use, "es")
    assert f"{key}={value}" in message and "'es'" in message and "bank extract" in message
    extract(lab.bank, "es", tmp_path / "out.pt")
    assert torch.equal(
        outputs(load_finetuned(tmp_path / "out.pt")), outputs(load_finetuned(source))
    )
    assert not torch.equal(outputs(load_finetuned(source)), outputs(shared.use("fr")))


def test_tasks_without_a_model_of_their_own_are_refused(two: Two, tmp_path: Path) -> None:
    """Whoever writes a file may have it say anything."""
    path = tmp_path / "bank.safetensors"
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "settings": lambda about: about.pop("settings"),
        "symbols": lambda about: about["target_dictionary"].pop(),
        "provenance": lambda about: about.update(provenance=[1]),
        "name": lambda about: about["settings"]["model"].update(_name="wav2vec_labels"),
    }
    for change in changes.values():
        path.write_bytes(two.bank.read_bytes())
        say(path, lambda header, change=change: change(header["tasks"]["es"]["about"]))
        shared = SharedModel(path)
        assert str(path) in refusal(shared.use, "es")
        outputs(shared.use("fr"))


def test_a_task_that_was_made_by_hand(two: Two, tmp_path: Path) -> None:
    """Own tensors that no encoder has are left alone."""
    path = tmp_path / "bank.safetensors"
    path.write_bytes(two.bank.read_bytes())
    task = Bank(path).task("es")
    add_task(path, replace(task, name="it", own={**task.own, f"{ENCODER}x": np.ones(3, "f4")}))
    shared = SharedModel(path)
    spanish = outputs(shared.use("es"))
    assert torch.equal(outputs(shared.use("it")), spanish)


@pytest.mark.cuda
def test_a_gpu_computes_what_the_cpu_does(two: Two) -> None:
    """Masks are equal, and outputs but for rounding; models move with whoever moves them."""
    there, here = SharedModel(two.bank, "cuda"), SharedModel(two.bank)
    moved = SharedModel(two.bank)
    moved.use("es").model.cuda()
    names = list(two.sources)
    for number in np.random.default_rng(3).integers(len(names), size=30):
        expected = here.use(names[number])
        for shared in (there, moved):
            found = shared.use(names[number])
            weights = found.model.state_dict()
            for key, tensor in expected.model.state_dict().items():
                assert torch.equal(weights[key].cpu(), tensor), key
            torch.testing.assert_close(
                outputs(found).cpu(), outputs(expected), rtol=1e-3, atol=1e-3
            )
