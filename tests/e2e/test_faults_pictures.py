"""Fault cases 10 to 12 and 14: pictures too large, too many, unusual, dark, with nobody or several people in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import bad_media as bad
import clock
import numpy as np
import pytest
import scoring
from scoring import Row, cause
from tiny_bundle import SPECS, write_tiny_bundle

from mmtraits.media.load import load
from mmtraits.media.probe import probe
from mmtraits.schema import Clip, Windowing

LATE = [0, 1, 2, 9, 10, 14]  # in tenths of a second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = scoring.with_neighbours(tmp_path_factory.mktemp("pictures") / "media")
    face, upright = [bad.portrait()] * 10, {"codec": "h264", "pix_fmt": "yuv420p"}
    bad.recorded(folder / "one_frame.mp4", face[:1], **upright)
    bad.recorded(folder / "two_px.mp4", [np.full((2, 2, 3), 100, np.uint8)] * 5, **upright)
    bad.recorded(folder / "odd.mkv", [face[0][:191, :255]] * 5, codec="h264", pix_fmt="yuv444p")
    bad.recorded(folder / "ten_bits.mkv", face, codec="h264", pix_fmt="yuv444p10le")
    bad.recorded(folder / "rotated.mp4", [np.rot90(face[0]).copy()] * 5, rotation_deg=-90, **upright)
    bad.recorded(folder / "uneven.mkv", face[:6], **upright, fps=10, options={"bf": "0"}, stamps=LATE.__getitem__)
    bad.recorded(folder / "backwards.mkv", face, codec="mjpeg", pix_fmt="yuvj420p", stamps=lambda k: k + 2 * (k % 3))
    bad.recorded(folder / "unstamped.mp4", face, **upright, form="h264")
    fields = {"flags": "+ilme+ildct"}
    bad.recorded(folder / "interlaced.mp4", face, **upright, options={**fields, "x264-params": "tff=1"})
    bad.recorded(folder / "interlaced.mpg", face * 3, codec="mpeg2video", pix_fmt="yuv420p", fps=25, options=fields)
    bad.recorded(folder / "fast.mp4", face * 100, **upright, fps=1000)
    bad.recorded(folder / "av1.mp4", face, codec="libsvtav1", pix_fmt="yuv420p", options={"preset": "13"})
    unknown = clock.write(folder / "no_decoder.mkv", seconds=1)
    unknown.write_bytes(unknown.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/X/XXX"))
    bad.recorded(folder / "screen.mov", face[:5], codec="qtrle", pix_fmt="rgb24")
    for name, ticks in (("zero", 0), ("negative", -5), ("endless", 10**9)):
        bad.says_duration(bad.talking(folder / f"lasts_{name}.mp4"), ticks)
    bad.talking(folder / "face.mp4", [bad.portrait(1)] * 8, level=0.0)
    bad.talking(folder / "face_then_black.mp4", [bad.BLACK] * 8, level=0.0)  # scored right after a face
    bad.talking(folder / "nobody.mp4", [clock.picture(n) for n in range(8)])
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    return scoring.scored(folder)


# ---------------------------------------------------------------------------------------------------- unusual, but good


@pytest.mark.parametrize(
    "name",
    [
        *("one_frame.mp4", "odd.mkv", "ten_bits.mkv", "rotated.mp4", "uneven.mkv", "backwards.mkv", "unstamped.mp4"),
        *("interlaced.mp4", "interlaced.mpg", "fast.mp4", "av1.mp4"),
    ],
)
def test_unusual_pictures_show_their_face(rows: dict[str, Row], name: str) -> None:
    assert rows[name]["face_present"], rows[name]
    assert (rows[name]["status"], cause(rows[name])) == ("degraded", "")


def test_a_rotated_face_is_scored_upright(rows: dict[str, Row], folder: Path) -> None:
    assert probe(folder / "rotated.mp4").rotation_deg in (90, 270)
    assert rows["rotated.mp4"]["brightness"] == pytest.approx(rows["ten_bits.mkv"]["brightness"], abs=0.01)


def test_times_are_stamps_and_no_counts(rows: dict[str, Row]) -> None:
    assert rows["uneven.mkv"]["duration_s"] == pytest.approx(1.5, abs=0.06)
    assert rows["fast.mp4"]["duration_s"] == pytest.approx(1.0, abs=0.01)
    assert rows["unstamped.mp4"]["duration_s"] == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize("name", ["zero", "negative", "endless"])
def test_a_duration_that_lies_is_measured(rows: dict[str, Row], name: str) -> None:
    row = rows[f"lasts_{name}.mp4"]
    assert row["duration_s"] == pytest.approx(2.0, abs=0.05)
    assert row["details"]["windows"] == 1
    good = rows[scoring.GOOD[0]]
    assert row["brightness"] == pytest.approx(good["brightness"] - 0.02, abs=1e-4)  # which has two words


def test_two_pixels_hold_nobody(rows: dict[str, Row]) -> None:
    assert rows["two_px.mp4"]["reason"] == "no_face;no_sound;no_transcript"


@pytest.mark.parametrize(("name", "status"), [("no_decoder.mkv", "degraded"), ("screen.mov", "failed")])
def test_a_codec_without_an_allowed_decoder_is_named(rows: dict[str, Row], name: str, status: str) -> None:
    assert (rows[name]["status"], cause(rows[name])) == (status, "codec_unsupported")


# ---------------------------------------------------------------------------------------------------- who is seen


def test_black_pictures_show_nobody_and_never_the_face_before(rows: dict[str, Row]) -> None:
    assert rows["face.mp4"]["face_present"]
    row = rows["face_then_black.mp4"]
    assert (row["status"], row["reason"]) == ("failed", "no_face;no_sound;no_transcript")
    assert (row["details"]["face_coverage"], row["details"]["n_faces"]) == (0.0, 0)


def test_pictures_without_a_face_leave_the_sound(rows: dict[str, Row]) -> None:
    row = rows["nobody.mp4"]
    assert (row["status"], row["reason"], row["brightness"]) == ("degraded", "no_face;no_transcript", 0.0)
    assert row["loudness"] > 0.1


def test_a_face_in_a_tenth_of_the_frames_is_counted(tmp_path: Path) -> None:
    bad.talking(tmp_path / "a.mp4", [bad.portrait()] * 2 + [np.zeros((192, 256, 3), np.uint8)] * 18)
    specs = {"face": type(SPECS["face"])(frames=20, height_px=8, width_px=8)}
    loaded = load(Clip(id="a", video=tmp_path / "a.mp4"), specs, Windowing())
    assert loaded.details["face_coverage"] == 0.1
    assert loaded.windows[0].streams["face"].mask.tolist() == [True] * 2 + [False] * 18
    assert loaded.reasons == ()


def test_of_several_people_the_largest_is_scored(tmp_path: Path) -> None:
    """On the left or on the right; alone she has the same crops."""
    tall = bad.portrait(3, (256, 192), eyes_px=44.0)
    small = bad.portrait(4, (256, 192), eyes_px=22.0)
    specs = {"face": SPECS["face"]}
    crops = []
    for name, pair in {"left": (tall, small), "right": (small, tall), "alone": (tall,)}.items():
        path = bad.talking(tmp_path / f"{name}.mp4", [np.concatenate(pair, axis=1)] * 8, options={"crf": "4"})
        loaded = load(Clip(id="a", video=path), specs, Windowing())
        raw = loaded.windows[0].streams["face"]
        assert raw.mask.all()
        assert loaded.details["n_faces"] == (1 if name == "alone" else 2)
        crops.append(raw.data.astype(int))
    assert np.abs(crops[0] - crops[1]).mean() < 6
    assert np.abs(crops[0] - crops[2]).mean() < 6


# ---------------------------------------------------------------------------------------------------- too much

PROGRAM = """
import sys
from pathlib import Path
from mmtraits import predict
predict.run([sys.argv[1]], sys.argv[2], bundle=sys.argv[3])
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(peak.split()[1])
"""


def peak_mb(folder: Path, bundle: Path) -> float:
    out = folder.parent / f"out_{folder.name}"
    command = [sys.executable, "-c", PROGRAM, str(folder), str(out), str(bundle)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


@pytest.fixture(scope="module")
def too_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = scoring.with_neighbours(tmp_path_factory.mktemp("large") / "media")
    bad.huge_jpeg(folder / "jpeg_16384x8192.mov")
    bad.huge_jpeg(folder / "jpeg_65535x65535.mov", 65535, 65535)
    bad.huge_png(folder / "png_16000x16000.mov")
    bad.claims_size(folder / "header_100000x100000.avi")
    bad.huge_h264(folder / "h264_16384x8192.mp4")
    return folder


def test_pictures_over_the_limit_are_named_as_that(too_large: Path) -> None:
    rows = scoring.scored(too_large)
    found = {name: (row["status"], cause(row)) for name, row in rows.items() if name not in scoring.GOOD}
    assert set(found.values()) == {("failed", "too_large")}, found
    assert len(found) == 5


def test_a_png_of_that_size_would_be_costly(too_large: Path) -> None:
    """The file is what it says: FFmpeg without limits spends 700 MB on it."""
    with av.open(str(too_large / "png_16000x16000.mov")) as container:
        assert container.streams.video[0].width == 16000


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_pictures_over_the_limit_and_ten_hours_take_no_memory(too_large: Path, tmp_path: Path) -> None:
    few = scoring.with_neighbours(tmp_path / "few")
    many = scoring.with_neighbours(tmp_path / "many")
    for path in too_large.iterdir():
        if path.suffix in (".mov", ".avi") or path.name.startswith("h264"):
            (many / path.name).write_bytes(path.read_bytes())
    bad.hours(many / "ten_hours.mkv").with_suffix(".txt").write_text("hello")
    bundle = write_tiny_bundle(tmp_path / "bundle", windowing={"length_s": 3600.0, "hop_s": 3600.0})
    before, after = peak_mb(few, bundle), peak_mb(many, bundle)
    assert after < before + 60
    row = scoring.scored(many, bundle)["ten_hours.mkv"]
    assert (row["status"], row["reason"]) == ("degraded", "no_face;no_sound")
    assert (row["duration_s"], row["details"]["windows"]) == (36000.0, 10)
    row = scoring.scored(many, bundle, max_duration_s=7200.0)["ten_hours.mkv"]
    assert (row["status"], row["reason"]) == ("degraded", "too_long;no_face;no_sound")
    assert (row["duration_s"], row["details"]["windows"]) == (36000.0, 2)  # scored up to the limit
