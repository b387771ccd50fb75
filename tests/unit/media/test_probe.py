"""What a container tells, and what may not be opened."""

from __future__ import annotations

import os
from pathlib import Path

import av
import clock
import numpy as np
import pytest

from mmtraits.errors import MediaError
from mmtraits.media.probe import MAX_PIXELS, MEDIA_SUFFIXES, display_size, opened, probe, quarter_turns


def reason(path: Path) -> str:
    with pytest.raises(MediaError, match=r"expected|again|name") as caught:
        probe(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


def test_facts_of_a_clip(tmp_path: Path) -> None:
    info = probe(clock.write(tmp_path / "a.mp4", seconds=2, fps=25, layout="stereo"))
    assert (info.has_video, info.has_audio) == (True, True)
    assert (info.width_px, info.height_px, info.rotation_deg) == (128, 96, 0)
    assert info.duration_s == pytest.approx(2.0, abs=0.03)
    assert info.fps == pytest.approx(25, abs=0.1)
    assert (info.video_codec, info.audio_codec, info.sample_rate, info.channels) == ("h264", "aac", 44100, 2)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_a_rotated_picture_is_measured_as_it_is_shown(tmp_path: Path, degrees: int) -> None:
    info = probe(clock.write(tmp_path / "a.mp4", seconds=0.4, sound_span_s=None, rotation_deg=degrees))
    assert info.rotation_deg == degrees % 360
    assert (info.width_px, info.height_px) == ((128, 96) if degrees == 180 else (96, 128))
    assert not info.has_audio


def test_sound_alone(tmp_path: Path) -> None:
    info = probe(clock.write(tmp_path / "a.flac", seconds=1, times_s=[], codecs=("", "flac"), rate=16000))
    assert (info.has_video, info.has_audio, info.sample_rate) == (False, True, 16000)
    assert (info.width_px, info.fps, info.video_codec) == (0, 0.0, "")


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in clock._sound_packets(sound, (0.0, 1.0), 16000, 0.0):
            container.mux(packet)
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24").reformat(format="yuvj420p")
        container.mux([*cover.encode(frame), *cover.encode()])
    info = probe(path)
    assert (info.has_video, info.has_audio) == (False, True)


def test_duration_counts_from_the_first_time_stamp(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts"):
        info = probe(clock.write(tmp_path / name, seconds=2, start_s=3.5))
        assert info.duration_s == pytest.approx(2.0, abs=0.06), name
        assert info.start_s == pytest.approx(3.5, abs=0.06), name


def test_a_missing_duration_is_counted(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", seconds=2, sound_span_s=None)
    data = path.read_bytes()
    at = data.index(b"\x44\x89")  # the Duration element: voided, as a recorder that streams leaves it out
    path.write_bytes(data[:at] + b"\xec\x89" + data[at + 2 :])
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.05)


def test_an_absurd_duration_is_counted(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", seconds=2, sound_span_s=None)
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    path.write_bytes(data[:at] + np.array(1e12, ">f8").tobytes() + data[at + 8 :])
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.05)


def test_a_damaged_time_stamp_is_not_the_end(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", times_s=[*(np.arange(50) / 25), 90000.0], sound_span_s=None)
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("content", [b"", os.urandom(5000), b"just some text\n" * 100, b"\x00" * 4096])
def test_no_media_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert reason(path) == "unreadable_container"


def test_not_a_regular_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.mp4") == "unreadable_container"
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    assert reason(folder) == "unreadable_container"
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert reason(pipe) == "unreadable_container"  # and does not wait for a writer


@pytest.mark.parametrize("where", ["media", "index"])
def test_an_mp4_cut_off_before_the_end_of_its_index(tmp_path: Path, where: str) -> None:
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w") as container:  # no faststart: the index is at the end
        stream = clock._video_stream(container, (128, 96), 25, 0, None, "h264", 250)
        for packet in clock._video_packets(stream, np.arange(50) / 25, (128, 96)):
            container.mux(packet)
    path = tmp_path / "a.mp4"
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) // 2 if where == "media" else data.index(b"moov") + 30])
    assert reason(path) == "truncated_no_index"


def test_play_lists_and_scripts_open_no_other_file(tmp_path: Path) -> None:
    clock.write(tmp_path / "other.mp4", seconds=0.4, sound_span_s=None)
    script = tmp_path / "a.mp4"
    script.write_text("ffconcat version 1.0\nfile other.mp4\n")
    assert reason(script) == "format_not_allowed"
    play_list = tmp_path / "b.m3u8"
    play_list.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'other.mp4'}\n#EXT-X-ENDLIST\n")
    assert reason(play_list) == "format_not_allowed"
    session = tmp_path / "c.mp4"
    session.write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n")
    assert reason(session) in {"format_not_allowed", "unreadable_container"}


@pytest.mark.parametrize(
    "name", ["concat:a|b.mp4", "http:x.mp4", "-i.mp4", "a\nb'\".mp4", "pipe:0", "%d.mp4", "ü☺.mp4"]
)
def test_names_are_names_and_no_addresses(tmp_path: Path, name: str) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=0.4, sound_span_s=None).rename(tmp_path / name)
    assert probe(path).width_px == 128


def test_subtitles_alone_are_no_modality(tmp_path: Path, real_data: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(real_data / "clips/edge/nasa_13013.mp4")) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.subtitles[0])
        for packet in source.demux(source.streams.subtitles[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    assert reason(path) == "no_modality"


def test_display_size_and_turns() -> None:
    assert display_size(176, 144, None, 0) == (176, 144)
    assert display_size(100, 50, 2, 0) == (200, 50)
    assert display_size(100, 50, 2, 90) == (50, 200)
    assert display_size(100, 50, 100, 0) == (100, 50)  # no sane aspect: left alone
    assert [quarter_turns(degrees) for degrees in (0, 90, 180, -90, 270, 360, 44)] == [0, 1, 2, 3, 3, 0, 0]


def test_one_open_serves_facts_and_frames(tmp_path: Path) -> None:
    with opened(clock.write(tmp_path / "a.mp4", seconds=0.4)) as media:
        assert media.info.has_video
        assert sum(1 for _ in media.container.decode(video=0)) == 10


def test_limits_and_suffixes() -> None:
    assert 7680 * 4320 < MAX_PIXELS < 16384 * 8192
    assert {".mp4", ".wav", ".mkv", ".mpg"} <= MEDIA_SUFFIXES
    assert not {".txt", ".srt", ".m3u8", ".png", ".json"} & MEDIA_SUFFIXES
