"""A run or a bundle on labelled clips, whole: what is found, what is written, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import clock
import numpy as np
import pytest
from tiny_bundle import SCHEMA as TINY
from tiny_bundle import write_tiny_bundle
from tiny_run import SCHEMA, corpus, saying, trained

from mmtraits import calibrate, card, metrics, run
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.evaluate import evaluate, fingerprint
from mmtraits.evaluation import contents, robustness, scored_run
from mmtraits.evaluation.contents import Evaluation
from mmtraits.evaluation.scored import digest
from mmtraits.schema import Clip

ROWS = 40
Planted = tuple[Path, Manifest, np.ndarray, Evaluation]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A run whose scores are the labels, drawn towards the middle and noisy; a town for everybody."""
    folder = tmp_path_factory.mktemp("planted")
    manifest = corpus(folder / "corpus")
    clips = tuple(replace(c, attributes={"town": "york" if n < 32 else "bath"}) for n, c in enumerate(manifest.clips))
    manifest = replace(manifest, clips=clips)
    manifests.write(manifest)
    noise = np.random.default_rng(7).normal(scale=0.08, size=(ROWS, 2))
    said = np.round(np.nan_to_num(manifest.labels, nan=0.5) * 0.7 + 0.15 + noise, 6)
    source = saying(folder / "run", manifest, lambda some: said + (0.05 if some == frozenset("b") else 0.0))
    return source, manifest, said, evaluate(str(source), manifest.folder)


def kinds(found: Evaluation) -> dict[str, str]:
    return {finding.kind: finding.level for finding in found.findings}


# ---------------------------------------------------------------------------------------------------- runs


def test_a_run_is_judged_out_of_fold_beside_its_floors(planted: Planted) -> None:
    _, manifest, said, found = planted
    said = np.vstack([said[:-1], [[np.nan, np.nan]]])
    wanted = metrics.table(manifest.labels, said, [clip.id for clip in manifest.clips], SCHEMA)
    model = found.rows[0].systems[0].table
    for trait, row in model.traits.items():
        assert row.metrics["mae"].value == pytest.approx(wanted["traits"][trait]["mae"])
        assert row.metrics["c_index"].value == pytest.approx(wanted["traits"][trait]["c_index"])
    assert model.traits["calm"].n == ROWS - 2  # an unknown label, a clip without a stream
    assert (model.traits["open"].n, model.traits["open"].unscored) == (ROWS - 1, 1)
    assert [(rows.name, rows.clips, rows.persons) for rows in found.rows] == [("all", 40, 21), ("with b", 19, 19)]
    assert (found.kind, found.split, found.unit, found.streams) == ("run", "test", "clip", ["a", "b"])
    assert found.protocol == "Out of fold: 4 folds of 40 clips, no person in two of them."
    assert found.leakage is not None and found.leakage.model_dump() == {
        "persons_shared": 0, "clips_shared": 0, "near_duplicates": 0, "trained_on": 0, "allowed": False,
    }  # fmt: skip
    assert kinds(found) == {"few_units": "warn", "unscored": "warn"}
    assert found.resamples == {"sums": 10_000, "ranks": 500, "groups": 1_000}
    assert found.notes == [
        "Training mean and median are those of each member's training rows.",
        "Window lengths and disturbed media need a bundle: export the run, then evaluate it with --sensitivity.",
    ]


def test_intervals_of_a_run_are_calibrated_on_other_persons(planted: Planted) -> None:
    _, manifest, said, found = planted
    methods = [(one.name, one.method) for one in found.intervals]
    names = ["all", "a + b", "a", "a, others masked", "b, others masked"]
    assert methods == [(name, method) for method in calibrate.METHODS for name in names]
    first = found.intervals[0]
    assert first.level == 0.9 and first.traits["open"].n == ROWS - 1 and first.traits["open"].constant_width
    assert 0.75 <= (first.traits["open"].coverage.value or 0) <= 1
    assert [(one.name, one.traits["open"].n) for one in found.interval_groups] == [("town = york", 32)] * 2
    (audit,) = found.audits
    assert [(group.values["town"], group.suppressed) for group in audit.groups] == [("bath", True), ("york", False)]
    assert (audit.groups[1].failed_rate, audit.groups[1].degraded_rate) == (0.0, 0.5)
    assert audit.groups[1].traits["open"].coverage == pytest.approx(
        found.interval_groups[0].traits["open"].coverage.value
    )


