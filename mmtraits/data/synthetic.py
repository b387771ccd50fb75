"""Clips whose traits are known by construction: a drawn face that talks, a synthetic voice and a transcript.

Each trait is planted where only some streams can see it, so that a test can demand that the right stream carries it:

    planted_face             how widely the mouth opens in speech and how far the brows rise
    planted_voice            pitch and level of the voice
    planted_words            share of pleasant among the adjectives
    planted_voice_and_words  half in the brightness of the voice, half in the share of animals among the nouns
    planted_nowhere          in nothing

Labels are uniform on [0, 1] and independent of each other, of the person and of everything else in the clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest
from mmtraits.media.formants import Voice, loudness, speak, syllables
from mmtraits.media.puppet import Look, Pose, Puppet
from mmtraits.media.transcript import Utterance, render
from mmtraits.media.write import write_video
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="synthetic",
    construct="apparent",
    judged_by="planted by the generator",
    traits=tuple(
        Trait(name=f"planted_{where}", low=0.0, high=1.0)
        for where in ("face", "voice", "words", "voice_and_words", "nowhere")
    ),
)
STREAMS_OF_TRAIT = {  # the modality of the streams that carry each trait
    "planted_face": ("face",),
    "planted_voice": ("voice",),
    "planted_words": ("text",),
    "planted_voice_and_words": ("voice", "text"),
    "planted_nowhere": (),
}

SAMPLE_RATE = 22050
_X264 = {"preset": "veryfast"}
_CLIPS_PER_PERSON = 6
_PLEASANT = ["happy", "lovely", "sunny", "kind", "cheerful", "bright", "gentle", "friendly", "joyful", "delightful"]
_UNPLEASANT = ["awful", "gloomy", "nasty", "bitter", "dreadful", "angry", "miserable", "rotten", "hateful", "horrible"]
_ANIMALS = ["dog", "horse", "cat", "rabbit", "sheep", "cow", "bird", "duck", "goat", "pig"]
_MACHINES = ["engine", "computer", "printer", "truck", "machine", "robot", "tractor", "motor", "phone", "laptop"]
_SENTENCES = (
    "I moved here for my first job and I have stayed because I like the people.",
    "Well, I had never spoken in front of a camera before, so this is new to me.",
    "We worked on it for a year, and in the end it was the small things that mattered.",
    "I like to plan my week on Sunday and then everything turns out differently anyway.",
    "To be honest I was nervous, but my friends told me to just be myself.",
    "What I enjoy most is to explain something difficult until it looks easy.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cues:
    """What is planted in one clip, each in 0..1: by stream, the ones of the two-stream trait apart."""

    face: float
    voice: float
    words: float
    voice_half: float
    words_half: float
    nowhere: float

    def labels(self) -> tuple[float, ...]:
        """The K labels, in the order of `SCHEMA`.

        The mean of two independent uniform halves has a triangular distribution; its own distribution function makes
        it uniform again.
        """
        mean = (self.voice_half + self.words_half) / 2
        both = 2 * mean**2 if mean < 0.5 else 1 - 2 * (1 - mean) ** 2
        return self.face, self.voice, self.words, both, self.nowhere


def write_corpus(
    folder: Path | str,
    clips: int = 300,
    seed: int = 0,
    seconds: float = 4.0,
    *,
    fps: int = 8,
    size_px: tuple[int, int] = (320, 240),
    workers: int | None = None,
) -> Path:
    """Write a corpus and return its clips.csv; schema.yaml lies beside it, media under media/.

    Six clips a person, splits (70, 10 and 20 %) that never divide a person, `attr_group` a or b for audits. The same
    arguments give the same clips whatever `workers` (processes; None: one per core; 1: this process, which a script
    without an `if __name__ == "__main__"` needs).
    """
    folder = Path(folder)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    planted = _planted(clips, seed)
    people = [number // _CLIPS_PER_PERSON for number in range(clips)]
    names = [f"p{person:03d}_{number % _CLIPS_PER_PERSON}" for number, person in enumerate(people)]
    tasks = [
        _Task(folder / "media" / name, cues, (seed, person), (seed, person, number), seconds, fps, size_px)
        for number, (name, cues, person) in enumerate(zip(names, planted, people, strict=True))
    ]
    _run(tasks, min(workers or os.cpu_count() or 1, len(tasks)))
    split_of, group_of = _person_columns(people, seed)
    rows = tuple(
        Clip(
            id=name,
            video=folder / "media" / f"{name}.mp4",
            transcript=folder / "media" / f"{name}.vtt",
            person=f"p{person:03d}",
            attributes={"group": group_of[person]},
        )
        for name, person in zip(names, people, strict=True)
    )
    labels = np.round([cues.labels() for cues in planted], 6)
    splits = tuple(split_of[person] for person in people)
    path = folder / "clips.csv"
    manifest.write(manifest.Manifest(path=path, schema=SCHEMA, clips=rows, labels=labels, splits=splits))
    return path


def demo_clips(folder: Path | str, count: int = 6, *, seconds: float = 6.0, seed: int = 0) -> list[Path]:
    """Write a handful of clips without labels that show what real folders hold, and return the video files.

    With `count` >= 6: one each with a .txt, .json and .srt beside it, one without a transcript, one without sound, one
    without a face.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("plain_text", "timed_text", "no_transcript", "no_sound", "no_face", "subtitles")
    suffixes = {"plain_text": ".txt", "timed_text": ".json", "no_sound": ".txt", "no_face": ".vtt", "subtitles": ".srt"}
    written = []
    for number, cues in enumerate(_planted(count, seed)):
        kind, rng = kinds[number % len(kinds)], np.random.default_rng((seed, 1, number))
        path = folder / f"{number + 1:02d}_{kind}.mp4"
        task = _Task(path.with_suffix(""), cues, (seed, 2, number), (seed, 1, number), seconds, 12, (320, 240))
        _write_media(task, face=kind != "no_face", sound=kind != "no_sound")
        if kind in suffixes:
            sentences = [_SENTENCES[i] for i in rng.choice(len(_SENTENCES), 2, replace=False)]
            _write_transcript(path.with_suffix(suffixes[kind]), sentences, seconds)
        written.append(path)
    return written


