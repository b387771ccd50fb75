"""The backend decord gives the frames that PyAV gives, at the same times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import clock
import numpy as np
import pytest

from mmtraits.media.load import load
from mmtraits.media.probe import opened
from mmtraits.media.sampling import frame_times
from mmtraits.media.video import Backend, Health, Image, Picture, Size, exactly, fit, read
from mmtraits.schema import Clip, FrameSpec, WaveSpec, Windowing

pytest.importorskip("decord", reason="decord is built for linux x86_64 only")

SIZES = (lambda width, height: (width, height), fit(320), exactly(112, 112))


def frames(
    path: Path, backend: Backend, wanted: Sequence[float], sizes: Sequence[Size] = SIZES
) -> tuple[list[Picture], Health]:
    health = Health()
    with opened(path) as media:
        events = read(media, wanted=wanted, sizes=sizes, health=health, backend=backend)
        return [event for event in events if isinstance(event, Picture)], health


def difference(one: Image, other: Image) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


def assert_both_read_the_same(path: Path, wanted: Sequence[float], native: float, scaled: float) -> None:
    """Same frames at the same times; mean differences in grey levels of the native and the scaled pictures."""
    (ours, _), (theirs, health) = frames(path, "pyav", wanted), frames(path, "decord", wanted)
    assert health.reasons == set()
    assert [picture.wanted for picture in theirs] == [picture.wanted for picture in ours]
    np.testing.assert_allclose([p.time_s for p in theirs], [p.time_s for p in ours], atol=1e-5)
    for mine, its in zip(ours, theirs, strict=True):
        assert difference(mine.images[0], its.images[0]) <= native
        assert difference(mine.images[1], its.images[1]) <= scaled
        assert difference(mine.images[2], its.images[2]) <= scaled


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("start_s", [0.0, 3.5])
def test_a_clip_of_constant_rate(tmp_path: Path, suffix: str, start_s: float) -> None:
    path = clock.write(tmp_path / f"a{suffix}", seconds=4, start_s=start_s)
    assert_both_read_the_same(path, [0.0, 0.05, *frame_times(0, 4, 16).tolist()], native=0.0, scaled=2.0)
    pictures, _ = frames(path, "decord", [1.019], SIZES[1:2])
    assert clock.number(pictures[0].images[0]) == (25 if start_s == 0 or suffix == ".mkv" else 24)


def test_a_clip_of_variable_rate(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.5, 0.9, 1.7, 1.95, 3.5]
    path = clock.write(tmp_path / "a.mkv", times_s=times, sound_span_s=None)
    assert_both_read_the_same(path, [0.05, 0.12, 0.3, 0.6, 1.2, 1.8, 3.0, 3.51], native=0.0, scaled=2.0)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotated_clip(tmp_path: Path, degrees: int) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1, sound_span_s=None, rotation_deg=degrees)
    assert_both_read_the_same(path, [0.1, 0.5, 0.9], native=0.0, scaled=2.0)


def test_wide_pixels(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1, sound_span_s=None, aspect=Fraction(3, 2))
    assert_both_read_the_same(path, [0.1, 0.5, 0.9], native=2.0, scaled=2.0)
    assert frames(path, "decord", [0.5])[0][0].images[0].shape == (96, 192, 3)


def test_the_sound_comes_from_pyav(tmp_path: Path) -> None:
    clip = Clip(id="a", video=clock.write(tmp_path / "a.mp4", seconds=5))
    specs = {
        "scene": FrameSpec(frames=8, height_px=48, width_px=64, crop="full"),
        "voice": WaveSpec(sample_rate=16000),
    }
    windowing = Windowing(length_s=2, hop_s=2)
    ours, theirs = (load(clip, specs, windowing, backend=backend) for backend in ("pyav", "decord"))
    assert ours.reasons == theirs.reasons == ()
    for mine, its in zip(ours.windows, theirs.windows, strict=True):
        np.testing.assert_array_equal(mine.streams["voice"].data, its.streams["voice"].data)
        np.testing.assert_array_equal(mine.streams["scene"].mask, its.streams["scene"].mask)
        assert difference(mine.streams["scene"].data, its.streams["scene"].data) < 2


def test_a_damaged_clip_keeps_its_first_part(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=8, gop=25, sound_span_s=None)
    data = path.read_bytes()
    media = data.index(b"mdat")
    path.write_bytes(data[: media + (len(data) - media) // 2])
    loaded = load(Clip(id="a", video=path), {"scene": FrameSpec(frames=8, crop="full")}, Windowing(), backend="decord")
    assert set(loaded.reasons) & {"corrupt_packets", "truncated"}


def test_what_decord_cannot_open_or_gets_wrong_is_read_by_pyav(tmp_path: Path, real_data: Path) -> None:
    """It has no AV1 decoder, and gives the next group of pictures of MPEG program streams."""
    for name in ("edge/av1_video.mkv", "speaking/bbaf2n.mpg"):
        assert_both_read_the_same(real_data / "clips" / name, frame_times(0, 2.9, 8).tolist(), native=0.0, scaled=0.0)


@pytest.mark.parametrize(
    ("name", "native", "scaled"),
    [
        ("WolfgangLanger_Pexels.mp4", 0.0, 1.5),
        ("nasa_13013.mp4", 0.0, 2.5),
        ("nasa_13013_rotated.mp4", 0.0, 2.0),
        ("noface_face.mov", 0.0, 2.0),
        ("single_face.mp4", 0.0, 1.5),
        ("test_non_zero_start.mp4", 3.5, 4.5),  # its pixels are not square
        ("testsrc2_odd_height_and_width_444.mp4", 0.0, 1.5),
        ("nasa_13013_hdr.mp4", 0.7, 1.5),  # 10 bit: the two FFmpeg versions round differently
        ("unordered.mov", 0.0, 2.5),
    ],
)
def test_real_clips(real_data: Path, name: str, native: float, scaled: float) -> None:
    path = real_data / "clips/edge" / name
    with opened(path) as media:
        wanted = frame_times(0, min(6.0, media.info.duration_s), 12).tolist()
    assert_both_read_the_same(path, wanted, native, scaled)
