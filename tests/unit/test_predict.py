from __future__ import annotations

import csv
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mmtraits import predict
from mmtraits.errors import BundleError, ConfigError, ManifestError
from mmtraits.unlike import Ranges


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def sound(path: Path, level: float = 0.5, seconds: float = 1.0) -> Path:
    """A square wave: |sample| is `level` everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.where(np.arange(int(8000 * seconds)) // 40 % 2, level, -level)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    """Three good sounds, one of them with words beside it, one broken file and things that are no media."""
    root = tmp_path / "media"
    sound(root / "b.wav", 0.25)
    sound(root / "sub" / "a.wav", 0.75, seconds=5)
    sound(root / "a.WAV", 0.5)
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
