"""Fault cases 1 to 5 and 8: files that are no media, cut off, damaged, or scripts in disguise."""

from __future__ import annotations

import csv
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import bad_media as bad
import clock
import numpy as np
import pytest
import scoring
from scoring import Row, cause
from tiny_bundle import write_tiny_bundle

from mmtraits import predict
from mmtraits.errors import MediaError
from mmtraits.media.load import load
from mmtraits.media.probe import probe
from mmtraits.schema import Clip, FrameSpec, Windowing

NO_MEDIA = {
    "empty.mp4": b"",
    "random.mp4": np.random.default_rng(0).bytes(5000),
    "text.mp4": b"just some text\n" * 100,
    "zeros.mkv": bytes(4096),
    "header.mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41",
}
INDEX_SEEDS = range(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = scoring.with_neighbours(tmp_path_factory.mktemp("containers") / "media")
    for name, content in NO_MEDIA.items():
        (folder / name).write_bytes(content)
    bad.cut(bad.index_last(folder / "no_index.mp4"), 0.5)
    late = bad.index_last(folder / "half_an_index.mp4")
    late.write_bytes(late.read_bytes()[: late.read_bytes().index(b"moov") + 30])
    noise = np.random.default_rng(0).integers(0, 256, (32, 96, 128, 3), np.uint8)
    bad.cut(bad.talking(folder / "half.mp4", noise, fps=8, options={"g": "1"}), 0.5)
    bad.flipped(bad.talking(folder / "flips.mp4", [bad.portrait()] * 32, options={"g": "4"}), 300, seed=1)
    for seed in INDEX_SEEDS:
        bad.flipped(bad.talking(folder / f"index_{seed:02}.mp4"), 4 if seed < 8 else 200, seed, part="moov")
    unnamed = clock.write(folder / "unnamed_codec.mp4", seconds=1, sound_span_s=None)
    unnamed.write_bytes(unnamed.read_bytes().replace(b"avc1", b"xxxx"))
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    return scoring.scored(folder)


@pytest.mark.parametrize("name", NO_MEDIA)
def test_no_media_at_all(rows: dict[str, Row], folder: Path, name: str) -> None:
    assert rows[name]["status"] == "failed"
    assert cause(rows[name]) == ("truncated_no_index" if name == "header.mp4" else "unreadable_container")
    start = time.process_time()
    with pytest.raises(MediaError):
        probe(folder / name)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("name", ["no_index.mp4", "half_an_index.mp4"])
def test_cut_off_before_the_index(rows: dict[str, Row], name: str) -> None:
    assert (rows[name]["status"], cause(rows[name])) == ("failed", "truncated_no_index")


def test_cut_in_the_middle_keeps_the_first_half(rows: dict[str, Row]) -> None:
    row = rows["half.mp4"]
    assert row["status"] == "degraded"
    assert "truncated" in row["reason"].split(";")
    assert row["details"]["decoded_fraction"] == pytest.approx(0.5, abs=0.08)
    assert 0 < row["details"]["frames_decoded"] <= 18  # the container says 32
    assert row["duration_s"] == pytest.approx(4.0, abs=0.1)
    assert row["voice_present"]


@pytest.mark.parametrize("workers", [0, 1])
def test_of_a_clip_cut_too_short_nothing_is_scored_where_that_is_asked_for(tmp_path: Path, workers: int) -> None:
    folder = scoring.with_neighbours(tmp_path / "media")
    noise = np.random.default_rng(0).integers(0, 256, (32, 96, 128, 3), np.uint8)
    bad.cut(bad.talking(folder / "half.mp4", noise, fps=8, options={"g": "1"}), 0.5)
    for least, status in ((0.3, "degraded"), (0.8, "failed")):
        row = scoring.scored(folder, min_decoded=least, workers=workers)["half.mp4"]
        assert row["status"] == status
        assert "truncated" in row["reason"].split(";")
        assert row["details"].get("too_little_decoded", False) is (status == "failed")


def test_flipped_bits_cost_packets_and_are_counted(rows: dict[str, Row], folder: Path) -> None:
    row = rows["flips.mp4"]
    assert row["status"] == "degraded"
    assert "corrupt_packets" in row["reason"].split(";")
    frames, errors = decoded_by_hand(folder / "flips.mp4")
    assert row["details"]["frames_decoded"] == frames
    assert row["details"]["packet_errors"] == errors > 5


def decoded_by_hand(path: Path) -> tuple[int, int]:
    """Frames that the decoder gives, and packets of either stream that it refuses."""
    frames = errors = 0
    with av.open(str(path)) as container:
        for packet in container.demux():
            try:
                frames += sum(isinstance(frame, av.VideoFrame) for frame in packet.decode())
            except av.FFmpegError:
                errors += 1
    return frames, errors


def test_damage_that_the_decoder_hides_is_told(tmp_path: Path) -> None:
    """MPEG-2 fills a damaged part of a picture with the picture before, and refuses no packet."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 96, 128, 3), np.uint8)
    whole = bad.recorded(tmp_path / "a.ts", noise, codec="mpeg2video", pix_fmt="yuv420p", fps=25).read_bytes()
    scene = {"scene": FrameSpec(frames=10, height_px=48, width_px=64, crop="full")}
    hidden = 0
    for seed in range(20):
        data, random = bytearray(whole), np.random.default_rng(seed)
        for at in random.integers(len(data) // 4, len(data), 3):
            data[at] ^= int(random.integers(1, 256))
        (tmp_path / "a.ts").write_bytes(data)
        with av.open(str(tmp_path / "a.ts")) as container:
            frames = list(container.decode(video=0))
        if any(frame.is_corrupt for frame in frames):
            hidden += 1
            loaded = load(Clip(id="a", video=tmp_path / "a.ts", end_s=0.4), scene, Windowing())
            assert loaded.reasons == ("corrupt_packets",)
            assert loaded.details["packet_errors"] >= 1
            assert loaded.windows[0].streams["scene"].mask.all()
    assert hidden >= 3


def test_the_same_file_gives_the_same_row_again(rows: dict[str, Row], folder: Path) -> None:
    again = scoring.scored(folder, workers=1, batch=3)
    assert again == rows


def test_a_damaged_index_is_a_row_whatever_it_makes_of_the_reader(rows: dict[str, Row]) -> None:
    """The statuses are told by the reasons; four flips leave some files readable."""
    found = [rows[f"index_{seed:02}.mp4"] for seed in INDEX_SEEDS]
    assert all(row["reason"] for row in found)
    assert "decoder_crash" not in {reason for row in found for reason in row["reason"].split(";")}
    assert {row["status"] for row in found} == {"degraded", "failed"}


def test_an_index_that_names_no_codec_raises_outside_ffmpegs_errors(rows: dict[str, Row], folder: Path) -> None:
    with av.open(str(folder / "unnamed_codec.mp4")) as container, pytest.raises(AttributeError):
        assert container.streams.video[0].width
    row = rows["unnamed_codec.mp4"]
    assert (row["status"], cause(row)) == ("failed", "codec_unsupported")


# ---------------------------------------------------------------------------------------------------- disguises

DISGUISES = {
    "concat.mp4": "ffconcat version 1.0\nfile canary.bin\n",
    "absolute.mp4": "ffconcat version 1.0\nfile '{folder}/canary.bin'\n",
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder}/canary.bin\n#EXT-X-ENDLIST\n",
    "far_list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/x.ts\n#EXT-X-ENDLIST\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash.mp4": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    "<BaseURL>http://127.0.0.1:{port}/</BaseURL></Period></MPD>\n",
    "smooth.mp4": "<SmoothStreamingMedia><StreamIndex Url='http://127.0.0.1:{port}/'/></SmoothStreamingMedia>\n",
    "radio.mp3": "[playlist]\nFile1=http://127.0.0.1:{port}/x.mp3\n",
}
ADDRESSES = (
    "concat:canary.bin|canary.bin", "subfile,,start,0,end,0,,:canary.bin", "http://127.0.0.1:{port}/x.mp4",
    "data:video/mp4;base64,AAAA", "file:canary.bin", "tcp://127.0.0.1:{port}", "crypto:canary.bin", "pipe:0",
)  # fmt: skip


class Canary:
    """A playable file and a port, neither of which may be touched."""

    def __init__(self, path: Path) -> None:
        self.path = bad.talking(path.with_suffix(".mp4")).rename(path)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Fails where the file was opened or the port called meanwhile."""
        libc = ctypes.CDLL(None, use_errno=True)
        watch = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(watch, os.fsencode(self.path), 0x20 | 0x1) > 0  # IN_OPEN, IN_ACCESS
        yield
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        with pytest.raises(BlockingIOError):
            self.listener.accept()[0].close()
        os.close(watch)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    (tmp_path / "media").mkdir()
    found = Canary(tmp_path / "media" / "canary.bin")
    yield found
    found.listener.close()


def test_the_canary_sings(canary: Canary) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), canary.unheard():
        canary.path.read_bytes()
    with socket.create_connection(("127.0.0.1", canary.port)), pytest.raises(pytest.fail.Exception), canary.unheard():
        pass


