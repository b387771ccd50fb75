"""Pictures that nobody wants are not decoded, and those that somebody wants are the same as when all are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import clock
import numpy as np
import pytest

from mmtraits.media.packets import Health, Reader
from mmtraits.media.probe import opened, video_stream
from mmtraits.media.sampling import frame_times
from mmtraits.media.video import Picture, exactly, read
from mmtraits.media.write import write_video

SECONDS, FPS = 20, 25
SIZE = (64, 48)


@pytest.fixture(scope="module", params=["key frames only", "closed", "open", "one group", "leading"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    if request.param == "leading":  # x265's groups are open: pictures shown before a key frame follow it in the file
        return clock.write(path, seconds=SECONDS, fps=FPS, size=SIZE, codecs=("libx265", "aac"), gop=12)
    options = {
        "key frames only": {"g": "1"},
        "closed": {"g": "12", "bf": "3", "x264-params": "scenecut=0:b-pyramid=normal"},
        "open": {"g": "12", "bf": "3", "x264-params": "scenecut=0:b-pyramid=normal:open-gop=1"},
        "one group": {"g": "600", "bf": "3", "x264-params": "scenecut=0"},
    }[request.param]
    frames = (clock.picture(k, *SIZE) for k in range(SECONDS * FPS))
    wave = clock.wave(0, SECONDS, 22050)
    write_video(path, frames, FPS, wave, 22050, options=options)
    return path


def pictures(path: Path, wanted: Sequence[float], *, sound: bool, health: Health | None = None) -> list[Picture]:
    span = (0.0, float(SECONDS)) if sound else None
    with opened(path) as media:
        events = list(read(media, wanted=wanted, sizes=[exactly(*SIZE)], sound_span_s=span, health=health or Health()))
    return [event for event in events if isinstance(event, Picture)]


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8, 40, 400])
def test_frames_are_those_of_a_full_decoding(clip: Path, count: int, sound: bool) -> None:
    wanted = frame_times(0.0, SECONDS, count).tolist()
    health = Health()
    found = pictures(clip, wanted, sound=sound, health=health)
    every = pictures(clip, (np.arange(SECONDS * FPS) / FPS).tolist(), sound=False)
    assert len(every) == SECONDS * FPS
    assert [picture.wanted for picture in found] == list(range(count))
    for picture, time_s in zip(found, wanted, strict=True):
        truth = every[int(time_s * FPS + 1e-6)]
        assert picture.time_s == truth.time_s
        np.testing.assert_array_equal(picture.images[0], truth.images[0])
    assert health.reasons == set()
    assert health.packet_errors == 0


@pytest.mark.parametrize("sound", [False, True])
def test_groups_without_a_wanted_frame_are_not_decoded(tmp_path: Path, sound: bool) -> None:
    path = tmp_path / "a.mp4"
    frames = (clock.picture(k, *SIZE) for k in range(SECONDS * FPS))
    write_video(path, frames, FPS, clock.wave(0, SECONDS, 22050), 22050, options={"g": "10"})
    health = Health()
    pictures(path, frame_times(0.0, SECONDS, 8).tolist(), sound=sound, health=health)
    assert health.frames <= 8 * (10 + 4)  # a group each, and what the decoder holds back
    health = Health()
    pictures(path, frame_times(0.0, SECONDS, 400).tolist(), sound=sound, health=health)
    assert health.frames > 0.95 * SECONDS * FPS


class Counted:
    """A container that counts the packets of pictures that are read."""

    def __init__(self, container: Any) -> None:
        self._container, self.packets, self.seeks = container, 0, 0

    def demux(self, streams: Sequence[Any]) -> Iterator[Any]:
        for packet in self._container.demux(streams):
            self.packets += 1
            yield packet

    def seek(self, *arguments: Any, **more: Any) -> None:
        self.seeks += 1
        self._container.seek(*arguments, **more)


def test_far_frames_are_jumped_to(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=120, fps=10, size=SIZE, gop=10, sound_span_s=None)
    with opened(path) as media:
        counted = Counted(media.container)
        video: Any = video_stream(media.container)
        reader = Reader(media._replace(container=counted), video, None, Health(), lambda: None)
        reader.next_s = 100.0
        first = next(frame for frame in reader.frames() if frame.time >= 100.0)
    assert first.time == pytest.approx(100.0)
    assert counted.seeks == 1
    assert counted.packets < 50


@pytest.mark.parametrize("wanted", [[1.0, 59.0], [59.0], [1.0, 33.0, 59.0]])
def test_a_jump_beyond_the_end_of_a_cut_file_loses_nothing(tmp_path: Path, wanted: list[float]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=60, fps=10, size=SIZE, gop=10, sound_span_s=None)
    data = path.read_bytes()
    media_at = data.index(b"mdat")
    path.write_bytes(data[: media_at + (len(data) - media_at) // 2])
    health = Health()
    with opened(path) as media:
        read_ = list(read(media, wanted=wanted, sizes=[exactly(*SIZE)], health=health))
    reached_s = health.video_end_s
    assert 20 < reached_s < 40
    assert "truncated" in health.reasons
    assert [event.time_s for event in read_] == [
        pytest.approx(min(time_s, reached_s - 0.1)) for time_s in wanted if time_s < reached_s + 0.5
    ]


def test_other_formats_are_read_through(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.ts", seconds=20, fps=10, size=SIZE, gop=10, sound_span_s=None)
    health = Health()
    (picture,) = pictures(path, [15.0], sound=False, health=health)
    assert clock.number(picture.images[0]) == 150
    assert health.frames > 150


@pytest.mark.parametrize("sound", [False, True])
def test_an_index_that_lies_is_not_believed(tmp_path: Path, sound: bool) -> None:
    honest, lying, source = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"
    frames = (clock.picture(k, *SIZE) for k in range(SECONDS * FPS))
    options = {"g": "600", "x264-params": "scenecut=0"}
    write_video(source, frames, FPS, clock.wave(0, SECONDS, 22050), 22050, options=options)
    _copied(source, honest, lies=False)
    _copied(source, lying, lies=True)
    wanted = [5.0, 10.0, 19.0]
    truth = pictures(honest, wanted, sound=sound)
    found = pictures(lying, wanted, sound=sound)
    with av.open(str(lying)) as container:
        assert all(entry.is_keyframe for entry in container.streams.video[0].index_entries)
    assert [clock.number(picture.images[0]) for picture in truth] == [125, 250, 475]
    assert [picture.time_s for picture in found] == [picture.time_s for picture in truth]
    assert all(np.array_equal(a.images[0], b.images[0]) for a, b in zip(truth, found, strict=True))


def _copied(source: Path, target: Path, *, lies: bool) -> None:
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream, packet.is_keyframe = streams[packet.stream.index], packet.is_keyframe or lies
                out.mux(packet)


def test_an_endless_group_is_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    frames = (clock.picture(k, *SIZE) for k in range(200))
    write_video(path, frames, 10, options={"g": "1000", "x264-params": "scenecut=0"})
    monkeypatch.setattr("mmtraits.media.packets._MOST_HELD", 5)
    with opened(path) as media:
        counted = Counted(media.container)
        reader = Reader(media._replace(container=counted), video_stream(media.container), None, Health(), lambda: None)
        reader.next_s = 15.0
        decoded = reader.frames()
        assert next(decoded).time == 0.0
        assert counted.packets < 12
        assert len(list(decoded)) == 199
