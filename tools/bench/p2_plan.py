"""P2: our loader ÷ the better of reading through and seeking to each frame, CPU seconds; pictures alone, at 224."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import make_clips
import numpy as np
from av.video.reformatter import VideoReformatter
from measuring import Found, in_turn, medians, ratio
from numpy.typing import NDArray

from mmtraits.media.load import load
from mmtraits.media.sampling import frame_times
from mmtraits.schema import Clip, FrameSpec, Windowing

COUNTS = (1, 8, 32)
SIDE_PX = 224
HOPELESS = 2.0  # a plan this much slower than another one is not the better one
Frames = list[NDArray[np.uint8]]


def measure(folder: Path, rounds: int) -> list[Found]:
    """Key frames every 1, 30 or 250 frames, 1, 8 or 32 frames wanted, 15 s or 5 min, at 640x360; the worst counts."""
    regrets, details = {}, {}
    for (gop, length_s), path in make_clips.gops(folder).items():
        for count in COUNTS:
            name = f"gop {gop}, {count} of {length_s} s"
            regrets[name], details[name] = _regret(path, count, length_s, rounds)
    worst = max(regrets, key=lambda name: regrets[name])
    figures = {name: {"regret": round(regrets[name], 3), "cpu_s": taken} for name, taken in details.items()}
    what = f"our loader / the better plan; the worst: {worst}"
    return [Found(claim="P2", what=what, figure=regrets[worst], at_most=1.15, details=figures)]


def _regret(path: Path, count: int, length_s: int, rounds: int) -> tuple[float, dict[str, float]]:
    with av.open(str(path)) as container:
        end_s = float(container.streams.video[0].duration * container.streams.video[0].time_base)
    wanted = frame_times(0.0, end_s, count).tolist()
    plans: dict[str, Callable[[], Frames]] = {
        "ours": partial(_ours, path, count, end_s),
        "sequential": partial(_sequential, path, wanted),
        "seeking": partial(_seeking, path, wanted),
    }
    frames = [plan() for plan in plans.values()]
    if not all(np.array_equal(frames[0], other) for other in frames[1:]):
        raise RuntimeError(f"{path}: the plans disagree on the frames")
    taken = in_turn(plans, rounds, drop_above=HOPELESS)
    better = min((name for name in taken if name != "ours"), key=lambda name: medians(taken)[name], default=None)
    if better is None:  # both are hopeless: twice as slow as ours at least
        return 1 / HOPELESS, medians(taken)
    return ratio(taken["ours"], taken[better]), medians(taken)


def _ours(path: Path, count: int, end_s: float) -> Frames:
    spec = FrameSpec(frames=count, height_px=SIDE_PX, width_px=SIDE_PX, crop="full")
    (window,) = load(Clip(id="a", video=path, end_s=end_s), {"scene": spec}, Windowing(length_s=400)).windows
    return list(window.streams["scene"].data)


def _sequential(path: Path, wanted: Sequence[float]) -> Frames:
    """Decode from the beginning until the last wanted frame has passed; convert the wanted ones."""
    frames, scaler = [], VideoReformatter()
    with av.open(str(path)) as container:
        video, held = _single(container), None
        for frame in container.decode(video):
            while len(frames) < len(wanted) and held is not None and frame.time > wanted[len(frames)]:
                frames.append(_converted(scaler, held))
            held = frame
            if len(frames) == len(wanted):
                break
        frames += [_converted(scaler, held)] * (len(wanted) - len(frames))
    return frames


def _seeking(path: Path, wanted: Sequence[float]) -> Frames:
    """For every wanted frame: seek to the key frame before it, decode up to it."""
    frames, scaler = [], VideoReformatter()
    with av.open(str(path)) as container:
        video = _single(container)
        for time_s in wanted:
            container.seek(int(time_s / video.time_base), stream=video)
            held = None
            for frame in container.decode(video):
                if held is not None and frame.time > time_s:
                    break
                held = frame
            frames.append(_converted(scaler, held))
    return frames


def _single(container: Any) -> Any:
    video = container.streams.video[0]
    video.codec_context.thread_type, video.codec_context.thread_count = "NONE", 1
    return video


def _converted(scaler: VideoReformatter, frame: Any) -> NDArray[np.uint8]:
    return np.asarray(scaler.reformat(frame, SIDE_PX, SIDE_PX, "rgb24", threads=1).to_ndarray(), np.uint8)
