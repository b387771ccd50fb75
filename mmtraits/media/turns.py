"""Who speaks when: RTTM, JSON and timed transcripts with speakers -> intervals per speaker. NumPy only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import MediaError
from mmtraits.media import transcript
from mmtraits.schema import Clip

Intervals = NDArray[np.float64]
SUFFIXES = (".rttm", ".json", ".vtt", ".srt")
_LONGEST_S = 1e9
_EXPECTED = "expected a list of {start, end, speaker}, or an object that holds one as `turns` or `segments`"


@dataclass(frozen=True, slots=True)
class Turns:
    """Speech of every speaker of a session: (n, 2) start and end in seconds, in order, without overlap of its own."""

    speakers: Mapping[str, Intervals]
    end_s: float  # of the session: at least the end of its last turn
    start_s: float = 0.0

    @property
    def duration_s(self) -> float:
        """Length of the session in seconds."""
        return self.end_s - self.start_s


def turns_of(spoken: Iterable[tuple[float, float, str]], *, start_s: float = 0.0, end_s: float | None = None) -> Turns:
    """(start, end, speaker) in seconds, in any order -> Turns between `start_s` and `end_s` (None: the last end).

    Turns of one speaker that touch or overlap are one; a speaker without speech inside the session is left out.
    """
    by_speaker: dict[str, list[tuple[float, float]]] = {}
    for begin_s, until_s, speaker in spoken:
        by_speaker.setdefault(speaker, []).append((begin_s, until_s))
    last_s = max((until for turns in by_speaker.values() for _, until in turns), default=start_s)
    stop_s = max(last_s, start_s) if end_s is None else end_s
    merged = {name: _merged(np.clip(np.array(turns), start_s, stop_s)) for name, turns in sorted(by_speaker.items())}
    return Turns({name: turns for name, turns in merged.items() if len(turns)}, stop_s, start_s)


def read(path: Path, *, start_s: float = 0.0, end_s: float | None = None) -> Turns:
    """The turns in a file: .rttm; .json (a list of {start, end, speaker}, or whisper's segments); .vtt or .srt.

    Lines of a transcript without a time or a speaker are nobody's turn. Raises MediaError (`no_transcript`,
    `too_large`) for a file that cannot be read or is none of these.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MediaError("no_transcript", f"{path}: no file of turns; expected one of {', '.join(SUFFIXES)}")
    parse = {".rttm": _rttm, ".json": _json}.get(suffix, _subtitles)
    return turns_of(parse(path), start_s=start_s, end_s=end_s)


def sidecar(clip: Clip) -> Path | None:
    """The file of turns beside a clip's medium: a.rttm of a.mp4."""
    beside = (path.with_suffix(".rttm") for path in (clip.audio, clip.video, clip.transcript) if path is not None)
    return next((path for path in beside if transcript.is_file(path)), None)


def of_clip(clip: Clip) -> Turns | None:
    """The turns of a clip, inside its stretch: from a.rttm beside its medium, else from its timed transcript.

    None where there is neither or a transcript tells no speakers. Raises MediaError for a file that is no such thing.
    """
    found = sidecar(clip)
    if found is None and clip.transcript is not None and clip.transcript.suffix.lower() in SUFFIXES:
        found = clip.transcript
    turns = None if found is None else read(found, start_s=clip.start_s, end_s=clip.end_s)
    return turns if turns is not None and turns.speakers else None


def within(turns: Intervals, times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the times (T,) lie in one of the ordered intervals (n, 2)."""
    latest = np.searchsorted(turns[:, 0], times_s, side="right") - 1
    ends_s = np.concatenate([turns[:, 1], [-np.inf]])  # number −1: before the first
    return np.asarray(times_s < ends_s[latest], np.bool_)


def _merged(turns: Intervals) -> Intervals:
    turns = turns[turns[:, 1] > turns[:, 0]]
    turns = turns[np.argsort(turns[:, 0], kind="stable")]
    if not len(turns):
        return turns
    reached = np.maximum.accumulate(turns[:, 1])
    first = np.concatenate([[True], turns[1:, 0] > reached[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([turns[first, 0], reached[last]], axis=1)


# ---------------------------------------------------------------------------------------------------- formats


def _rttm(path: Path) -> list[tuple[float, float, str]]:
    """NIST's Rich Transcription Time Marked: SPEAKER file channel start duration <NA> <NA> name <NA> [<NA>].

    Where it covers several recordings, those named like the file count.
    """
    spoken: dict[str, list[tuple[float, float, str]]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        cells = line.split()
        if not cells or cells[0] != "SPEAKER":
            continue  # comments, and the format's other kinds of line
        if len(cells) < 8:
            raise MediaError("no_transcript", f"{path}:{number}: {len(cells)} fields; expected at least 8 of a SPEAKER")
        begin_s = _seconds(cells[3], f"{path}:{number}: start")
        length_s = _seconds(cells[4], f"{path}:{number}: duration")
        spoken.setdefault(cells[1], []).append((begin_s, begin_s + length_s, cells[7]))
    if len(spoken) > 1 and path.stem not in spoken:
        names = ", ".join(sorted(spoken)[:5])
        raise MediaError(
            "no_transcript", f"{path}: turns of {names}; expected one recording, or {path.stem} among them"
        )
    return spoken[path.stem] if len(spoken) > 1 else [turn for turns in spoken.values() for turn in turns]


def _json(path: Path) -> list[tuple[float, float, str]]:
    try:
        data = json.loads(_text(path) or "[]")
    except (ValueError, RecursionError) as error:
        raise MediaError("no_transcript", f"{path}: {error}; {_EXPECTED}") from error
    if isinstance(data, dict):
        data = data.get("turns", data.get("segments"))
    if not isinstance(data, list) or not all(isinstance(turn, dict) for turn in data):
        raise MediaError("no_transcript", f"{path}: another layout; {_EXPECTED}")
    return [turn for number, entry in enumerate(data) if (turn := _json_turn(entry, f"{path}: turn {number}"))]


def _json_turn(entry: Mapping[str, Any], where: str) -> tuple[float, float, str] | None:
    speaker, begin, until = (entry.get(name) for name in ("speaker", "start", "end"))
    if speaker is None or begin is None or until is None:
        return None
    return _seconds(begin, f"{where}: start"), _seconds(until, f"{where}: end"), str(speaker)


def _subtitles(path: Path) -> list[tuple[float, float, str]]:
    return [
        (said.start_s, said.end_s, said.speaker)
        for said in transcript.read(path)
        if said.start_s is not None and said.end_s is not None and said.speaker is not None
    ]


def _seconds(value: Any, where: str) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < _LONGEST_S:
        raise MediaError("no_transcript", f"{where} is {value!r}; expected seconds")
    return seconds


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(transcript.MAX_BYTES + 1)
    except OSError as error:
        raise MediaError("no_transcript", f"{path}: {error.strerror or error}; expected a readable file") from error
    if len(data) > transcript.MAX_BYTES:
        raise MediaError("too_large", f"{path}: larger than {transcript.MAX_BYTES // 1_000_000} MB; expected turns")
    return data.decode("utf-8-sig", errors="replace")