# ---------------------------------------------------------------------------------------------------- what is planted


def _planted(clips: int, seed: int) -> list[Cues]:
    """Cues of every clip: each uniform on a grid without repeats, in an order of its own."""
    rng = np.random.default_rng((seed, 0))
    grid = (np.arange(clips) + 0.5) / clips
    columns = {name: rng.permutation(grid).tolist() for name in Cues.__dataclass_fields__}
    return [Cues(**{name: column[i] for name, column in columns.items()}) for i in range(clips)]


def _person_columns(people: list[int], seed: int) -> tuple[dict[int, str], dict[int, str]]:
    """Split and group of each person."""
    order = np.random.default_rng((seed, 3)).permutation(sorted(set(people))).tolist()
    share = {person: (rank + 0.5) / len(order) for rank, person in enumerate(order)}
    split = {person: "train" if s < 0.7 else "val" if s < 0.8 else "test" for person, s in share.items()}
    return split, {person: "ab"[rank % 2] for rank, person in enumerate(order)}


# ---------------------------------------------------------------------------------------------------- one clip


@dataclass(frozen=True, slots=True)
class _Task:
    stem: Path
    cues: Cues
    person_seed: tuple[int, ...]
    clip_seed: tuple[int, ...]
    seconds: float
    fps: int
    size_px: tuple[int, int]


def _run(tasks: list[_Task], workers: int) -> None:
    if workers <= 1:
        for task in tasks:
            _write_clip(task)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_write_clip, tasks, chunksize=_CLIPS_PER_PERSON):
            pass


def _write_clip(task: _Task) -> None:
    _write_media(task)
    sentences = _sentences(task.cues, task.seconds, np.random.default_rng((*task.clip_seed, 2)))
    _write_transcript(task.stem.with_suffix(".vtt"), sentences, task.seconds)