def test_what_missing_streams_cost_and_how_alike_a_persons_clips_are(planted: Planted) -> None:
    source, manifest, said, found = planted
    assert [(one.streams, one.clips) for one in found.robustness.subsets] == [
        (["a"], 39),
        (["b"], 19),
        (["a", "b"], 19),
    ]
    rows = np.arange(1, 39, 2)
    shifted = metrics.table(manifest.labels[rows], said[rows] + 0.05, [manifest.clips[row].id for row in rows], SCHEMA)
    assert found.robustness.subsets[1].mean["mae"].value == pytest.approx(shifted["mean"]["mae"])
    out = scored_run.score(source, manifest, "test")
    ids = [clip.id for clip in manifest.clips]
    assert found.robustness == robustness.measure(
        out.by_streams, out.mean, manifest.labels, ids, SCHEMA, streams=("a", "b")
    )
    assert len(found.robustness.drop_curve) == 8 and set(found.robustness.shapley) == {"a", "b"}
    persons = [str(clip.person) for clip in manifest.clips]
    wanted = metrics.icc1(np.append(said[:-1, 1], np.nan), persons)
    assert found.reliability["open"].icc_scores == pytest.approx(wanted)
    assert found.reliability["open"].icc_labels == pytest.approx(metrics.icc1(manifest.labels[:, 1], persons))


def test_pictures_hold_deciles_of_the_score_and_all_of_a_few_units(planted: Planted) -> None:
    _, manifest, said, found = planted
    picture = found.pictures["open"]
    assert [one.n for one in picture.bins] == [4] * 9 + [3]
    assert [one.score for one in picture.bins] == sorted(one.score for one in picture.bins)
    lowest = np.argsort(said[:-1, 1])[:4]
    assert picture.bins[0].score == pytest.approx(said[lowest, 1].mean())
    assert picture.bins[0].label == pytest.approx(manifest.labels[lowest, 1].mean())
    assert picture.points == [(round(said[n, 1], 4), round(manifest.labels[n, 1], 4)) for n in range(ROWS - 1)]
    assert len(found.pictures["calm"].points) == ROWS - 2


