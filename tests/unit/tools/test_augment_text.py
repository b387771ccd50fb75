"""Altered copies of texts: what they hold, who is left out, and how a language model says them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_language_model import make
from tool_scripts import checksums_hold, contents, lines, tool

from mmtraits.data.manifest import Manifest, read
from mmtraits.data.splits import assign
from mmtraits.llm.text import Writer, reworded

augment = tool("augment_text")
WORDS = [
    "I",
    "went",
    "to",
    "the",
    "market",
    "with",
    "my",
    "old",
    "friend",
    "and",
    "we",
    "bought",
    "some",
    "bread",
    "and",
    "two",
    "apples",
    "for",
    "the",
    "long",
    "way",
    "home",
]
SCHEMA = "name: x\nconstruct: apparent\njudged_by: us\ntraits: [{name: warm, low: 0, high: 1}]\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    text = " ".join(WORDS)
    parts = ("train", "train", "val", "test")
    rows = [f"c{n},{text} {n},,p{n // 2},q1,{parts[n // 2 % 4]},0.{n % 10},1" for n in range(16)]
    mute = "mute,,mute.wav,p0,q1,train,0.5,2"
    (folder / "mute.wav").touch()
    lines(folder / "clips.csv", ["id,text,audio,person,question,split,warm,attr_gender", *rows, mute])
    (folder / "schema.yaml").write_text(SCHEMA)
    return folder


def run(corpus: Path, out: Path, *options: str) -> Manifest:
    assert augment.main([str(corpus), str(out), *options]) == 0
    return read(out, check_files=True)


def copies(found: Manifest) -> dict[str, str]:
    return {clip.id: str(clip.text) for clip in found.clips if "made" in clip.attributes}


def test_copies_keep_whose_they_are_and_what_was_rated(corpus: Path, tmp_path: Path) -> None:
    before, after = read(corpus), run(corpus, tmp_path / "out", "--copies", "2")
    own = len(before.clips)
    assert [clip.id for clip in after.clips[:own]] == [clip.id for clip in before.clips]
    rows = {clip.id: row for row, clip in enumerate(before.clips)}
    for clip, split, label in zip(after.clips[own:], after.splits[own:], after.labels[own:], strict=True):
        origin = rows[clip.attributes["made_from"]]
        whose = before.clips[origin]
        assert (clip.person, clip.question, split, clip.attributes["made"]) == (
            whose.person,
            "q1",
            "train",
            "augmented",
        )
        assert clip.attributes["gender"] == "1" and label == before.labels[origin]
        assert str(clip.text).split() != str(whose.text).split() and set(str(clip.text).split()) <= {
            *WORDS,
            *map(str, range(16)),
        }
    assert len(after.clips) == own + 2 * 8
    checksums_hold(tmp_path / "out")


def test_a_share_of_words_goes_and_a_share_changes_places(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    text = [str(n) for n in range(20_000)]
    numbers = np.array([int(word) for word in augment._shaken(" ".join(text), 0.1, draw).split()])
    assert 1 - len(numbers) / len(text) == pytest.approx(0.1, abs=0.01)
    assert (np.diff(numbers) < 0).mean() == pytest.approx(0.09, abs=0.02)
    assert augment._shaken("one", 0.99, draw) == "one" and augment._shaken("", 0.5, draw) == ""


def test_the_same_seed_gives_the_same_copies_in_any_order_of_rows(corpus: Path, tmp_path: Path) -> None:
    first = run(corpus, tmp_path / "a")
    assert copies(run(corpus, tmp_path / "b")) == copies(first)
    head, *rows = (corpus / "clips.csv").read_text().splitlines()
    lines(corpus / "clips.csv", [head, *reversed(rows)])
    assert copies(run(corpus, tmp_path / "c")) == copies(first)
    assert copies(run(corpus, tmp_path / "d", "--seed", "1")) != copies(first)


def test_however_clips_are_divided_copies_are_only_trained_on(corpus: Path, tmp_path: Path) -> None:
    head, *rows = (corpus / "clips.csv").read_text().splitlines()
    lines(
        corpus / "clips.csv",
        [line.replace(",train,", ",,").replace(",val,", ",,").replace(",test,", ",,") for line in [head, *rows]],
    )
    found = run(corpus, tmp_path / "out")
    assert len(copies(found)) == 16  # no copy of the clip without words
    for member in range(4):
        parts = assign(found, split="kfold", folds=4, member=member)
        made = {
            name: [found.clips[r] for r in rows if "made" in found.clips[r].attributes] for name, rows in parts.items()
        }
        persons = {name: {found.clips[row].person for row in rows} for name, rows in parts.items()}
        assert made["train"] and not made["val"] and not made["test"]
        assert not persons["train"] & (persons["val"] | persons["test"])


def test_features_of_the_corpus_are_found_from_the_new_folder(corpus: Path, tmp_path: Path) -> None:
    np.savez(corpus / "v.npz", c0=np.ones((2, 3)))
    table = (corpus / "clips.csv").read_text().splitlines()
    lines(
        corpus / "clips.csv",
        [f"{line},{('feature_v', 'v.npz#c0')[n] if n < 2 else ''}" for n, line in enumerate(table)],
    )
    found = run(corpus, tmp_path / "elsewhere" / "out")
    assert found.clips[0].features == {"v": "../../corpus/v.npz#c0"}
    assert not any(clip.features for clip in found.clips if "made" in clip.attributes)


def test_copies_are_not_copied(corpus: Path, tmp_path: Path, capsys) -> None:
    run(corpus, tmp_path / "a")
    capsys.readouterr()
    assert augment.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "id 'c0~1' is already on line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "1"], "--rate 1.0; expected"),
        (["--copies", "0"], "--copies 0 "),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "x", "--prompt", "Say it."], "--prompt 'Say it.'; expected {text} in it"),
    ],
)
def test_wrong_options_are_said_and_nothing_is_written(corpus, tmp_path, capsys, options, message) -> None:
    assert augment.main([str(corpus), str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_corpus_with_nothing_to_train_on(corpus: Path, tmp_path: Path, capsys) -> None:
    lines(
        corpus / "clips.csv",
        [line.replace(",train,", ",test,") for line in (corpus / "clips.csv").read_text().splitlines()],
    )
    assert augment.main([str(corpus), str(tmp_path / "out")]) == 2
    assert "no clip to alter; nothing was written\nleft out: 17, not copied: clips outside" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- a model


def test_a_model_says_texts_in_other_words(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    model = make(tmp_path / "model", [*WORDS, *map(str, range(16)), "Say", ":"])
    options = ("--model", model, "--prompt", "Say : {text}", "--max-ids", "12", "--cache", str(tmp_path / "cache"))
    found = copies(run(corpus, tmp_path / "out", *options))
    assert 0 < len(found) <= 8 and all(len(text.split()) <= 12 for text in found.values())
    before = contents(tmp_path / "cache")
    monkeypatch.setattr(Writer, "write", None)  # what was said is kept
    assert copies(run(corpus, tmp_path / "again", *options)) == found
    assert contents(tmp_path / "cache") == before


def test_what_a_model_says_depends_on_prompt_and_seed_alone(tmp_path: Path) -> None:
    writer = Writer(make(tmp_path / "model", WORDS, positions=24), max_ids=8)
    prompts = [" ".join(WORDS[:n]) for n in (3, 7, 12)]
    said = reworded(writer, prompts, tmp_path / "a")
    assert reworded(writer, prompts[::-1], tmp_path / "b") == said[::-1]
    assert reworded(writer, prompts, tmp_path / "a", seed=1) != said
    assert len(set(said)) == 3
    kept = next((tmp_path / "a").iterdir())
    kept.write_text(kept.read_text()[:-9])  # interrupted
    assert reworded(writer, prompts, tmp_path / "a", seed=1) == reworded(writer, prompts, tmp_path / "c", seed=1)
    assert writer.write(" ".join(WORDS * 2), 0) == ""  # no room is left
