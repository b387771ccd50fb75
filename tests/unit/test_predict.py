from __future__ import annotations

import contextlib
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from jobs import leaky_bundle, sound, sounds, vector_bundle
from tiny_bundle import write_tiny_bundle

from mmtraits import predict
from mmtraits.errors import BundleError, ConfigError, ManifestError
from mmtraits.jobs import batches
from mmtraits.jobs.batches import SIZES
from mmtraits.jobs.journal import Journal
from mmtraits.unlike import Ranges


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folder(tmp_path):
    """Three good sounds, one of them with words beside it, one broken file and things that are no media."""
    root = tmp_path / "media"
    sound(root / "b.wav", 0.25, seconds=1)
    sound(root / "sub" / "a.wav", 0.75, seconds=5)
    sound(root / "a.WAV", 0.5, seconds=1)
    (root / "b.txt").write_text("hello world")
    (root / "broken.mp4").write_bytes(b"this is no video")
    (root / "notes.md").write_text("not media")
    (root / "dir.mp4").mkdir()
    return root


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_per_media_file_in_path_order(bundle, folder, tmp_path):
    outcome = predict.run([folder], tmp_path / "out", bundle=bundle)
    rows = read(tmp_path / "out")
    assert [row["clip"] for row in rows] == ["a.WAV", "b.wav", "broken.mp4", "sub/a.wav"]
    assert [row["status"] for row in rows] == ["degraded", "degraded", "failed", "degraded"]
    assert rows[0]["reason"] == "no_face;no_transcript"
    assert rows[1]["reason"] == "no_face"
    assert rows[2]["reason"].split(";")[0] == "unreadable_container"
    assert [row["text_present"] for row in rows] == ["false", "true", "false", "false"]
    assert outcome.counts == {"degraded": 3, "failed": 1}
    assert all(row["model"] == "tiny" and row["construct"] == "apparent" for row in rows)
    assert "speaker" not in rows[0]


def test_scores_are_the_graphs(bundle, folder, tmp_path):
    predict.run([folder], tmp_path / "out", bundle=bundle)
    loud = {row["clip"]: row["loudness"] for row in read(tmp_path / "out")}
    assert float(loud["a.WAV"]) == pytest.approx(0.5, abs=2e-3)
    assert float(loud["b.wav"]) == pytest.approx(0.27, abs=2e-3)  # .25 and two words
    assert float(loud["sub/a.wav"]) == pytest.approx(0.75, abs=2e-3)
    assert loud["broken.mp4"] == ""