def test_what_is_written(planted: Planted) -> None:
    source, manifest, _, found = planted
    text = (source / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == found.model_dump(mode="json")
    assert contents.to_json(contents.read(source / "evaluation.json")) == text
    markdown = (source / "MODEL_CARD.md").read_text()
    card.check(markdown)
    page = (source / "report.html").read_text()
    for name in ("Calm", "ridge: a", "too few for figures"):
        assert name in page
    assert "too few for figures" in markdown and not list(source.glob("*.partial"))
    known = found.provenance
    assert fingerprint(source, manifest).items() <= known.items() and known["data_sha256"] == digest(manifest)
    assert known["members"] == ["fold0", "fold1", "fold2", "fold3"] and known["seeds"] == []


def test_a_fingerprint_is_of_weights_and_labels(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    source = trained(tmp_path / "run", manifest)
    before = fingerprint(source, manifest)
    assert fingerprint(source, replace(manifest, path=tmp_path / "moved" / "clips.csv")) == before
    other = fingerprint(source, replace(manifest, labels=manifest.labels[::-1]))
    assert other["data_sha256"] != before["data_sha256"] and other["model_sha256"] == before["model_sha256"]
    (source / "fold3" / "best.safetensors").write_bytes(b"others")
    assert fingerprint(source, manifest)["model_sha256"] != before["model_sha256"]
    bundle = write_tiny_bundle(tmp_path / "bundle")
    one = fingerprint(bundle, manifest)["model_sha256"]
    write_tiny_bundle(bundle, name="another")
    assert fingerprint(bundle, manifest)["model_sha256"] != one


def test_the_order_of_the_manifest_changes_no_byte(planted: Planted, tmp_path: Path) -> None:
    source, manifest, _, _ = planted
    order = np.random.default_rng(3).permutation(ROWS)
    moved = replace(manifest, clips=tuple(manifest.clips[i] for i in order), labels=manifest.labels[order])
    evaluate(source, moved, out=tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == (source / "evaluation.json").read_bytes()
    assert (tmp_path / "report.html").read_bytes() == (source / "report.html").read_bytes()


def test_a_foreign_manifest_has_constants_alone(tmp_path: Path) -> None:
    """Nothing is known of what the members learned from but what they remember: their training means."""
    source = trained(tmp_path / "run", corpus(tmp_path / "corpus"))
    other = corpus(tmp_path / "other", name="new", seed=1)
    found = evaluate(source, replace(other, splits=("test",) * 25 + ("train",) * 15), out=tmp_path / "out")
    scores = np.mean([run.predict(member, other, range(25)) for member in run.members_of(source)], axis=0)
    model, *floors = [system for system in found.rows[0].systems if system.kind != "streams"]
    assert [floor.name for floor in floors] == ["training mean"] and found.rows[0].clips == 25
    assert model.table.traits["open"].metrics["mae"].value == pytest.approx(
        np.abs(scores - other.labels[:25])[:, 1].mean(), abs=1e-5
    )
    assert model.table.mean["skill"].value is None and model.table.undefined == {"skill": 2}
    assert found.leakage is None and kinds(found)["leakage_unknown"] == "warn"
    assert not {"no_skill", "persons_unknown"} & set(kinds(found))
    assert not (source / "evaluation.json").exists() and (tmp_path / "out" / "evaluation.json").is_file()


def test_unfinished_members_and_foreign_clips_are_said(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    source = trained(tmp_path / "run", manifest)
    (source / "fold2" / "metrics.json").unlink()
    more = replace(
        manifest,
        clips=(*manifest.clips, Clip(id="later", person="later", text="words")),
        labels=np.vstack([manifest.labels, [[0.5, 0.5]]]),
        splits=(None,) * 41,
    )
    found = evaluate(source, more)
    assert found.notes[:2] == [
        "1 of 4 members are not trained to their end",
        "1 clips of the manifest are in no split of the run: left out",
    ]
    assert found.rows[0].clips < ROWS and "note: 1 of 4 members" in contents.to_text(found)


def test_neither_run_nor_bundle(planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither run\.json nor bundle\.json; expected what train or export wrote"):
        evaluate(tmp_path, planted[1])


# ---------------------------------------------------------------------------------------------------- bundles


def texts(folder: Path, *splits: str | None) -> Manifest:
    """The tiny bundle scores one .01 for each word of a text."""
    clips = tuple(Clip(id=str(n), person=f"p{n}", text=" ".join(["hello"] * n)) for n in (1, 2, 3))
    labels = np.array([[0.02, 0.0], [0.02, np.nan], [0.02, 0.3]])
    manifest = Manifest(
        path=folder / "clips.csv", schema=TINY, clips=clips, labels=labels, splits=splits or (None,) * 3
    )
    manifests.write(manifest)
    return manifest


def test_a_bundle_scores_what_the_manifest_names(tmp_path: Path) -> None:
    bundle, manifest = write_tiny_bundle(tmp_path / "bundle"), texts(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    clips = (*manifest.clips, Clip(id="broken", video=tmp_path / "broken.mp4"))
    labels = np.vstack([manifest.labels, [[0.5, 0.5]]])
    manifest = replace(manifest, clips=clips, labels=labels, splits=(None,) * 4)
    found = evaluate(bundle, manifest, out=tmp_path / "out")
    assert [rows.name for rows in found.rows] == ["all", "with text"] and found.rows[1].clips == 3
    rows = found.rows[0].systems[0].table.traits
    assert rows["brightness"].metrics["mae"].value == pytest.approx(0.02 / 3, abs=1e-6)
    assert rows["loudness"].metrics["mae"].value == pytest.approx((0.01 + 0.27) / 2, abs=1e-6)
    assert (rows["loudness"].n, rows["loudness"].unscored) == (2, 1)
    assert found.kind == "bundle" and found.notes == [
        "1 clips failed",
        "Training mean and median are those of the evaluated rows themselves (a harder floor).",
        "Window lengths and disturbed media are measured with --sensitivity.",
    ]
    assert found.leakage is None and found.provenance["members"] == []
    assert found.nuisances == [] and found.robustness.windows == []
    card.check((tmp_path / "out" / "MODEL_CARD.md").read_text())
    assert not (bundle / "evaluation.json").exists()


def test_intervals_of_a_bundle_are_its_own(tmp_path: Path) -> None:
    """Half widths of .015 and .1; the others' are of sets that no row has."""
    names = ("face", "voice", "text")
    sets = [[s for s, bit in zip(names, f"{n:03b}", strict=True) if bit == "1"] for n in range(1, 8)]
    calibration = {
        "method": "split_conformal", "level": 0.8, "streams": list(names), "low": [0, 0], "high": [1, 1],
        "sets": [
            {"present": some, "half_width": [0.015, 0.1], "rows": [9, 9], "borrowed": [some == ["text"], False]}
            for some in sets
        ],
    }  # fmt: skip
    bundle = write_tiny_bundle(tmp_path / "bundle", calibration=calibration)
    (found, text) = evaluate(bundle, texts(tmp_path), out=tmp_path / "out").intervals
    assert (found.name, text.name, found.method, found.level, found.borrowed) == (
        "all", "text", "split_conformal", 0.8, True,
    )  # fmt: skip
    bright, loud = found.traits["brightness"], found.traits["loudness"]
    assert (bright.n, bright.coverage.value, bright.constant_width) == (3, 1.0, None)
    assert (loud.n, loud.coverage.value) == (2, 0.5) and bright.width == pytest.approx((0.025 + 0.03 + 0.03) / 3)


@pytest.mark.parametrize("official", [True, False])
def test_a_bundle_on_the_table_that_it_was_made_from(tmp_path: Path, official: bool) -> None:
    manifest = texts(tmp_path, "train", "test", "test")
    known = {"data_sha256": digest(manifest), "leakage": {"persons_shared": 2, "clips_shared": 2, "allowed": official}}
    if official:
        by = {"split": "official", "folds": 5, "by": "person", "seed": 0, "stratify": []}
        known |= {"divided": {"by": by, "members": 1}}
    found = evaluate(write_tiny_bundle(tmp_path / "bundle", provenance=known), manifest, out=tmp_path / "out")
    assert found.leakage is not None and found.leakage.allowed == official
    assert (found.leakage.trained_on, found.leakage.persons_shared) == ((0, 0) if official else (2, 2))
    wanted = {} if official else {"trained_on_these_rows": "fail"}
    leaks = {"trained_on_these_rows", "persons_shared", "persons_unknown", "leakage_unknown"}
    assert {kind: level for kind, level in kinds(found).items() if kind in leaks} == wanted


def test_a_bundle_wants_another_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a bundle's files are sealed; name another folder for evaluation\.json"):
        evaluate(write_tiny_bundle(tmp_path / "bundle"), texts(tmp_path))


# ---------------------------------------------------------------------------------------------------- sensitivity


def test_media_without_labels_show_what_disturbances_and_window_lengths_do(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name in ("b", "a"):
        clock.write(media / f"{name}.mp4", seconds=2.0, fps=5.0, size=(64, 48), rate=8000)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    found = evaluate(bundle, media, out=tmp_path / "out", sensitivity=True)
    assert [one.length_s for one in found.robustness.windows] == [1.0, 3.0, 5.0, 15.0]
    assert {one.clips for one in found.robustness.windows} == {2}
    touched = {one.name: one.clips for one in found.nuisances if one.stream == "voice"}
    assert touched["loudness"] == 2 and {one.stream for one in found.nuisances} == {"face", "voice", "text"}
    softer = next(one for one in found.nuisances if one.name == "loudness" and one.strength.startswith("-"))
    assert (softer.traits["loudness"].mean or 0) < -0.02 and softer.traits["brightness"].mean == pytest.approx(0)
    assert found.rows == [] and found.pictures == {} and found.intervals == []
    assert [one.kind for one in found.findings] == ["no_labels"]
    assert "nothing is judged" in contents.to_text(found)
    card.check((tmp_path / "out" / "MODEL_CARD.md").read_text())
    with pytest.raises(ManifestError):
        evaluate(bundle, media, out=tmp_path / "out")


def test_sensitivity_needs_media_and_a_bundle(planted: Planted, tmp_path: Path) -> None:
    source, manifest, _, _ = planted
    with pytest.raises(ConfigError, match="a run starts from features; export it and evaluate the bundle with --sens"):
        evaluate(source, manifest, out=tmp_path / "none", sensitivity=True)
    assert not (tmp_path / "none").exists()
    bundle = write_tiny_bundle(tmp_path / "bundle")
    found = evaluate(bundle, texts(tmp_path).folder, out=tmp_path / "out", sensitivity=True)
    assert found.robustness.windows == []
    assert {one.clips for one in found.nuisances if one.stream == "text"} == {3}
    assert {one.clips for one in found.nuisances if one.stream != "text"} == {0}
