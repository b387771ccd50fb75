"""Damaged media through the loader in worker processes: `fuzz.py [--mutants 2000] [--seconds S] [--keep DIR]`.

Five small files of other containers and codecs are written; each mutant is one of them with bytes flipped, a piece cut
out or off, or pieces swapped. A clip that raises what the loader does not name, kills its worker or outlives its
deadline is a finding: it is counted, kept under --keep, and the exit code is 1. Every mutant is told by --seed and its
number, so a finding can be made again.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mmtraits.media.load import Ending
from mmtraits.schema import Clip, FrameSpec, WaveSpec, Windowing
from mmtraits.workers import Job, decode

_SCENE = FrameSpec(frames=2, height_px=48, width_px=64, crop="full")
_VOICE = WaveSpec(sample_rate=16000)
SPECS = (
    {"scene": _SCENE, "voice": _VOICE},
    {"scene": _SCENE},
    {"voice": _VOICE},
)  # in turn: pictures alone are jumped to
SEEDS = {  # name -> (video codec, pixel format, audio codec, rate)
    "h264_aac.mp4": ("h264", "yuv420p", "aac", 44100),
    "vp8_opus.webm": ("libvpx", "yuv420p", "libopus", 48000),
    "mpeg4_mp3.avi": ("mpeg4", "yuv420p", "mp3", 44100),
    "mpeg2_mp2.ts": ("mpeg2video", "yuv420p", "mp2", 44100),
    "ffv1_flac.mkv": ("ffv1", "yuv420p", "flac", 16000),
}
FINDINGS = {"decoder_crash": "uncaught or crashed", "timeout": "hung"}
_FPS, _SECONDS = 25, 1  # the lowest rate of MPEG-2


@dataclass
class Found:
    """What became of the mutants. reasons: how many clips have each; lost: workers that died."""

    mutants: int = 0
    seconds: float = 0.0
    decoded: int = 0  # clips of which a window held something
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def told(self) -> str:
        """Every count, one per line."""
        counts = [f"{self.reasons[reason]:6} {words}" for reason, words in FINDINGS.items()]
        rest = sorted((reason, n) for reason, n in self.reasons.items() if reason not in FINDINGS)
        lines = [f"{self.mutants:6} mutants in {self.seconds:.0f} s, of {self.decoded} something was decoded"]
        lines += [*counts, f"{self.lost:6} workers lost", *(f"{n:6} {reason}" for reason, n in rest), *self.findings]
        return "\n".join(lines)


def fuzz(
    mutants: int, *, workers: int = 2, seconds: float = float("inf"), seed: int = 0, keep: Path | None = None
) -> Found:
    """Decode that many mutants, or as many as begin within `seconds`; nothing is left on disk but what is kept."""
    found, deaths = Found(), _Deaths()
    logger = logging.getLogger("mmtraits.workers")
    level, start = logger.level, time.monotonic()
    logger.addHandler(deaths)
    logger.setLevel(logging.DEBUG)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = _mutants(Path(folder), mutants, seed, start + seconds)
            _decode(paths, workers, found, keep)
    finally:
        logger.removeHandler(deaths)
        logger.setLevel(level)
    found.lost, found.seconds = deaths.count, time.monotonic() - start
    return found


def _decode(paths: Iterator[Path], workers: int, found: Found, keep: Path | None) -> None:
    begun: dict[int, Path] = {}

    def jobs() -> Iterator[Job]:
        for number, path in enumerate(paths):
            begun[number] = path
            specs = SPECS[number % len(SPECS)]
            yield Job(Clip(id=path.name, video=path), specs, Windowing(length_s=1.0, hop_s=1.0))

    something = False
    for number, item in decode(jobs(), workers):
        if not isinstance(item, Ending):
            something = something or any(raw.mask.any() for raw in item.streams.values())
            continue
        path = begun.pop(number)
        found.mutants += 1
        found.decoded += something
        something = False
        found.reasons.update(item.reasons or ("none",))
        if set(item.reasons) & set(FINDINGS):
            found.findings.append(f"{path.name}: {item.reasons} {item.details.get('error', '')}")
            if keep is not None:
                shutil.copy(path, keep)
        path.unlink()


class _Deaths(logging.Handler):
    """Counts the workers that ended without being told to."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one, where it is one."""
        self.count += "its worker ended" in record.getMessage()


