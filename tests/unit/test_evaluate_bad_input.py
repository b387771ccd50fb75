"""Corpora with something wrong or missing: what an evaluation leaves out, counts and says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import SCHEMA, corpus, saying

from mmtraits import card, metrics
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError
from mmtraits.evaluate import evaluate
from mmtraits.evaluation import contents
from mmtraits.evaluation.contents import Evaluation
from mmtraits.schema import Clip

ROWS = 40
DRAW = np.random.default_rng(11)
NOISE = DRAW.normal(scale=0.1, size=(ROWS, 2))
OFFICIAL: dict[str, Any] = {"protocol": {"split": "official", "allow_leakage": True}, "runs": {}}
HALVES = ("train",) * 20 + ("test",) * 20


def near(manifest: Manifest) -> np.ndarray:
    """Scores that are not far from the labels."""
    return np.round(np.nan_to_num(manifest.labels, nan=0.5) * 0.6 + 0.2 + NOISE[: len(manifest.labels)], 6)


def judged(folder: Path, manifest: Manifest, said: np.ndarray, **changes: Any) -> Evaluation:
    """Of a run made for this manifest; what it wrote is complete and without NaN."""
    found = evaluate(saying(folder / "run", manifest, said, **changes), manifest)
    json.loads((folder / "run" / "evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    card.check((folder / "run" / "MODEL_CARD.md").read_text())
    assert "<table" in (folder / "run" / "report.html").read_text()
    assert contents.to_text(found)
    return found


def texts_of(found: Evaluation, kind: str) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in found.findings if finding.kind == kind]


def test_a_trait_without_labels_in_the_split_is_left_out_and_said(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    labels = manifest.labels.copy()
    labels[20:, 1] = np.nan
    manifest = replace(manifest, labels=labels, splits=HALVES)
    found = judged(tmp_path, manifest, near(manifest), **OFFICIAL)
    model = found.rows[0].systems[0].table
    assert model.traits["open"].n == 0 == model.traits["open"].unscored
    assert all(one.value is None for one in model.traits["open"].metrics.values())
    assert model.mean["mae"] == model.traits["calm"].metrics["mae"] and model.undefined == {}
    assert texts_of(found, "no_labels") == [("warn", "Open: no clip here has label and score.")]
    assert found.pictures["open"].bins == [] and found.reliability["open"].icc_labels is None
    assert all(one.traits["open"].n == 0 and one.traits["open"].width is None for one in found.intervals)


def test_missing_labels_are_masked_never_filled(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    labels = manifest.labels.copy()
    labels[::3, 0], labels[1::4, 1] = np.nan, np.nan
    manifest = replace(manifest, labels=labels)
    said = near(manifest)
    table = judged(tmp_path, manifest, said).rows[0].systems[0].table
    for k, trait in enumerate(SCHEMA.trait_names):
        known = ~np.isnan(labels[:-1, k])  # the last clip has no score
        wanted = np.abs(said[:-1, k] - labels[:-1, k])[known].mean()
        assert table.traits[trait].n == known.sum() and table.traits[trait].metrics["mae"].value == pytest.approx(
            wanted
        )


@pytest.mark.parametrize(("allowed", "level"), [(True, "warn"), (False, "fail")])
def test_persons_in_two_splits(tmp_path: Path, allowed: bool, level: str) -> None:
    """Three persons of the tested half are said to be three of training, and one of the clips repeats its words."""
    manifest = corpus(tmp_path / "corpus")
    words = "one two three four five six seven eight nine ten"
    clips = [
        replace(clip, person=f"clipp{n % 20 // 2}" if n in range(20, 26) else clip.person)
        for n, clip in enumerate(manifest.clips)
    ]
    clips[0], clips[30] = (replace(clips[n], text=words) for n in (0, 30))
    manifest = replace(manifest, clips=tuple(clips), splits=HALVES)
    source = saying(tmp_path / "run", manifest, near(manifest), **OFFICIAL)
    about = json.loads((source / "run.json").read_text())
    about["leakage"] = about["leakage"] if allowed else None  # as runs of an earlier version have it
    (source / "run.json").write_text(json.dumps(about))
    found = evaluate(source, manifest)
    assert found.leakage is not None and found.leakage.model_dump() == {
        "persons_shared": 3, "clips_shared": 6, "near_duplicates": 1, "trained_on": 0, "allowed": allowed,
    }  # fmt: skip
    ((found_level, text),) = texts_of(found, "persons_shared")
    assert found_level == level and text.startswith("3 persons (6 clips) of the evaluated rows are also in training")
    assert texts_of(found, "near_duplicates")[0][1].startswith("1 evaluated clips say nearly")
    floors = [system.name for system in found.rows[0].systems if system.kind == "floor"]
    assert "identity look-up" in floors
    trained_on = evaluate(source, manifest, "train", out=tmp_path / "out")
    assert trained_on.leakage is not None and trained_on.leakage.trained_on == 18  # the rows that were not carved out
    assert texts_of(trained_on, "trained_on_these_rows")[0][0] == "fail"
    assert texts_of(trained_on, "persons_shared") == []


def test_training_rows_of_several_folds_are_counted_once(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    found = evaluate(saying(tmp_path / "run", manifest, near(manifest)), manifest, "train")
    rows = found.rows[0]
    assert 30 < rows.clips < ROWS and found.leakage is not None  # some rows no member learns from
    assert (found.leakage.trained_on, found.leakage.clips_shared) == (rows.clips, rows.clips)
    assert found.leakage.persons_shared == rows.persons
    assert texts_of(found, "trained_on_these_rows")[0][1].startswith(f"{rows.clips} of the evaluated clips were in")


def test_nobody_is_named(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    manifest = replace(manifest, clips=tuple(replace(clip, person=None) for clip in manifest.clips))
    found = judged(tmp_path, manifest, near(manifest), protocol={"split": "kfold", "folds": 4, "by": "id"})
    assert found.leakage is not None and found.leakage.persons_shared is None
    assert found.rows[0].persons == ROWS and texts_of(found, "persons_unknown")[0][0] == "warn"
    assert found.reliability["calm"].icc_scores is None


def test_an_attribute_with_one_value(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    clips = tuple(replace(clip, attributes={"town": "york", "empty": ""}) for clip in manifest.clips)
    found = judged(tmp_path, replace(manifest, clips=clips), near(manifest))
    (audit,) = found.audits
    assert audit.attributes == ["town"] and audit.gaps == {} and len(audit.groups) == 1
    assert audit.groups[0].units == ROWS and audit.groups[0].traits["open"].n == ROWS - 1
    assert {one.name for one in found.interval_groups} == {"town = york"}
    assert not [one for one in found.findings if one.kind.startswith("group")]


def test_ten_clips_in_all(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus", rows=10)
    found = judged(tmp_path, manifest, near(manifest))
    assert [(rows.name, rows.clips, rows.persons) for rows in found.rows] == [
        ("all", 10, 6),
        ("with a", 9, 5),
        ("with b", 4, 4),
    ]
    ((level, text),) = texts_of(found, "few_units")
    assert level == "warn" and text.startswith("10 clips of 6 persons: too few")
    assert found.rows[0].systems[0].table.mean["mae"].lower is not None
    assert any(one.borrowed for one in found.intervals)


def test_constant_scores_have_no_correlation_and_that_is_counted(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    said = near(manifest)
    said[:, 0] = 0.5
    found = judged(tmp_path, manifest, said)
    model = found.rows[0].systems[0].table
    assert model.traits["calm"].metrics["pearson"].value is None and model.mean["pearson"].value is None
    assert (model.traits["open"].metrics["pearson"].value or 0) > 0.5
    assert model.undefined == {"pearson": 1, "spearman": 1}
    assert model.traits["calm"].metrics["ccc"].value == 0.0 == model.traits["calm"].metrics["spread"].value
    ((level, text),) = texts_of(found, "constant")
    assert level == "warn" and text.startswith("Calm: scores or labels are constant")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "undefined: 1" in page


def test_constant_labels(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    source = saying(tmp_path / "run", manifest, near(manifest))
    constant = replace(manifest, labels=np.full_like(manifest.labels, 0.5))
    found = evaluate(source, constant, out=tmp_path)
    model = found.rows[0].systems[0].table
    for name in ("pearson", "spearman", "c_index", "ccc", "r2", "spread", "skill"):
        assert model.mean[name].value is None and model.undefined[name] == 2
    lines = contents.to_text(found).splitlines()
    calm = next(line for line in lines if line.split()[:1] == ["calm"])
    assert calm.split()[2:] == ["-", "-", "-", "-", "39"]


def test_flipped_labels_are_found_and_named(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    source = saying(tmp_path / "run", manifest, near(manifest))
    labels = manifest.labels.copy()
    labels[:, 1] = 1 - labels[:, 1]
    nameless = tuple(replace(clip, person=None) for clip in manifest.clips)
    found = evaluate(source, replace(manifest, labels=labels, clips=nameless), out=tmp_path)
    ((level, text),) = texts_of(found, "label_flip")
    assert level == "fail" and text.startswith("Open: scores and labels run against each other (r -0.")
    assert found.findings[0].kind == "label_flip"  # the worst comes first, here before unnamed persons
    assert found.findings[1].kind == "persons_unknown"
    assert [text.split(":")[0] for _, text in texts_of(found, "no_skill")] == ["Open"]
    where = [text.split(":")[0] for _, text in texts_of(found, "floor_not_beaten")]
    assert where == ["all rows", "rows with b"]


def test_groups_that_are_treated_apart_are_named(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus", rows=100)
    clips = tuple(replace(clip, attributes={"town": ["york", "bath"][n % 2]}) for n, clip in enumerate(manifest.clips))
    manifest = replace(manifest, clips=clips)
    said = np.round(np.nan_to_num(manifest.labels, nan=0.5), 6)
    said[::2, 1] += 0.2
    found = judged(tmp_path, manifest, said)
    ((_, text),) = texts_of(found, "group_bias")
    assert "town = york" in text and text.startswith("Open")


# ---------------------------------------------------------------------------------------------------- rated persons


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, np.ndarray, Evaluation]:
    folder = tmp_path_factory.mktemp("persons")
    manifest = corpus(folder / "corpus")
    labels = np.repeat(np.nan_to_num(manifest.labels[::2], nan=0.3), 2, axis=0)
    clips = tuple(replace(clip, attributes={"town": "york"}) for clip in manifest.clips)
    manifest = replace(manifest, clips=clips, labels=labels, schema=replace(SCHEMA, rated="person"))
    said = near(manifest)
    return manifest, said, judged(folder, manifest, said)


def test_where_persons_are_rated_persons_are_counted(persons: tuple[Manifest, np.ndarray, Evaluation]) -> None:
    manifest, said, found = persons
    assert found.unit == "person"
    # 19 persons of two clips, one whose second clip is somebody else's, who has no score
    assert [(rows.clips, rows.units, rows.persons) for rows in found.rows] == [(40, 21, 21), (38, 19, 19)]
    of = np.append(np.repeat(np.arange(19), 2), 19)
    means = np.array([said[:-1][of == person].mean(axis=0) for person in range(20)])
    table = found.rows[0].systems[0].table
    wanted = metrics.table(manifest.labels[::2][:20], means, [str(n) for n in range(20)], SCHEMA)
    for trait, row in table.traits.items():
        assert (row.n, row.unscored) == (20, 1)
        assert row.metrics["pearson"].value == pytest.approx(wanted["traits"][trait]["pearson"])
    assert found.robustness.subsets[0].clips == 20 and len(found.pictures["calm"].points) == 20


def test_intervals_stay_those_of_clips_where_persons_are_rated(
    persons: tuple[Manifest, np.ndarray, Evaluation],
) -> None:
    _, _, found = persons
    assert found.intervals[0].traits["calm"].n == ROWS - 1
    (audit,) = found.audits  # of 21 persons: too few to show
    assert (audit.groups[0].units, audit.groups[0].clips, audit.groups[0].suppressed) == (21, 40, True)
    assert any(one.text.startswith("21 persons: too few") for one in found.findings)
    assert any(one.text.startswith("1 labelled persons have no score") for one in found.findings)


def test_clips_without_anything_to_score(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    source = saying(tmp_path / "run", manifest, near(manifest))
    bare = tuple(Clip(id=f"new{n}", person="x", text="words") for n in range(ROWS))
    with pytest.raises(ManifestError, match="none of the clips to score has any of the streams a, b of .*run"):
        evaluate(source, replace(manifest, clips=bare), out=tmp_path / "out")
