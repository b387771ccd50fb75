from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest

from mmtraits.errors import ConfigError
from mmtraits.jobs import inputs
from mmtraits.schema import VectorSpec

SPECS = {"emotion": VectorSpec(width=2)}


def sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 800)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "media"
    for name in ("b.wav", "sub/a.wav", "a.WAV"):
        sound(root / name)
    (root / "b.txt").write_text("hello world")
    (root / "broken.mp4").write_bytes(b"this is no video")
    (root / "notes.md").write_text("not media")
    (root / "dir.mp4").mkdir()
    return root


def ids(*paths: Path, follow: bool = False) -> list[str]:
    return [clip.id for clip in inputs.find(paths, follow=follow)]


class TestFind:
    def test_media_files_in_path_order(self, folder):
        assert ids(folder) == ["a.WAV", "b.wav", "broken.mp4", "sub/a.wav"]

    def test_a_link_that_leads_out_is_followed_when_asked(self, folder, tmp_path, caplog):
        (folder / "link.wav").symlink_to(sound(tmp_path / "elsewhere.wav"))
        (folder / "up.wav").symlink_to("../elsewhere.wav")
        assert ids(folder) == ["a.WAV", "b.wav", "broken.mp4", "sub/a.wav"]
        assert f"{folder}: 2 links lead out of it and are left out; --follow takes them" in caplog.text
        assert "link.wav" in ids(folder, follow=True) and "up.wav" not in ids(folder, follow=True)  # one file, once

    def test_a_link_that_stays_inside_is_a_name_of_its_own_file(self, folder):
        (folder / "sub" / "blob").write_bytes((folder / "b.wav").read_bytes())
        (folder / "0.wav").symlink_to("sub/blob")
        (folder / "1.wav").symlink_to("b.wav")
        assert ids(folder) == ["0.wav", "a.WAV", "b.wav", "broken.mp4", "sub/a.wav"]

    def test_a_broken_link_is_no_file(self, folder):
        (folder / "0.wav").symlink_to("none.wav")
        assert "0.wav" not in ids(folder, follow=True)

    def test_a_linked_folder_is_followed_when_asked(self, folder, tmp_path):
        sound(tmp_path / "elsewhere" / "c.wav")
        (folder / "linked").symlink_to(tmp_path / "elsewhere")
        assert "linked/c.wav" not in ids(folder)
        assert "linked/c.wav" in ids(folder, follow=True)

    def test_links_that_go_round_end(self, folder):
        (folder / "sub" / "up").symlink_to(folder)
        (folder / "again").symlink_to("sub")
        assert ids(folder, follow=True) == ids(folder)

    def test_what_is_no_regular_file_is_left_alone(self, folder):
        os.mkfifo(folder / "0.mp4")
        assert "0.mp4" not in ids(folder)
        with pytest.raises(ConfigError, match=r"0\.mp4: is no regular file and no folder; name media files"):
            inputs.find([folder / "0.mp4"])

    def test_a_file_is_listed_once(self, folder):
        assert ids(folder / "sub" / ".." / "b.wav", folder) == ["b.wav", "a.WAV", "broken.mp4", "sub/a.wav"]

    def test_equal_names_of_two_arguments_are_told_apart(self, folder):
        sound(folder / "other" / "a.wav")
        assert ids(folder / "sub", folder / "other") == [f"{folder}/sub/a.wav", f"{folder}/other/a.wav"]

    def test_a_named_file_is_taken_whatever_its_suffix(self, folder):
        assert ids(folder / "notes.md") == ["notes.md"]

    def test_transcripts_beside_a_clip_are_found(self, folder):
        clip = next(clip for clip in inputs.find([folder]) if clip.id == "b.wav")
        assert clip.transcript == folder / "b.txt"

    def test_no_such_path(self, folder):
        with pytest.raises(ConfigError, match="none: no such file or folder"):
            inputs.find([folder / "none"])


class TestVectors:
    def of(self, found: inputs.Inputs, n: int = 0):
        return inputs.Vectors(found, SPECS).of(found.clips[n])

    def test_a_manifests_column_names_them(self, tmp_path):
        np.savez(tmp_path / "f.npz", clip=np.array(["one", "two"]), features=np.array([[1, 2], [3, 4]], np.float32))
        (tmp_path / "clips.csv").write_text("id,text,feature_emotion\none,hello,f.npz#one\ntwo,hello,\n")
        found = inputs.wanted([], tmp_path / "clips.csv", None, SPECS)
        vectors, wrong = self.of(found)
        assert vectors["emotion"].tolist() == [[1, 2]] and wrong is None
        assert self.of(found, 1) == ({}, None)

    @pytest.mark.parametrize("table", [False, True])
    def test_a_folder_holds_them_by_clip(self, folder, tmp_path, table):
        vectors = tmp_path / "vectors"
        (vectors / "emotion" / "sub").mkdir(parents=True)
        if table:
            np.savez(vectors / "emotion.npz", clip=np.array(["b.wav", "sub/a.wav"]), features=np.ones((2, 3, 2)))
        else:
            np.save(vectors / "emotion" / "sub" / "a.wav.npy", np.ones((3, 2)))
        found = inputs.wanted([folder], None, vectors, SPECS)
        assert found.clips[3].id == "sub/a.wav"
        given, wrong = self.of(found, 3)
        assert given["emotion"].shape == (3, 2) and given["emotion"].dtype == np.float32 and wrong is None
        assert self.of(found, 0) == ({}, None)

    def test_a_clip_cannot_name_what_lies_outside_of_the_folder(self, tmp_path):
        (tmp_path / "vectors" / "emotion").mkdir(parents=True)
        np.save(tmp_path / "vectors" / "x.npy", np.ones((1, 2)))
        (tmp_path / "clips.csv").write_text("id,text\n../x,hello\n")
        found = inputs.wanted([], tmp_path / "clips.csv", tmp_path / "vectors", SPECS)
        assert self.of(found) == ({}, None)

    @pytest.mark.parametrize(
        ("array", "reason", "told"),
        [
            (np.ones((1, 3)), "unreadable_container", "vectors of width 3; the model takes 2"),
            (np.array([[1, np.nan]]), "non_finite", "holds NaN or infinity"),
            (np.array(["a", "b"]), "unreadable_container", "expected numbers"),
            (None, "unreadable_container", "no such file"),
        ],
    )
    def test_wrong_vectors_are_left_out_with_a_reason(self, tmp_path, array, reason, told):
        if array is not None:
            np.save(tmp_path / "f.npy", array)
        (tmp_path / "clips.csv").write_text("id,text,feature_emotion\none,hello,f.npy\n")
        vectors, wrong = self.of(inputs.wanted([], tmp_path / "clips.csv", None, SPECS))
        assert vectors == {}
        assert wrong.reason == reason and told in str(wrong)

    def test_a_table_that_cannot_be_read(self, folder, tmp_path):
        (tmp_path / "emotion.npz").write_bytes(b"no table")
        with pytest.raises(ConfigError, match=r"emotion\.npz: not readable as \.npz"):
            inputs.wanted([folder], None, tmp_path, SPECS)

    def test_no_such_folder(self, folder):
        with pytest.raises(ConfigError, match="--features none: no such folder; expected <stream>/<clip id>.npy"):
            inputs.wanted([folder], None, "none", SPECS)
