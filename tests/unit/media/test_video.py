"""Frames by time stamp and the sound beside them, read off the clip that tells the time."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clock
import numpy as np
import pytest

from mmtraits.media import video as module
from mmtraits.media.packets import Reader
from mmtraits.media.probe import opened
from mmtraits.media.sampling import frame_times
from mmtraits.media.video import Health, Picture, Size, Sound, exactly, fit, read

VARIABLE_S = [0.0, 0.1, 0.15, 0.5, 0.9, 1.7, 1.95, 3.5]


def pictures(
    path: Path, wanted: Sequence[float], sizes: Sequence[Size] = (fit(640),), health: Health | None = None
) -> list[Picture]:
    with opened(path) as media:
        events = list(read(media, wanted=wanted, sizes=sizes, health=health or Health()))
    assert all(isinstance(event, Picture) for event in events)
    return events


def numbers(path: Path, wanted: Sequence[float], health: Health | None = None) -> dict[int, int]:
    return {found.wanted: clock.number(found.images[0]) for found in pictures(path, wanted, health=health)}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("start_s", [0.0, 3.5])
def test_the_frame_shown_at_a_time(tmp_path: Path, suffix: str, start_s: float) -> None:
    path = clock.write(tmp_path / f"a{suffix}", seconds=4, fps=25, sound_span_s=None, start_s=start_s)
    wanted = [0.0, 0.039, 0.041, 1.0, 1.019, 2.5, 3.99]
    assert numbers(path, wanted) == {0: 0, 1: 0, 2: 1, 3: 25, 4: 25, 5: 62, 6: 99}


def test_frames_of_variable_rate_are_chosen_by_their_stamps(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", times_s=VARIABLE_S, sound_span_s=None)
    wanted = [0.05, 0.101, 0.14, 0.151, 0.49, 0.6, 1.69, 1.8, 3.4, 3.51]
    found = pictures(path, wanted)
    assert [clock.number(picture.images[0]) for picture in found] == [0, 1, 1, 2, 2, 3, 4, 5, 6, 7]
    assert [picture.time_s for picture in found] == pytest.approx(
        [VARIABLE_S[k] for k in [0, 1, 1, 2, 2, 3, 4, 5, 6, 7]]
    )


def test_before_the_first_frame_stands_the_first_one(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", times_s=[1.0, 1.5, 1.9], sound_span_s=(0.0, 2.0))
    assert numbers(path, [0.1, 0.9, 1.2, 1.6]) == {0: 0, 1: 0, 2: 0, 3: 1}


def test_after_the_last_frame_has_ended_there_is_none(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1, sound_span_s=(0.0, 4.0))
    assert numbers(path, [0.5, 1.2, 2.0, 3.0]) == {0: 12, 1: 24}


def test_every_frame_is_the_right_one_over_a_minute(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=60, fps=30000 / 1001, size=(64, 48), sound_span_s=None)
    times = frame_times(0.0, 60.0, 200)
    found = pictures(path, times.tolist())
    assert [clock.number(picture.images[0]) for picture in found] == np.floor(times * 30000 / 1001).astype(int).tolist()


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotated_picture_is_turned_upright(tmp_path: Path, degrees: int) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1, sound_span_s=None, rotation_deg=degrees)
    (picture,) = pictures(path, [0.5], (fit(640), fit(64), exactly(32, 20)))
    stored = np.rot90(picture.images[0], -degrees // 90)
    assert stored.shape == (96, 128, 3)
    assert clock.number(stored) == 12
    assert picture.images[1].shape == ((48, 64, 3) if degrees == 180 else (64, 48, 3))
    assert picture.images[2].shape == (20, 32, 3)
    assert picture.images[0].flags.c_contiguous


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=0.4, sound_span_s=None, aspect=Fraction(3, 2))
    (picture,) = pictures(path, [0.2], (fit(640), fit(96)))
    assert [image.shape for image in picture.images] == [(96, 192, 3), (48, 96, 3)]


@pytest.mark.parametrize(("standard", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114)])
def test_colours_follow_the_standard_that_the_file_names(
    tmp_path: Path, standard: int, red: float, blue: float
) -> None:
    path, colour = tmp_path / "a.mkv", np.array([200, 60, 30])
    luma = np.dot([red, 1 - red - blue, blue], colour)
    chroma = [112 * (colour[2] - luma) / (1 - blue) / 255, 112 * (colour[0] - luma) / (1 - red) / 255]
    planes = np.repeat([16 + 219 * luma / 255, *(128 + part for part in chroma)], [64 * 64, 32 * 32, 32 * 32])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = standard  # 1: BT.709, 5: BT.601
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(planes.round().astype(np.uint8).reshape(96, 64), "yuv420p")
            frame.colorspace = standard
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (picture,) = pictures(path, [0.2])
    np.testing.assert_allclose(picture.images[0][32, 32].astype(int), colour, atol=4)


def test_sizes() -> None:
    assert fit(640)(1280, 720) == (640, 360)
    assert fit(640)(320, 240) == (320, 240)
    assert fit(640)(5000, 2) == (640, 1)
    assert exactly(224, 112)(1280, 720) == (224, 112)


def test_a_wanted_frame_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=2, fps=5, sound_span_s=None)
    converted = []
    original = module._scaled
    monkeypatch.setattr(module, "_scaled", lambda *arguments: converted.append(1) or original(*arguments))
    found = pictures(path, [0.41, 0.42, 0.43, 1.01])
    assert len(converted) == 2
    assert found[0].images is found[2].images


def test_reading_stops_when_everything_is_there(tmp_path: Path) -> None:
    health = Health()
    numbers(clock.write(tmp_path / "a.mp4", seconds=10, sound_span_s=None), [0.5], health)
    assert health.frames < 30
    assert health.reasons == set()
    assert health.decoded_fraction == 1.0


def test_a_late_stretch_is_sought_and_gives_the_same_frames(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", seconds=50, fps=10, size=(64, 48), gop=50)
    health = Health()
    assert numbers(path, [45.05, 46.05, 48.95], health) == {0: 450, 1: 460, 2: 489}
    assert health.frames < 150
    with opened(path) as media:
        sound = [
            event
            for event in read(media, wanted=[45.05], sizes=[fit(64)], sound_span_s=(45.0, 46.0), health=Health())
            if isinstance(event, Sound)
        ]
    assert sound[0].time_s <= 45.0
    inside = next(event for event in sound if event.time_s > 45.2)
    assert clock.second(inside.samples, inside.rate) == pytest.approx(45 % 20, abs=0.3)


def test_a_late_stretch_without_key_frames_is_read_from_the_start(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=30, fps=10, size=(64, 48), gop=1000, sound_span_s=None)
    assert numbers(path, [25.05]) == {0: 250}


# ---------------------------------------------------------------------------------------------------- damage


def damaged(path: Path, flips: int, seed: int) -> Path:
    """Flip bytes in the media part of a faststart mp4."""
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(data.index(b"mdat") + 8, len(data), flips):
        data[at] ^= int(random.integers(1, 256))
    path.write_bytes(data)
    return path


def chosen(times_s: Sequence[float], wanted: Sequence[float], fps: float) -> dict[int, float]:
    chooser = module._Chooser(wanted, lambda frame: (frame,), Health(), fps)
    found = [picture for time_s in times_s for picture in chooser.push(time_s, time_s)]
    return {picture.wanted: picture.time_s for picture in [*found, *chooser.finish(1e9)]}


def test_one_damaged_time_stamp_does_not_end_the_choice() -> None:
    times = [k / 10 for k in range(100)]
    wanted = [0.95, 3.05, 9.05]
    right = {0: 0.9, 1: 3.0, 2: 9.0}
    assert chosen(times, wanted, 10) == right
    assert chosen([*times[:20], 26000.0, *times[20:]], wanted, 10) == right
    assert chosen([*times[:20], -7.0, 0.3, *times[20:]], wanted, 10) == right


def test_a_real_gap_and_a_slow_rate_are_no_damage() -> None:
    assert chosen([0.0, 0.1, 60.0, 60.1, 60.2], [30.0, 60.15], 10) == {0: 0.1, 1: 60.1}
    slides = [0.0, 10.0, 20.0, 30.0]
    assert chosen(slides, [9.0, 11.0, 29.0], 0.1) == {0: 0.0, 1: 10.0, 2: 20.0}


def test_a_truncated_clip_keeps_what_was_decoded(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=8, fps=25, sound_span_s=None, gop=25)
    data = path.read_bytes()
    media = data.index(b"mdat")
    path.write_bytes(data[: media + (len(data) - media) // 2])
    health, times = Health(), frame_times(0, 8, 32)
    found = numbers(path, times.tolist(), health)
    assert "truncated" in health.reasons
    assert 0.2 < health.decoded_fraction < 0.8
    assert health.video_end_s == pytest.approx(8 * health.decoded_fraction, abs=0.05)
    assert 6 < len(found) < 26
    assert all(number == int(times[k] * 25) for k, number in found.items() if times[k] < health.video_end_s - 0.04)


class FailingDisk:
    """A container whose file cannot be read on after some packets."""

    def __init__(self, container: Any, packets: int) -> None:
        self.container, self.packets = container, packets

    def demux(self, streams: Sequence[Any]) -> Iterator[Any]:
        for count, packet in enumerate(self.container.demux(streams)):
            if count == self.packets:
                raise OSError(5, "Input/output error")
            yield packet


def test_frames_still_in_the_decoder_are_kept_when_reading_fails(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=4, sound_span_s=None)
    health = Health()
    with opened(path) as media:
        failing = media._replace(container=FailingDisk(media.container, 40))
        frames = list(Reader(failing, media.container.streams.video[0], None, health, lambda: None).frames())
    assert [frame.pts for frame in frames] == sorted(frame.pts for frame in frames)
    assert len(frames) == 40
    assert health.reasons == {"truncated"}


def test_damaged_packets_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = damaged(clock.write(tmp_path / "a.mp4", seconds=8, gop=10), 400, seed=1)
    health = Health()
    with opened(path) as media:
        events = list(
            read(media, wanted=frame_times(0, 8, 32).tolist(), sizes=[fit(64)], sound_span_s=(0, 8), health=health)
        )
    assert "corrupt_packets" in health.reasons
    assert health.packet_errors > 0
    assert any(isinstance(event, Picture) for event in events)


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_raises(tmp_path: Path, seed: int) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1, size=(64, 48))
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(0, len(data), 60):
        data[at] ^= int(random.integers(1, 256))
    path.write_bytes(data)
    try:
        with opened(path) as media:
            list(read(media, wanted=[0.1, 0.5], sizes=[fit(64)], sound_span_s=(0, 1), health=Health()))
    except module.MMTraitsError as error:
        assert str(path) in str(error)


def test_a_picture_over_the_limit_is_refused_and_the_sound_kept(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1)
    health = Health()
    with opened(path, 128 * 96 - 1) as media:
        events = list(read(media, wanted=[0.1], sizes=[fit(64)], sound_span_s=(0, 1), health=health))
    assert health.reasons == {"too_large"}
    assert events
    assert all(isinstance(event, Sound) for event in events)


def test_a_picture_that_lies_about_its_size_is_refused_by_the_decoder(tmp_path: Path) -> None:
    """An MJPEG stream declared as 64 by 64 px whose pictures say 16,384 by 8,192 of themselves."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuvj420p")))
        container.mux(stream.encode())
    data = path.read_bytes()
    small, large = bytes.fromhex("ffc0 0011 08 0040 0040"), bytes.fromhex("ffc0 0011 08 2000 4000")
    assert data.count(small) == 5
    path.write_bytes(data.replace(small, large))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    health = Health()
    assert pictures(path, [0.1, 0.5], health=health) == []
    assert health.reasons & {"too_large", "corrupt_packets"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000


def test_a_codec_without_decoder_is_told(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", seconds=1, sound_span_s=None)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/X/XXX"))
    health = Health()
    assert pictures(path, [0.1], health=health) == []
    assert health.reasons == {"codec_unsupported"}