def test_scripts_in_disguise_open_nothing(tmp_path: Path, canary: Canary) -> None:
    folder = scoring.with_neighbours(tmp_path / "media")
    for name, text in DISGUISES.items():
        (folder / name).write_text(text.format(folder=folder, port=canary.port))
    with canary.unheard():
        rows = scoring.scored(folder)
    assert {name: (rows[name]["status"], cause(rows[name])) for name in DISGUISES} == dict.fromkeys(
        DISGUISES, ("failed", "format_not_allowed")
    )


def test_an_avi_with_a_play_list_for_subtitles_opens_nothing(tmp_path: Path, canary: Canary) -> None:
    """The trick of 2017: subtitles in an AVI (GAB2) that are read as a play list of other files."""
    folder = scoring.with_neighbours(tmp_path / "media")
    list_ = f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\n{canary.path}\n#EXT-X-ENDLIST\n".encode()
    path = bad.recorded(folder / "gab2.avi", [bad.BLACK] * 4, codec="mpeg4", pix_fmt="yuv420p")
    data = path.read_bytes()
    gab2 = b"GAB2\x00\x02\x00\x00\x00\x00\x00\x00\x00\x04\x00" + struct.pack("<I", len(list_)) + list_
    gab2 += bytes(len(gab2) % 2)
    at = data.index(b"movi") + 4
    header, size = data.rindex(b"LIST", 0, at), len(gab2) + 8
    grown = struct.pack("<I", int.from_bytes(data[header + 4 : header + 8], "little") + size)
    chunk = b"01tx" + struct.pack("<I", len(gab2)) + gab2
    path.write_bytes(data[: header + 4] + grown + data[header + 8 : at] + chunk + data[at:])
    with canary.unheard():
        row = scoring.scored(folder)["gab2.avi"]
    assert row["status"] == "failed"


def test_addresses_in_a_manifest_are_no_files(tmp_path: Path, canary: Canary) -> None:
    folder = scoring.with_neighbours(tmp_path / "media")
    addresses = [address.format(port=canary.port) for address in ADDRESSES]
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "video"])
        writer.writerows([f"c{n}", address] for n, address in enumerate([*addresses, "a_good.mp4"]))
    with canary.unheard():
        outcome = predict.run(
            [], tmp_path / "out", manifest=folder / "clips.csv", bundle=write_tiny_bundle(tmp_path / "b")
        )
    *refused, good = outcome.records
    assert {cause(row) for row in refused} == {"format_not_allowed"}
    assert {row["status"] for row in refused} == {"failed"}
    assert good["face_present"]