def _write_media(task: _Task, *, face: bool = True, sound: bool = True) -> None:
    person = np.random.default_rng((*task.person_seed, 1))
    puppet = _puppet(task.person_seed, task.size_px)
    pitch_hz, tract = person.uniform(105, 135), person.uniform(0.82, 1.0)
    rng = np.random.default_rng((*task.clip_seed, 1))
    spoken = syllables(task.seconds, rng)
    wave = speak(_voice(task.cues, pitch_hz, tract), spoken, task.seconds, rng, sample_rate=SAMPLE_RATE)
    poses = _poses(task, spoken, rng) if face else _nobody(task)
    frames = (puppet.draw(pose) for pose in poses)
    path, heard = task.stem.with_suffix(".mp4"), wave if sound else None
    write_video(path, frames, task.fps, heard, SAMPLE_RATE, options=_X264)


@lru_cache(maxsize=1)  # the clips of one person follow each other
def _puppet(person_seed: tuple[int, ...], size_px: tuple[int, int]) -> Puppet:
    return Puppet(Look.random(np.random.default_rng(person_seed)), *size_px)


def _voice(cues: Cues, pitch_hz: float, tract: float) -> Voice:
    """Up to an octave higher and 16 dB louder for the voice trait; brighter for the half of the two-stream trait."""
    return Voice(
        pitch_hz=pitch_hz * 2**cues.voice,
        level_db=-34 + 16 * cues.voice,
        tilt=1.8 * (1 - cues.voice_half),
        tract=tract,
    )


def _poses(task: _Task, spoken: NDArray[np.float64], rng: np.random.Generator) -> Iterator[Pose]:
    """The head drifts, the lids blink, the mouth follows the syllables, the brows rise and fall."""
    width_px, height_px = task.size_px
    time_s = np.arange(round(task.seconds * task.fps)) / task.fps
    eyes_px = height_px * rng.uniform(0.145, 0.19)
    drift = np.sin(2 * np.pi * (rng.uniform(0.1, 0.4, (4, 1)) * time_s + rng.random((4, 1))))
    middle = np.array([width_px * rng.uniform(0.42, 0.58), height_px * rng.uniform(0.41, 0.47)])
    mouth = task.cues.face * (0.5 + 0.5 * loudness(spoken, time_s))
    brows = task.cues.face * (0.7 + 0.3 * drift[3])
    blinks = rng.random(len(time_s)) < 0.25 / task.fps
    for i in range(len(time_s)):
        yield Pose(
            mouth=float(mouth[i]),
            brows=float(brows[i]),
            lids=1.0 if blinks[i] else 0.05,
            x_px=float(middle[0] + 0.04 * width_px * drift[0, i]),
            y_px=float(middle[1] + 0.02 * height_px * drift[1, i]),
            eyes_px=float(eyes_px),
            tilt_rad=float(0.1 * drift[2, i]),
            grain=i,
        )


def _nobody(task: _Task) -> Iterator[Pose]:
    """The wall alone: the head is far outside of the frame."""
    for _ in range(round(task.seconds * task.fps)):
        yield Pose(mouth=0, brows=0, lids=0, x_px=-1e4, y_px=0, eyes_px=40, tilt_rad=0)


# ---------------------------------------------------------------------------------------------------- words


def _sentences(cues: Cues, seconds: float, rng: np.random.Generator) -> list[str]:
    """Three words for half a second of speech: `a gloomy horse`, in sentences of two such pairs."""
    pairs = 2 * max(2, round(seconds))
    adjectives = _mixed(_PLEASANT, _UNPLEASANT, cues.words, pairs, rng)
    nouns = _mixed(_ANIMALS, _MACHINES, cues.words_half, pairs, rng)
    phrases = [f"{adjective} {noun}" for adjective, noun in zip(adjectives, nouns, strict=True)]
    return [f"The {one} and the {other}." for one, other in zip(phrases[::2], phrases[1::2], strict=True)]


def _mixed(high: list[str], low: list[str], share: float, count: int, rng: np.random.Generator) -> list[str]:
    """`count` words, as near to `share` of them from `high` as whole words allow, in random order."""
    of_high = round(share * count)
    words = [*rng.choice(high, of_high), *rng.choice(low, count - of_high)]
    return [str(word) for word in rng.permutation(words)]


def _write_transcript(path: Path, sentences: list[str], seconds: float) -> None:
    length = seconds / len(sentences)
    said = [Utterance(round(i * length, 3), round((i + 1) * length, 3), None, s) for i, s in enumerate(sentences)]
    path.write_text(render(said, path.suffix), encoding="utf-8", newline="\n")
