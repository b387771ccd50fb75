"""Media that are wrong in one named way each, or good in an unusual one; written at test time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clock
import numpy as np
from numpy.typing import NDArray

from mmtraits.media.puppet import Look, Pose, Puppet
from mmtraits.media.write import write_video

Image = NDArray[np.uint8]
BLACK = np.zeros((96, 128, 3), np.uint8)


# ---------------------------------------------------------------------------------------------------- pictures


def portrait(person: int = 0, size_px: tuple[int, int] = (256, 192), *, eyes_px: float = 40.0) -> Image:
    """A face that the finder takes for a person's: RGB (H, W, 3); `size_px` is width and height."""
    puppet = Puppet(Look.random(np.random.default_rng(person)), *size_px)
    pose = Pose(
        mouth=0.2, brows=0.2, lids=0.0, x_px=size_px[0] / 2, y_px=size_px[1] * 0.42, eyes_px=eyes_px, tilt_rad=0.0
    )
    return puppet.draw(pose)


def talking(
    path: Path,
    images: Iterable[Image] | None = None,
    *,
    level: float = 0.3,
    fps: float = 4.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Two seconds of a face and a tone, or of other images at `fps`."""
    pictures = list(images) if images is not None else [portrait()] * 8
    time_s = np.arange(round(16000 * len(pictures) / fps)) / 16000
    write_video(
        path, pictures, fps, (level * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32), 16000, options=options
    )
    return path


def recorded(
    path: Path,
    images: Sequence[Image],
    *,
    codec: str,
    pix_fmt: str,
    fps: float = 5,
    options: dict[str, str] | None = None,
    stamps: Callable[[int], int] | None = None,
) -> Path:
    """A file of pictures alone by any encoder; `stamps`: number of a packet -> its presentation time in frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        packets = []
        for image in images:
            packets += stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt))
        for number, packet in enumerate(packets + stream.encode()):
            if stamps is not None:
                ticks = round(1 / (fps * packet.time_base))
                packet.dts, packet.pts = number * ticks, stamps(number) * ticks
            container.mux(packet)
    return path


def huge_png(path: Path, side_px: int = 16000) -> Path:
    """A small file whose one picture needs three bytes for each of its `side_px` squared pixels."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = side_px
        stream.pix_fmt = "rgb24"
        packet = av.Packet(_png(side_px))
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1)
        container.mux(packet)
    return path


def _png(side_px: int) -> bytes:
    def block(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    squeezed = zlib.compressobj(9)
    row = bytes(1 + 3 * side_px)
    content = b"".join([*(squeezed.compress(row) for _ in range(side_px)), squeezed.flush()])
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", content) + block(b"IEND", b"")


def claims_size(path: Path, side_px: int) -> Path:
    """A Matroska file whose header alone says that its pictures are that large."""
    clock.write(path, seconds=1, size=(64, 48), sound_span_s=None)
    data = path.read_bytes()
    for element, size in ((b"\xb0\x81\x40", 64), (b"\xba\x81\x30", 48)):
        at = data.index(element)
        assert data[at + 2] == size
        data = data[:at] + element[:1] + b"\x83" + side_px.to_bytes(3, "big") + data[at + 3 :]
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------------------------------------------- sound


def sounding(path: Path, samples: NDArray[np.float32], rate: int, *, codec: str = "pcm_s16le", layout: str) -> Path:
    """A file of sound alone; samples (channels, S) in [-1, 1]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        if samples.shape[1]:
            block = np.ascontiguousarray(samples.T, np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, "flt", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


def tone(rate: int, channels: int = 1, seconds: float = 2.0, level: float = 0.3) -> NDArray[np.float32]:
    """The same tone in every channel: (channels, S)."""
    wave = level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


# ---------------------------------------------------------------------------------------------------- damage


def flipped(path: Path, flips: int, seed: int, *, part: str = "mdat") -> Path:
    """Flip bytes in one part of an .mp4 whose index is in front: `mdat`, the media, or `moov`, the index."""
    data = bytearray(path.read_bytes())
    first = data.index(part.encode()) + 4
    last = len(data) if part == "mdat" else first - 8 + int.from_bytes(data[first - 8 : first - 4], "big")
    random = np.random.default_rng(seed)
    for at in random.integers(first, last, flips):
        data[at] ^= int(random.integers(1, 256))
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep the first `share` of a file's media."""
    data = path.read_bytes()
    first = data.index(b"mdat")
    path.write_bytes(data[: first + round(share * (len(data) - first))])
    return path


def index_last(path: Path, **options: Any) -> Path:
    """An .mp4 whose index (moov) is at its end, as cameras write it."""
    clock.write(path.with_suffix(".mkv"), sound_span_s=None, **options)
    with av.open(str(path.with_suffix(".mkv"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    path.with_suffix(".mkv").unlink()
    return path


def says_duration(path: Path, ticks: int) -> Path:
    """An .mp4 whose three duration fields all hold `ticks`, which may be nonsense."""
    data = bytearray(path.read_bytes())
    for kind, version_at, field_at in ((b"mvhd", 4, 20), (b"mdhd", 4, 20), (b"tkhd", 4, 24)):
        at = data.index(kind)
        while at >= 0:
            assert data[at + version_at] == 0
            data[at + field_at : at + field_at + 4] = (ticks & 0xFFFFFFFF).to_bytes(4, "big")
            at = data.find(kind, at + 4)
    path.write_bytes(data)
    return path