def test_workers_and_batches_change_no_byte(bundle, folder, tmp_path):
    tables = []
    for workers, batch in ((0, 8), (0, 1), (2, 2)):
        out = tmp_path / f"{workers}{batch}"
        predict.run([folder], out, bundle=bundle, workers=workers, batch=batch)
        tables.append((out / "results.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2]


def test_jsonl_and_page(bundle, folder, tmp_path):
    predict.run([folder], tmp_path / "out", bundle=bundle)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["clip"] for line in lines] == [row["clip"] for row in read(tmp_path / "out")]
    assert lines[2]["brightness"] is None
    assert lines[3]["details"]["windows"] == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<article>") == 4
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["job.sqlite", "report.html", "results.csv", "results.jsonl"]


def test_clips_unlike_training_are_flagged(folder, tmp_path):
    """The five seconds are too long; two of the three sounds are too loud; a failed clip is not judged."""
    limits = {"duration": (0.5, 2.0), "loudness": (-20.0, -8.0), "voice_distance": (-np.inf, 4.0)}
    judging = write_tiny_bundle(tmp_path / "bundle", ranges=Ranges(limits=limits))
    predict.run([folder], tmp_path / "out", bundle=judging)
    assert [row["unlike_training"] for row in read(tmp_path / "out")] == ["true", "false", "", "true"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["unlike_training"] for line in lines] == [True, False, None, True]
    named = [line["details"].get("unlike_training") for line in lines]
    assert named == ["loudness;voice_distance", "", None, "duration;loudness;voice_distance"]


def test_a_bundle_without_ranges_leaves_the_flag_empty(bundle, folder, tmp_path):
    predict.run([folder], tmp_path / "out", bundle=bundle)
    assert {row["unlike_training"] for row in read(tmp_path / "out")} == {""}


def test_progress_ends_at_the_number_of_clips(bundle, folder, tmp_path):
    seen = []
    predict.run(
        [folder], tmp_path / "out", bundle=bundle, batch=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_empty_folder_gives_an_empty_table(bundle, tmp_path):
    (tmp_path / "none").mkdir()
    outcome = predict.run([tmp_path / "none"], tmp_path / "out", bundle=bundle)
    assert outcome.records == ()
    assert read(tmp_path / "out") == []


def test_manifest_rows(bundle, folder, tmp_path):
    (folder / "clips.csv").write_text(
        "id,audio,text,speaker,question,start_s,end_s\n"
        "one,b.wav,,anna,who are you?,0.25,0.75\n"
        "two,,hello world hello,,,,\n"
        "three,none.wav,,,,,\n"
    )
    predict.run([], tmp_path / "out", bundle=bundle, manifest=folder / "clips.csv")
    rows = read(tmp_path / "out")
    assert [row["clip"] for row in rows] == ["one", "two", "three"]
    assert list(rows[0])[:5] == ["clip", "speaker", "question", "status", "reason"]
    assert (rows[0]["speaker"], rows[0]["question"], rows[0]["duration_s"]) == ("anna", "who are you?", "0.500000")
    assert rows[1]["brightness"] == "0.030000"
    assert rows[2]["status"] == "failed"


class TestWrongUse:
    def test_neither_paths_nor_manifest(self, bundle, tmp_path):
        with pytest.raises(ConfigError, match="either media files and folders, or --manifest"):
            predict.run([], tmp_path / "out", bundle=bundle)

    def test_both(self, bundle, folder, tmp_path):
        with pytest.raises(ConfigError, match="not both"):
            predict.run([folder], tmp_path / "out", bundle=bundle, manifest=folder / "clips.csv")

    def test_no_manifest(self, bundle, tmp_path):
        with pytest.raises(ManifestError, match="no such file"):
            predict.run([], tmp_path / "out", bundle=bundle, manifest=tmp_path / "clips.csv")
        assert not (tmp_path / "out").exists()

    def test_no_bundle(self, folder, tmp_path):
        with pytest.raises(BundleError, match="no such file"):
            predict.run([folder], tmp_path / "out", bundle=tmp_path)
        assert not (tmp_path / "out").exists()

    def test_out_is_a_file(self, bundle, folder, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(ConfigError, match="--out .*out: File exists; expected a folder"):
            predict.run([folder], tmp_path / "out", bundle=bundle)


def texts(folder: Path, count: int) -> Path:
    rows = "".join(f"c{n:03},{'hello ' * (n % 6)}x\n" for n in range(count))
    (folder / "clips.csv").write_text(f"id,text\n{rows}")
    return folder / "clips.csv"


@pytest.mark.parametrize(("clips", "batch"), [(255, 1), (256, 4)])
def test_the_best_batch_is_looked_for_where_that_pays(bundle, tmp_path, monkeypatch, clips, batch):
    monkeypatch.setattr(batches, "tune", lambda predictor: 4)
    predict.run([], tmp_path / "out", bundle=bundle, manifest=texts(tmp_path, clips))
    with Journal(tmp_path / "out") as journal:
        assert journal.batch == batch


def test_a_batch_that_is_found_is_kept_in_the_job(bundle, tmp_path):
    arguments = {"bundle": bundle, "manifest": texts(tmp_path, 256)}
    predict.run([], tmp_path / "out", **arguments)
    with Journal(tmp_path / "out") as journal:
        found = journal.batch
    assert found in SIZES
    before = (tmp_path / "out" / "results.csv").read_bytes()
    predict.run([], tmp_path / "out", **arguments, batch=found)
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    with pytest.raises(ConfigError, match=rf"begun with --batch {found}, not 64; --fresh scores everything anew"):
        predict.run([], tmp_path / "out", **arguments, batch=64)


class TestResume:
    """With a bundle whose scores depend on who shares a batch."""

    @pytest.fixture
    def bundle(self, tmp_path):
        return leaky_bundle(tmp_path / "leaky")

    @pytest.fixture
    def clips(self, tmp_path):
        return sounds(tmp_path / "many", 20)

    def run(self, clips: Path, out: Path, bundle: Path, stop_at: int = 1000, **options) -> list[int]:
        """Clips done at each report; the job is interrupted once `stop_at` are."""
        seen = []

        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done >= stop_at:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            predict.run([clips], out, bundle=bundle, batch=2, progress=progress, **options)
        return seen

    def test_an_interrupted_job_goes_on_with_the_same_bytes(self, bundle, clips, tmp_path):
        whole, out = tmp_path / "whole", tmp_path / "out"
        assert self.run(clips, whole, bundle) == [4, 8, 12, 16, 20]
        assert self.run(clips, out, bundle, stop_at=8) == [4, 8]
        assert not (out / "results.csv").exists()
        (out / ".results.csv.x1y2").write_text("what a killed process left")
        assert self.run(clips, out, bundle, workers=2) == [12, 16, 20]
        for name in predict.OUTPUTS:
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        assert sorted(path.name for path in out.iterdir()) == ["job.sqlite", *sorted(predict.OUTPUTS)]

    def test_a_finished_job_only_writes_its_tables_again(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle)
        before = (tmp_path / "out" / "results.csv").read_bytes()
        (tmp_path / "out" / "results.csv").unlink()
        assert self.run(clips, tmp_path / "out", bundle) == []
        assert (tmp_path / "out" / "results.csv").read_bytes() == before

    def test_fresh_scores_everything(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle)
        assert self.run(clips, tmp_path / "out", bundle, fresh=True) == [4, 8, 12, 16, 20]

    def test_a_file_that_changed_is_scored_again_with_its_group(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle)
        before = (tmp_path / "out" / "results.csv").read_bytes()
        sound(sorted(clips.rglob("*.wav"))[9], 0.9, seconds=0.3)
        assert self.run(clips, tmp_path / "out", bundle) == [20]
        self.run(clips, tmp_path / "anew", bundle)
        for name in predict.OUTPUTS:
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()
        assert (tmp_path / "out" / "results.csv").read_bytes() != before

    def test_a_file_that_was_copied_again_is_not(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle)
        for path in clips.rglob("*.wav"):
            os.utime(path, (1, 1))
        assert self.run(clips, tmp_path / "out", bundle) == []

    def test_a_transcript_that_came_is_read(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle, stop_at=8)
        first = min(clips.rglob("*.wav"))
        first.with_suffix(".txt").write_text("hello")
        self.run(clips, tmp_path / "out", bundle)
        assert [row["text_present"] for row in read(tmp_path / "out")].count("true") == 1

    def test_another_model_is_refused(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle, stop_at=8)
        other = write_tiny_bundle(tmp_path / "other", name="other")
        with pytest.raises(ConfigError, match=r"job\.sqlite: holds another job: bundle \w+ there, \w+ now. --fresh"):
            self.run(clips, tmp_path / "out", other)

    def test_other_clips_and_limits_are_refused(self, bundle, clips, tmp_path):
        self.run(clips, tmp_path / "out", bundle, stop_at=8)
        sound(clips / "new.wav", 0.5)
        with pytest.raises(ConfigError, match=r"max_duration any there, 3 s now; clips 1 new \(new.wav\)"):
            self.run(clips, tmp_path / "out", bundle, max_duration_s=3.0)


def test_a_long_clip_is_scored_up_to_the_limit(bundle, folder, tmp_path):
    predict.run([folder], tmp_path / "out", bundle=bundle, max_duration_s=3.0)
    rows = {row["clip"]: row for row in read(tmp_path / "out")}
    assert "too_long" in rows["sub/a.wav"]["reason"] and rows["sub/a.wav"]["status"] == "degraded"
    assert "too_long" not in rows["b.wav"]["reason"]


def test_vectors_reach_their_stream(tmp_path):
    """A bundle that scores vectors alone: the mean of the first number is the brightness."""
    bundle = vector_bundle(tmp_path / "bundle")
    vectors = tmp_path / "vectors" / "emotion"
    vectors.mkdir(parents=True)
    np.save(vectors / "one.npy", np.array([[0.2, 0.0], [0.4, 0.0]], np.float32))
    np.save(vectors / "nan.npy", np.array([[np.nan, 0.0]], np.float32))
    np.save(vectors / "wide.npy", np.ones((1, 3), np.float32))
    (tmp_path / "clips.csv").write_text("id,text\none,x\nnan,x\nwide,x\nnone,x\n")
    predict.run([], tmp_path / "out", bundle=bundle, manifest=tmp_path / "clips.csv", features=tmp_path / "vectors")
    one, nan, wide, none = read(tmp_path / "out")
    assert (one["status"], one["brightness"], one["emotion_present"]) == ("ok", "0.300000", "true")
    assert (nan["status"], nan["reason"], nan["brightness"]) == ("failed", "non_finite", "")
    assert (wide["status"], wide["reason"]) == ("failed", "unreadable_container")
    assert (none["status"], none["reason"]) == ("failed", "no_modality")
    details = [json.loads(line)["details"] for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert "width 3; the model takes 2" in details[2]["features_error"] and "features_error" not in details[0]
