"""P1: decoding alone ÷ loading, CPU seconds: what conversion, sound and bookkeeping add to what libav needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import av
import make_clips
from measuring import Found, in_turn, medians, ratio

from mmtraits.media.load import load
from mmtraits.schema import Clip, FrameSpec, WaveSpec, Windowing

SPECS = {
    "scene": FrameSpec(frames=32, height_px=224, width_px=224, crop="full"),
    "voice": WaveSpec(sample_rate=16000),
}


def measure(folder: Path, rounds: int) -> list[Found]:
    """32 frames at 224 and the sound at 16 kHz of four 720p clips of 15 s."""
    found = []
    taken = {}
    for path in make_clips.speaking(folder):
        works = {"decode": partial(decode, path), "load": partial(_load, path)}
        seconds = in_turn(works, rounds)
        found.append(ratio(seconds["decode"], seconds["load"]))
        taken[path.name] = medians(seconds)
    details = {"clips": [make_clips.describe(path) for path in make_clips.speaking(folder)[:1]], "cpu_s": taken}
    mean = sum(found) / len(found)
    return [Found(claim="P1", what="decode only / our loader, 720p 15 s", figure=mean, at_least=0.88, details=details)]


def decode(path: Path) -> int:
    """Every picture decoded on one thread, none converted, no sound: the floor."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.codec_context.thread_type, video.codec_context.thread_count = "NONE", 1
        return sum(len(packet.decode()) for packet in container.demux(video))


def _load(path: Path) -> None:
    loaded = load(Clip(id="a", video=path), SPECS, Windowing())
    (window,) = loaded.windows
    if not window.streams["scene"].mask.all() or len(window.streams["voice"].data) < 14.9 * 16000:
        raise RuntimeError(f"{path}: {loaded.reasons}; expected every frame and 15 s of sound")
