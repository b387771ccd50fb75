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
    rotation_deg: int = 0,
    form: str | None = None,
) -> Path:
    """A file of pictures alone by any encoder; `stamps`: number of a packet -> its presentation time in frames."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        packets = []
        for image in images:
            packets += stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt))
        for number, packet in enumerate(packets + stream.encode()):
            if stamps is not None:
                ticks = round(1 / (fps * packet.time_base))
                packet.dts, packet.pts = number * ticks, stamps(number) * ticks
            container.mux(packet)
    return path


def hours(path: Path, hours_: int = 10) -> Path:
    """One small picture every second, for hours; encoded once."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(clock.picture(5, 64, 64), "rgb24").reformat(format="yuvj420p")
        (packet,) = [*stream.encode(frame), *stream.encode()]
        content = bytes(packet)
        for second in range(hours_ * 3600):
            copy = av.Packet(content)
            copy.stream, copy.pts, copy.dts, copy.time_base = stream, second, second, Fraction(1)
            container.mux(copy)
    return path


def huge_png(path: Path, side_px: int = 16000) -> Path:
    """A QuickTime file of a megabyte whose one picture takes three bytes for each of its `side_px` squared pixels."""
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        packet = av.Packet(_png(side_px))
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1)
        container.mux(packet)
    return _resized(path, b"png ", 64, 64, side_px)


def huge_jpeg(path: Path, width_px: int = 16384, height_px: int = 8192) -> Path:
    """A QuickTime file whose one JPEG picture says, as the container does, that it is that large."""
    recorded(path, [np.zeros((64, 64, 3), np.uint8)], codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    small = bytes.fromhex("ffc0 0011 08 0040 0040")
    assert data.count(small) == 1
    path.write_bytes(data.replace(small, small[:5] + struct.pack(">HH", height_px, width_px)))
    return _resized(path, b"jpeg", 64, 64, width_px, height_px)


def huge_h264(path: Path, width_px: int = 16384, height_px: int = 8192) -> Path:
    """One black H.264 picture that really is that large; FFmpeg decodes such a one in order to describe the file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=1, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        frame = av.VideoFrame(width_px, height_px, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def claims_size(path: Path, side_px: int = 100_000) -> Path:
    """An .avi whose header alone says how large its pictures are, and says that."""
    recorded(path, [np.zeros((64, 64, 3), np.uint8)] * 5, codec="ffv1", pix_fmt="yuv420p")
    data = path.read_bytes()
    at = data.index(b"strf") + 12
    assert data[at : at + 8] == struct.pack("<ii", 64, 64)
    path.write_bytes(data[:at] + struct.pack("<ii", side_px, side_px) + data[at + 8 :])
    return path


def _resized(path: Path, codec: bytes, width: int, height: int, new_width: int, new_height: int | None = None) -> Path:
    """Change the size in the sample description of an .mp4 or .mov."""
    data = path.read_bytes()
    at = data.index(codec, data.index(b"stsd")) + 28
    assert data[at : at + 4] == struct.pack(">HH", width, height)
    path.write_bytes(data[:at] + struct.pack(">HH", new_width, new_height or new_width) + data[at + 4 :])
    return path


def _png(side_px: int) -> bytes:
    """A black picture; a megabyte of zeros is squeezed once and repeated."""

    def block(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def squeezed(zeros: int, mode: int) -> bytes:
        squeezer = zlib.compressobj(9, wbits=-15)
        return squeezer.compress(bytes(zeros)) + squeezer.flush(mode)

    count = side_px * (1 + 3 * side_px)
    whole, rest = divmod(count, 1 << 20)
    content = b"\x78\xda" + squeezed(1 << 20, zlib.Z_FULL_FLUSH) * whole + squeezed(rest, zlib.Z_FINISH)
    content += struct.pack(">I", count % 65521 << 16 | 1)  # the Adler-32 of zeros
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", content) + block(b"IEND", b"")


# ---------------------------------------------------------------------------------------------------- sound


def sounding(path: Path, samples: NDArray[np.float32], rate: int, *, codec: str = "pcm_s16le", layout: str) -> Path:
    """A file of sound alone; samples (channels, S) in [-1, 1]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        container.start_encoding()
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
