"""P14: what finding, following and cutting the face costs beside decoding; and that faces are found in real clips."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import make_clips
from measuring import Found, in_turn, medians, ratio
from p1_decode import decode

from mmtraits.media.faces import FaceFinder, Image, align, track
from mmtraits.media.load import load
from mmtraits.media.probe import opened
from mmtraits.media.sampling import frame_times
from mmtraits.media.video import Health, Picture, fit, read
from mmtraits.schema import Clip, FrameSpec, Windowing

REAL = Path(__file__).parents[3] / "shared" / "clips" / "speaking"
SPEC = FrameSpec()


def measure(folder: Path, rounds: int) -> list[Found]:
    """The default stream (32 crops of 64 px, 8 detections) on four 720p clips of 15 s, CPU seconds."""
    finder, found, taken = FaceFinder(), [], {}
    for path in make_clips.speaking(folder):
        frames = _frames(path)
        works = {"decode": partial(decode, path), "faces": partial(_faces, finder, frames)}
        seconds = in_turn(works, rounds)
        found.append(ratio(seconds["faces"], seconds["decode"]))
        taken[path.name] = medians(seconds)
    mean = sum(found) / len(found)
    share = Found(claim="P14", what="face stage / decode only", figure=mean, at_most=0.25, details={"cpu_s": taken})
    return [share, *_real_clips()]


def _faces(finder: FaceFinder, frames: list[Image]) -> None:
    times = frame_times(0.0, make_clips.SECONDS, len(frames))
    seen = track(finder, frames, times.tolist()).landmarks
    crops = [align(frame, points) for frame, points in zip(frames, seen, strict=True) if points is not None]
    if len(crops) < 0.9 * len(frames):
        raise RuntimeError(f"{len(crops)} faces in {len(frames)} frames; expected one in nearly all")


def _frames(path: Path) -> list[Image]:
    """As the loader hands them over: at a long side of 640 px."""
    wanted = frame_times(0.0, make_clips.SECONDS, SPEC.frames).tolist()
    with opened(path) as media:
        events = list(read(media, wanted=wanted, sizes=[fit(640)], health=Health()))
    return [event.images[0] for event in events if isinstance(event, Picture)]


def _real_clips() -> list[Found]:
    paths = sorted(REAL.glob("*.mpg"))
    if not paths:
        return []
    shares = {}
    for path in paths:
        (window,) = load(Clip(id="a", video=path), {"face": SPEC}, Windowing()).windows
        shares[path.name] = float(window.streams["face"].mask.mean()) if len(window.streams["face"].mask) else 0.0
    seen = sum(share > 0 for share in shares.values())
    what = f"clips of real speakers with a face, of {len(paths)}"
    return [Found(claim="P14", what=what, figure=seen, at_least=len(paths), details={"share_of_frames": shares})]
