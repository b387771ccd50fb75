"""Write the media that the benchmarks read, once; what is there already is kept.

    python tools/bench/make_clips.py FOLDER [--hour]

speaking_1..4.mp4   1280x720, 30 fps, 15 s, H.264 (x264 medium, 2 Mbit/s as from a web camera, a key frame every 250),
                    AAC mono 44.1 kHz; a drawn face that talks before a wall, with sensor noise of 4.5 grey levels
                    (standard deviation), new in every frame; a .txt beside each
gop_1, _30, _250    640x360, 30 fps, 15 s, the same in small at 1 Mbit/s, with exactly such distances of key frames;
                    _long: 5 min of it by stream copy
hour.mp4            60 min of speaking_1 by stream copy, without a transcript (--hour; about 1 GB)
folder_40/          40 clips with transcripts: copies of the four above whose titles differ, so that their bytes do
folder_200/, _256/  gop_250 under so many names, without transcripts
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mmtraits.media.formants import Voice, loudness, speak, syllables
from mmtraits.media.puppet import Look, Pose, Puppet
from mmtraits.media.write import write_video

FPS, SECONDS, SAMPLE_RATE = 30, 15, 44100
PEOPLE, COPIES = 4, 10
GOPS = (1, 30, 250)
NOISE = 4.5
X264 = {"preset": "medium", "sc_threshold": "0", "bf": "3", "rc-lookahead": "40"}
SAID = "I moved here for my first job and I have stayed because I like the people. We worked on it for a year."


def speaking(folder: Path) -> list[Path]:
    """The four 720p clips of 15 s with a face, a voice and a transcript."""
    return [_spoken(folder / f"speaking_{n}.mp4", n, (1280, 720), 250) for n in range(1, PEOPLE + 1)]


def many(folder: Path) -> list[Path]:
    """Forty clips as those, each with bytes of its own."""
    made, inside = [], folder / "folder_40"
    inside.mkdir(parents=True, exist_ok=True)
    for n, source in enumerate(speaking(folder) * COPIES):
        path = inside / f"clip_{n:03d}.mp4"
        if not path.exists():
            repeat(source, path, title=f"copy {n}")
            shutil.copyfile(source.with_suffix(".txt"), path.with_suffix(".txt"))
        made.append(path)
    return made


def gops(folder: Path) -> dict[tuple[int, int], Path]:
    """(key frame distance, seconds) -> a 640x360 clip."""
    found = {}
    for gop in GOPS:
        short = _spoken(folder / f"gop_{gop}.mp4", 1, (640, 360), gop)
        long = folder / f"gop_{gop}_long.mp4"
        found |= {(gop, SECONDS): short, (gop, 20 * SECONDS): long}
        if not long.exists():
            repeat(short, long, 20)
    return found


def small(folder: Path, count: int) -> list[Path]:
    """So many names of one 640x360 clip of 15 s, without transcripts."""
    source, inside = gops(folder)[250, SECONDS], folder / f"folder_{count}"
    inside.mkdir(exist_ok=True)
    made = [inside / f"clip_{n:03d}.mp4" for n in range(count)]
    for path in made:
        if not path.exists():
            path.hardlink_to(source)
    return made


def hour(folder: Path) -> Path:
    """Sixty minutes at 720p."""
    path = folder / "hour.mp4"
    if not path.exists():
        repeat(speaking(folder)[0], path, 240)
    return path


def describe(path: Path) -> dict[str, Any]:
    """What a file is: codec, size, frame rate, bit rate, where its key frames are."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        found = [(float(p.pts * p.time_base), p.is_keyframe, p.size) for p in container.demux(video) if p.size]
        context = video.codec_context
        return {
            "file": path.name,
            "codec": f"{context.name} {context.width}x{context.height}",
            "fps": float(video.average_rate),
            "seconds": round(found[-1][0] + 1 / FPS, 2),
            "video_mbit_per_s": round(8e-6 * sum(size for *_, size in found) / (found[-1][0] + 1 / FPS), 2),
            "key_frames": sum(key for _, key, _ in found),
            "noise_grey_levels": NOISE,
        }


def repeat(source: Path, target: Path, times: int = 1, title: str = "") -> None:
    """Copy the packets of a file `times` times, one after the other, without coding them again."""
    partial = target.with_suffix(".part")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        out.metadata["title"] = title
        copies: dict[int, Any] = {}
        reached: dict[int, int] = {}
        for n in range(times):
            with av.open(str(source)) as given:
                copies = copies or {s.index: out.add_stream_from_template(s) for s in given.streams}
                for packet in given.demux():
                    shift = round(n * SECONDS / packet.time_base)
                    stream = packet.stream.index
                    if packet.dts is None or packet.dts + shift <= reached.get(stream, packet.dts + shift - 1):
                        continue  # the end, or sound of one copy that reaches into the next
                    reached[stream] = packet.dts + shift
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = copies[stream]
                    out.mux(packet)
    partial.rename(target)


def _spoken(path: Path, person: int, size: tuple[int, int], gop: int) -> Path:
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(person)
    spoken = syllables(SECONDS, rng)
    voice = Voice(pitch_hz=100 + 25 * person, level_db=-22, tilt=1.0, tract=0.9)
    wave = speak(voice, spoken, SECONDS, rng, sample_rate=SAMPLE_RATE)
    path.with_suffix(".txt").write_text(SAID, encoding="utf-8")
    partial = path.with_suffix(".part")
    write_video(partial, _frames(spoken, rng, size), FPS, wave, SAMPLE_RATE, options=_coded(gop, size))
    partial.rename(path)
    return path


def _coded(gop: int, size: tuple[int, int]) -> Mapping[str, str]:
    bits_per_s = 2_000_000 if size[1] >= 720 else 1_000_000
    return X264 | {"b": str(bits_per_s), "g": str(gop), "keyint_min": str(gop)}


def _frames(
    spoken: NDArray[np.float64], rng: np.random.Generator, size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """A head that drifts and speaks, under the noise of a sensor: one of sixteen fields, shifted by a random amount."""
    puppet = Puppet(Look.random(rng), *size)
    fields = [rng.normal(0, NOISE, (size[1], size[0], 1)).round().astype(np.int16) for _ in range(16)]
    times = np.arange(SECONDS * FPS) / FPS
    drift = np.sin(2 * np.pi * (rng.uniform(0.1, 0.4, (3, 1)) * times + rng.random((3, 1))))
    mouth = 0.5 + 0.5 * loudness(spoken, times)
    for i in range(len(times)):
        pose = Pose(
            mouth=float(mouth[i]), brows=0.3, lids=1.0 if i % 90 < 3 else 0.05, eyes_px=0.13 * size[1], grain=i,
            x_px=size[0] * (0.5 + 0.05 * float(drift[0, i])), y_px=size[1] * (0.42 + 0.03 * float(drift[1, i])),
            tilt_rad=0.08 * float(drift[2, i]),
        )  # fmt: skip
        noise = np.roll(fields[rng.integers(16)], rng.integers(size[0]), axis=1)
        yield np.clip(puppet.draw(pose) + noise, 0, 255).astype(np.uint8)


def main() -> None:
    """Write everything and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hour", action="store_true", help="the 60-minute clip too")
    options = parser.parse_args()
    made = [*speaking(options.folder), *gops(options.folder).values(), *many(options.folder)[:1]]
    if options.hour:
        made.append(hour(options.folder))
    for path in made:
        print(json.dumps(describe(path)))


if __name__ == "__main__":
    main()
