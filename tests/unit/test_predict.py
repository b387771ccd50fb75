from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import SPECS, write_tiny_bundle

from mmtraits import predict
from mmtraits.errors import BundleError, ConfigError, ManifestError
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, VectorSpec, Windowing
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
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "results.csv", "results.jsonl"]


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
        [folder], tmp_path / "out", bundle=bundle, batch=3, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(3, 4), (4, 4)]


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


def test_vectors_of_a_manifest_reach_the_stream(tmp_path):
    """An external stream of width 2 on top of the tiny ones: its vectors come from the manifest's feature column."""
    np.savez(tmp_path / "f.npz", clip=np.array(["one", "two"]), features=np.array([[1, 2], [3, 4]], np.float32))
    (tmp_path / "clips.csv").write_text("id,text,feature_emotion\none,hello,f.npz#one\ntwo,hello,\n")
    specs = {**SPECS, "emotion": VectorSpec(width=2)}
    clips, features = predict._wanted([], tmp_path / "clips.csv", specs, follow=False)
    assert features[0]["emotion"].tolist() == [[1, 2]] and features[1] == {}
    root = write_tiny_bundle(tmp_path / "bundle")
    for clip, given in zip(clips, features, strict=True):
        loaded = predict.load_one(predict.Job(clip, specs, Windowing(), root, given))
        assert loaded.windows[0].streams["emotion"].mask.tolist() == [True] * len(given)


class TestFind:
    def test_a_linked_file_is_followed_when_asked(self, folder, tmp_path):
        (folder / "link.wav").symlink_to(sound(tmp_path / "elsewhere.wav"))
        assert "link.wav" not in [clip.id for clip in predict.find([folder])]
        assert "link.wav" in [clip.id for clip in predict.find([folder], follow=True)]

    def test_a_linked_folder_is_followed_when_asked(self, folder, tmp_path):
        sound(tmp_path / "elsewhere" / "c.wav")
        (folder / "linked").symlink_to(tmp_path / "elsewhere")
        assert "linked/c.wav" not in [clip.id for clip in predict.find([folder])]
        assert "linked/c.wav" in [clip.id for clip in predict.find([folder], follow=True)]

    def test_a_file_is_listed_once(self, folder):
        found = predict.find([folder / "sub" / ".." / "b.wav", folder])
        assert [clip.id for clip in found] == ["b.wav", "a.WAV", "broken.mp4", "sub/a.wav"]

    def test_equal_names_of_two_arguments_are_told_apart(self, folder):
        sound(folder / "other" / "a.wav")
        found = [clip.id for clip in predict.find([folder / "sub", folder / "other"])]
        assert found == [f"{folder}/sub/a.wav", f"{folder}/other/a.wav"]

    def test_a_named_file_is_taken_whatever_its_suffix(self, folder):
        assert [clip.id for clip in predict.find([folder / "notes.md"])] == ["notes.md"]

    def test_transcripts_beside_a_clip_are_found(self, folder):
        clip = next(clip for clip in predict.find([folder]) if clip.id == "b.wav")
        assert clip.transcript == folder / "b.txt"

    def test_no_such_path(self, folder):
        with pytest.raises(ConfigError, match="none: no such file or folder"):
            predict.find([folder / "none"])


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


class TestFaults:
    """A clip's fault stays in its row. The faulty clips are real objects that break real code."""

    def job(self, clip: Clip, root: Path) -> predict.Job:
        return predict.Job(clip, SPECS, Windowing(), root, {})

    def test_an_unexpected_exception_is_a_row(self, bundle):
        loaded = predict.load_one(self.job(Clip(id="x", audio=Path("a.wav"), start_s="zero"), bundle))
        assert loaded.reasons == ("decoder_crash",)
        assert "error" in loaded.details
        assert not any(raw.mask.any() for raw in loaded.windows[0].streams.values())

    def test_a_worker_that_dies_costs_its_own_clip_only(self, bundle, folder):
        good = Clip(id="good", audio=folder / "b.wav")
        jobs = [self.job(clip, bundle) for clip in (good, Clip(id="bad", audio=_Killer()), good, good)]
        loaded = list(predict.load_all(jobs, workers=2))
        assert [clip.reasons[0] for clip in loaded] == ["no_face", "decoder_crash", "no_face", "no_face"]

    def test_a_script_without_main_guard_is_told(self, bundle, folder, tmp_path):
        script = tmp_path / "script.py"
        call = f"predict.run([{str(folder)!r}], {str(tmp_path / 'out')!r}, bundle={str(bundle)!r}, workers=1)"
        script.write_text(f"from mmtraits import predict\n{call}\n")
        found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
        assert found.returncode == 1
        assert "workers: a decoding process cannot start; a script needs `if __name__ == '__main__':`" in found.stderr

    def test_a_pass_that_fails_costs_its_own_clip_only(self, bundle, folder):
        predictor = Predictor(bundle)
        clips = [Clip(id="good", text="hello"), Clip(id="bad", text="hello")]
        loaded = [predictor.load(clip) for clip in clips]
        face = loaded[1].windows[0].streams["face"]
        wrong = np.zeros((1, 9, 9, 3), np.uint8)
        loaded[1].windows[0].streams["face"] = face._replace(data=wrong, mask=np.ones(1, bool))
        rows = predict._score(predictor, clips, loaded, 8)
        assert [row["status"] for row in rows] == ["degraded", "failed"]
        assert rows[1]["reason"] == "out_of_memory"


class _Killer:
    """Ends the process that unpickles it, as a decoder's crash does."""

    def __reduce__(self):
        return os._exit, (11,)