# ---------------------------------------------------------------------------------------------------- mutants


def _mutants(folder: Path, count: int, seed: int, until: float) -> Iterator[Path]:
    """Write one file after the other, while there is time."""
    whole = {name: _written(folder / name, *codecs).read_bytes() for name, codecs in SEEDS.items()}
    names = list(whole)
    for number in range(count):
        if time.monotonic() > until:
            return
        name = names[number % len(names)]
        random = np.random.default_rng((seed, number))
        path = folder / f"{number:06}_{name}"
        path.write_bytes(mutated(whole[name], random))
        yield path


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One to three of: bytes flipped (anywhere or in the header), a piece cut out, the end cut off, pieces swapped."""
    for _ in range(int(random.integers(1, 4))):
        data = _CHANGES[int(random.integers(len(_CHANGES)))](data, random)
    return data


def _flipped(data: bytes, random: np.random.Generator) -> bytes:
    found = np.frombuffer(data, np.uint8).copy()
    within = len(found) if random.random() < 0.5 else min(len(found), 2000)
    if within:
        at = random.integers(0, within, int(2 ** random.uniform(0, 9)))
        found[at] ^= random.integers(1, 256, len(at)).astype(np.uint8)
    return found.tobytes()


def _cut_off(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(0, len(data) + 1))]


def _cut_out(data: bytes, random: np.random.Generator) -> bytes:
    first, last = _piece(data, random)
    return data[:first] + data[last:]


def _swapped(data: bytes, random: np.random.Generator) -> bytes:
    (a, b), (c, d) = sorted([_piece(data, random), _piece(data, random)])
    if b > c:
        return data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _doubled(data: bytes, random: np.random.Generator) -> bytes:
    first, last = _piece(data, random)
    at = int(random.integers(0, len(data) + 1))
    return data[:at] + data[first:last] + data[at:]


def _piece(data: bytes, random: np.random.Generator) -> tuple[int, int]:
    first = int(random.integers(0, len(data) + 1))
    return first, min(len(data), first + int(2 ** random.uniform(0, 12)))


_CHANGES = (_flipped, _flipped, _cut_off, _cut_out, _swapped, _doubled)


# ---------------------------------------------------------------------------------------------------- seeds


def _written(path: Path, video_codec: str, pix_fmt: str, audio_codec: str, rate: int) -> Path:
    """A second of moving blocks and a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=_FPS, options={"g": "5"})
        video.width, video.height, video.pix_fmt = 64, 48, pix_fmt
        video.codec_context.thread_count = 1
        sound = container.add_stream(audio_codec, rate=rate, layout="mono")
        packets = [*_pictures(video), *_tone(sound, rate)]
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def _pictures(stream: Any) -> list[Any]:
    packets: list[Any] = []
    for number in range(_FPS * _SECONDS):
        image: NDArray[np.uint8] = np.full((48, 64, 3), 60, np.uint8)
        image[:, 8 * (number % 8) : 8 * (number % 8) + 8] = 200
        packets += stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=stream.pix_fmt))
    return packets + stream.encode()


def _tone(stream: Any, rate: int) -> list[Any]:
    wave = (0.3 * np.sin(2 * np.pi * 220 * np.arange(rate * _SECONDS) / rate)).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(wave, "flt", "mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate, frame_size=size)
    packets: list[Any] = []
    for converted in [*resampler.resample(frame), *resampler.resample(None)]:
        packets += stream.encode(converted)
    return packets + stream.encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after that long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    given = parser.parse_args(arguments)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    found = fuzz(given.mutants, workers=given.workers, seconds=given.seconds, seed=given.seed, keep=given.keep)
    print(found.told())
    return 1 if found.findings or found.lost else 0


if __name__ == "__main__":
    sys.exit(main())
