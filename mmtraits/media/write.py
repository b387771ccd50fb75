"""Arrays -> mp4 (H.264 and AAC), for synthetic clips and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

_SOUND_BLOCK = 1024  # samples of one AAC frame
_X264 = {"rc-lookahead": "0"}  # with its look-ahead, x264 writes other bytes from run to run
_AAC = {"aac_coder": "fast"}  # a quarter of the time of the default, no worse to hear


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    wave: NDArray[np.float32] | None = None,
    sample_rate: int = 44100,
    *,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write uint8 RGB frames (H, W, 3), H and W even, at `fps`, and a mono wave (S,) in [-1, 1] to an .mp4.

    The index is put in front. `options` go to x264, e.g. {"crf": "10", "g": "250"}. Raises ValueError for other arrays
    and where there is no frame.
    """
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        video = container.add_stream("h264", rate=rate, options=_X264 | dict(options or {}))
        packets: Iterator[Any] = iter(())
        if wave is not None:  # every stream must be there before the first packet
            sound = container.add_stream("aac", rate=sample_rate, layout="mono", options=_AAC)
            packets = _sound_packets(sound, wave, sample_rate)
        heard_s = 0.0
        count = 0
        for count, image in enumerate(frames, 1):
            container.mux(video.encode(_video_frame(image, video, first=count == 1)))
            while heard_s < count / fps and (packet := next(packets, None)) is not None:  # interleaved, as cameras do
                heard_s += _SOUND_BLOCK / sample_rate
                container.mux(packet)
        if not count:
            raise ValueError(f"{path}: no frames; expected at least one")
        container.mux(video.encode())
        for packet in packets:
            container.mux(packet)


def _video_frame(image: NDArray[np.uint8], video: Any, *, first: bool) -> Any:
    height, width = image.shape[:2]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or height % 2 or width % 2:
        raise ValueError(f"frame: {image.dtype} {image.shape}; expected uint8 (H, W, 3) with even H and W")
    if first:
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1
    elif (video.width, video.height) != (width, height):
        raise ValueError(f"frame: {width}x{height}; expected {video.width}x{video.height} as the first one")
    return av.VideoFrame.from_ndarray(image, "rgb24")


def _sound_packets(stream: Any, wave: NDArray[np.float32], sample_rate: int) -> Iterator[Any]:
    for start in range(0, len(wave), _SOUND_BLOCK):
        samples = np.ascontiguousarray(wave[None, start : start + _SOUND_BLOCK], np.float32)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.sample_rate, frame.pts = sample_rate, start
        yield from stream.encode(frame)
    yield from stream.encode()
