"""The clip that tells the time: every frame shows its own number, every second of sound has its own pitch.

So a frame taken one too early, a wrong rate, a lost start or a drift of sound against picture is read off what was
decoded, without any stored array.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS = 12  # shown as blocks, 4 across and 3 down; the blocks of a frame's number are white
_TICKS = 90_000  # per second: the time base of all clips
_LOWEST_HZ, _STEP_HZ, _PITCHES = 300.0, 100.0, 20


def picture(number: int, width: int = 128, height: int = 96) -> NDArray[np.uint8]:
    """Frame number `number`: RGB (H, W, 3), a white block per set bit; the first bits lie in the upper left."""
    bits = (number >> np.arange(BITS)) & 1
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    grey = bits.reshape(3, 4)[rows[:, None], columns[None, :]] * 215 + 20
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def number(image: NDArray[np.uint8]) -> int:
    """The number that a decoded picture of any size shows."""
    height, width = image.shape[:2]
    y, x = (2 * np.arange(3) + 1) * height // 6, (2 * np.arange(4) + 1) * width // 8
    bits = image[y[:, None], x[None, :]].mean(axis=-1).reshape(-1) > 128
    return int((bits << np.arange(BITS)).sum())


def wave(start_s: float, end_s: float, rate: int) -> NDArray[np.float32]:
    """Sound of a stretch of the clip's time: second k is a tone of 300 + 100 (k mod 20) Hz, a quarter of full scale."""
    time_s = np.arange(round(start_s * rate), round(end_s * rate)) / rate
    pitch_hz = _LOWEST_HZ + _STEP_HZ * (np.floor(time_s + 1e-9) % _PITCHES)
    return (0.25 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)


def second(samples: NDArray[np.floating[Any]], rate: int) -> int:
    """Which second (mod 20) a stretch of at least 50 ms within one second was taken from."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=rate))  # 1 Hz apart
    return round((float(spectrum.argmax()) - _LOWEST_HZ) / _STEP_HZ)


def write(
    path: Path,
    *,
    seconds: float = 4.0,
    fps: float = 25.0,
    times_s: Sequence[float] | None = None,
    size: tuple[int, int] = (128, 96),
    sound_span_s: tuple[float, float] | None = (0.0, 0.0),
    rate: int = 44100,
    layout: str = "mono",
    start_s: float = 0.0,
    rotation_deg: int = 0,
    aspect: Fraction | None = None,
    codecs: tuple[str, str] = ("h264", "aac"),
    gop: int = 250,
) -> Path:
    """Write a clip; `times_s` instead of `fps` gives frames of variable rate, `start_s` shifts all time stamps.

    sound_span_s: from when to when there is sound ((0, 0): all along, None: no audio stream). Channels hold the tone
    and its negative half in turn: the mean of an even number of them is a quarter of the tone. The format follows the
    suffix; without times it holds sound alone.
    """
    times = np.arange(round(seconds * fps)) / fps if times_s is None else np.asarray(times_s)
    options = {"movflags": "+faststart"} if path.suffix in {".mp4", ".mov"} else {}
    with av.open(str(path), "w", options=options) as container:
        video = _video_stream(container, size, fps, rotation_deg, aspect, codecs[0], gop) if len(times) else None
        sound = None if sound_span_s is None else container.add_stream(codecs[1], rate=rate, layout=layout)
        packets: list[Any] = []
        if video is not None:
            packets += _video_packets(video, times + start_s, size)
        if sound is not None and sound_span_s is not None:
            span = sound_span_s if any(sound_span_s) else (0.0, seconds)
            packets += _sound_packets(sound, span, rate, start_s)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def _video_stream(
    container: Any,
    size: tuple[int, int],
    fps: float,
    rotation_deg: int,
    aspect: Fraction | None,
    codec: str,
    gop: int,
) -> Any:
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options={"g": str(gop)})
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    stream.codec_context.thread_count = 1
    if aspect is not None:
        stream.codec_context.sample_aspect_ratio = aspect
    if rotation_deg:
        stream.set_display_rotation(rotation_deg)
    return stream


def _video_packets(stream: Any, times_s: NDArray[np.float64], size: tuple[int, int]) -> list[Any]:
    packets = []
    for number_, time_s in enumerate(times_s):
        frame = av.VideoFrame.from_ndarray(picture(number_, *size), "rgb24")
        frame.pts, frame.time_base = round(time_s * _TICKS), Fraction(1, _TICKS)
        packets += stream.encode(frame)
    return packets + stream.encode()


def _sound_packets(stream: Any, span_s: tuple[float, float], rate: int, start_s: float) -> list[Any]:
    tone = wave(*span_s, rate)
    channels = stream.layout.nb_channels
    gains = np.ones(1) if channels == 1 else np.where(np.arange(channels) % 2, -0.5, 1.0)
    samples = (gains[:, None] * tone).astype(np.float32)
    resampler = av.AudioResampler(format=stream.format.name, layout=stream.layout.name, rate=rate)
    size = stream.codec_context.frame_size or 1024
    packets = []
    for begin in range(0, samples.shape[1], size):
        block = np.ascontiguousarray(samples[:, begin : begin + size].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, "flt", stream.layout.name)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round((span_s[0] + start_s) * rate)
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode()
