"""Phoneme inventories: the published cosines, codes, files of one's own, and bad files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from speechprune.errors import UserError
from speechprune.reports.phonemes import BUILT_IN, Inventories, Inventory

CODES = ("en", "es", "fr", "it", "ky", "nl", "ru", "sv", "tr", "tt", "zh")
HEADER = '"InventoryID","Glottocode","ISO6393","LanguageName","Phoneme","Allophones"\n'
PHOIBLE = HEADER + "".join(
    f'{number},{glottocode},{iso},"A name, with a comma",{phoneme},NA\n'
    for number, glottocode, iso, phonemes in (
        (2398, "stan1295", "deu", "pbtd"),
        (398, "stan1295", "deu", "pb"),
        (1, "kore1280", "kor", "kmh"),
        (2308, "stan1288", "spa", "aeo"),
        (164, "stan1288", "spa", "a"),
        (7, "nort9999", "NA", "xy"),
    )
    for phoneme in phonemes
)


def known(folder: Path, name: str, content: str) -> Inventories:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return Inventories.with_file(path)


def test_cosines_are_those_of_the_published_figure(shared_data: Path) -> None:
    published = json.loads((shared_data / "phonetics" / "phonetic_similarity.json").read_text())
    built_in = Inventories.built_in()
    assert len(published["pairs"]) == 55
    for entry in published["pairs"]:
        one, two = (built_in.find(published["iso639_3"][code]) for code in entry["pair"])
        assert (
            one.cosine(two) == two.cosine(one) == pytest.approx(entry["phoneme_cosine"], abs=1e-4)
        )
    for code, number in published["inventory_ids"].items():
        assert built_in.find(f"{code}:{number}").phonemes == set(published["phonemes"][code])


def test_the_file_that_comes_along_names_its_source_and_licence() -> None:
    content = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    assert "PHOIBLE" in content["source"] and "CC BY-SA 3.0" in content["licence"]
    assert tuple(content["languages"]) == CODES
    for code, entry in content["languages"].items():
        assert Inventories.built_in().find(entry["iso639_3"]).language == code


@pytest.mark.parametrize(
    ("asked", "code"),
    [("spa", "es"), ("ES", "es"), ("zh_TW", "zh"), ("zh-CN", "zh"), ("cmn", "zh"), (" fr ", "fr")],
)
def test_a_language_has_several_names(asked: str, code: str) -> None:
    built_in = Inventories.built_in()
    assert built_in.find(asked) == built_in.find(code)
    assert built_in.find(asked).language == code


def test_cosines_are_counted_and_composed_letters_are_decomposed_ones() -> None:
    one = Inventory.of("a", ["p", "ã", "t", "p"])
    two = Inventory.of("b", [unicodedata.normalize("NFD", "ã"), "k"])
    assert unicodedata.is_normalized("NFC", "ã") and len(one.phonemes) == 3
    assert one.cosine(two) == pytest.approx(1 / (3 * 2) ** 0.5)
    assert one.cosine(one) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.json", '{"de": ["p", "t", "k"], "spa": ["p"]}'),
        ("own.csv", "phoneme,language\np,de\nt,de\nk,de\np,spa\n"),
        ("own.tsv", "\ufefflanguage\tphoneme\tnote\nde\tp\t1,2\nde\tt\t\nde\tk\t\nspa\tp\t\n"),
    ],
)
def test_a_file_adds_languages_and_goes_before_what_is_there(
    tmp_path: Path, name: str, content: str
) -> None:
    found = known(tmp_path, name, content)
    assert found.find("de").phonemes == {"p", "t", "k"}
    assert found.find("es").phonemes == found.find("spa").phonemes == {"p"}
    assert found.find("fr") == Inventories.built_in().find("fr")


def test_a_region_of_a_file_is_a_language_of_its_own(tmp_path: Path) -> None:
    found = known(tmp_path, "own.json", '{"zh-TW": ["p"], "pt_BR": ["t"]}')
    assert found.find("zh_TW").phonemes == {"p"}
    assert found.find("zh") == found.find("zh_CN") == Inventories.built_in().find("zh")
    assert found.find("pt-br").phonemes == {"t"}


def test_phoible_names_inventories_by_code_and_number(tmp_path: Path) -> None:
    found = known(tmp_path, "phoible.csv", PHOIBLE)
    assert found.find("kor").phonemes == set("kmh")
    assert found.find("deu:398").phonemes == set("pb")
    assert found.find("stan1295:2398") == found.find("deu:2398")
    assert found.find("nort9999").language == "nort9999"
    # Of several Spanish ones, that of S3-Router is meant unless another is chosen.
    assert found.find("es").number == "2308" and found.find("es").phonemes == set("aeo")
    assert found.find("spa:164").phonemes == {"a"}
    assert found.find("fr") == Inventories.built_in().find("fr")
    with pytest.raises(UserError, match=r"several inventories \(398, 2398\); choose one.*deu:398"):
        found.find("deu")
    with pytest.raises(UserError, match="'deu' has no inventory '5', but 398, 2398"):
        found.find("deu:5")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("frr", "unknown language 'frr'; did you mean 'fr'"),
        ("de", "unknown language 'de'; known: en, es, fr"),
        ("de", "--inventories FILE"),
        ("", "unknown language ''; known: en"),
        ("es:1", "'es' has no inventory '1', but 2308"),
    ],
)
def test_unknown_languages_are_refused(asked: str, reason: str) -> None:
    with pytest.raises(UserError) as refusal:
        Inventories.built_in().find(asked)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "{}", "has no phonemes"),
        ("a.json", '{"de": []}', "language 'de' has no phonemes"),
        ("a.json", '{"de": "ptk"}', "phonemes of 'de' are not a list of texts"),
        ("a.json", '{"de": [1]}', "phonemes of 'de' are not a list of texts"),
        ("a.json", '{"de": ["p", " "]}', "phoneme without a symbol"),
        ("a.json", '{"": ["p"]}', "names no language"),
        ("a.json", '{"es": ["p"], "spa": ["t"]}', "'spa' is there twice"),
        ("a.json", '{"de": ["p"]', "damaged"),
        ("a.json", '["p"]', "not a JSON object"),
        ("a.csv", "", "neither the columns language and phoneme nor"),
        ("a.csv", "de,p\nde,t\n", "neither the columns language and phoneme nor"),
        ("a.csv", "language,phoneme\n", "has no phonemes"),
        ("a.csv", "language,phoneme\nde\n", "line 2 has fewer columns"),
        ("a.csv", "language,phoneme\nde,\n", "phoneme without a symbol"),
        ("a.csv", f'language,phoneme\nde,"{"p" * 200_000}"\n', "as a table: field larger than"),
        ("a.csv", HEADER + "5,stan1295,deu,German,,NA\n", "inventory 5: language 'deu'"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    with pytest.raises(UserError) as refusal:
        known(tmp_path, name, content)
    assert reason in str(refusal.value) and str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        Inventories.with_file(tmp_path / "a.csv")
    with pytest.raises(UserError, match="is missing"):
        Inventories.with_file(tmp_path / "b.csv")
    with pytest.raises(UserError, match="directory"):
        Inventories.with_file(tmp_path)
