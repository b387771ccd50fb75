"""Transcripts: .txt, .srt, .vtt and whisper-style .json to utterances and back. No torch, no other part of ours."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtraits.errors import MediaError

log = logging.getLogger(__name__)

SUFFIXES = (".json", ".vtt", ".srt", ".txt")  # the order in which a sidecar is looked for
MAX_BYTES = 8_000_000
_LONGEST_S = 1e9

_TIME = r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMING = re.compile(rf"^[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}[^\n]*$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n")
_NUMBER = re.compile(r"\n[ \t]*\d+[ \t]*\n?$")
# Of these two no match can begin inside another's attempt, which keeps hostile files from taking quadratic time.
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^\s<>][^<>]*)>")
_MARKUP = re.compile(r"</?[A-Za-z0-9][^<>\n]*>|\{\\[^{}\n]*\}")
# Up to three words that begin with a capital or a digit, then a colon: `INTERVIEWER:`, `Speaker 1:`, `[SPEAKER_00]:`.
_SPEAKER = re.compile(r"\[?((?:[A-Z]|\d)[\w.'-]{0,30}(?: (?:[A-Z]|\d)[\w.'-]{0,30}){0,2})\]?:\s+(?=\S)")


class _LayoutError(Exception):
    """A .json file that is not a transcript of ours."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of speech. Times in seconds from the start of the file, None where the format has none."""

    start_s: float | None
    end_s: float | None
    speaker: str | None
    text: str


def read(path: Path, max_bytes: int = MAX_BYTES) -> list[Utterance]:
    """The utterances of a transcript file, in file order; [] where it holds none.

    UTF-8 with or without a mark, or UTF-16 with one; bytes that are neither are replaced. What lies beyond `max_bytes`
    is not read (see `is_longer`); a .json cannot be cut. Raises MediaError (`no_transcript`, `too_large`) for a file
    that cannot be read or is no transcript.
    """
    parse = {".json": _parse_json, ".vtt": _parse_vtt, ".srt": _parse_srt, ".txt": _parse_txt}.get(path.suffix.lower())
    if parse is None:
        raise MediaError("no_transcript", f"{path}: no transcript format; expected one of {', '.join(SUFFIXES)}")
    try:
        return parse(_decoded(path, max_bytes))
    except OSError as error:
        raise MediaError("no_transcript", f"{path}: {error.strerror or error}; expected a readable file") from error
    except _LayoutError as error:
        expected = "whisper's layout, an object with a list `segments` of {start, end, text}"
        raise MediaError("no_transcript", f"{path}: {error}; expected {expected}") from error


def sidecar(path: Path) -> Path | None:
    """The transcript beside a media file: a.json, a.vtt, a.srt or a.txt of a.mp4, the first there is.

    A .json in another layout is left alone, with a note in the log.
    """
    for suffix in SUFFIXES:
        beside = path.with_suffix(suffix)
        if beside == path or not is_file(beside):
            continue
        if suffix != ".json":
            return beside
        try:
            read(beside)
        except MediaError as error:
            log.warning("left alone: %s", error)
        else:
            return beside
    return None


def is_longer(path: Path, max_bytes: int) -> bool:
    """Whether a file holds more than `read` takes."""
    try:
        return path.stat().st_size > max_bytes
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether there is a regular file; a name that is too long for the file system names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def render(utterances: Iterable[Utterance], suffix: str) -> str:
    """The text of a transcript file with this suffix; `read` gives the utterances back (times to the millisecond)."""
    if suffix == ".json":
        segments = [{"start": u.start_s, "end": u.end_s, "speaker": u.speaker, "text": u.text} for u in utterances]
        return json.dumps({"segments": segments}, ensure_ascii=False, indent=1)
    if suffix == ".txt":
        return "".join(f"{_labelled(u)}\n" for u in utterances)
    if suffix == ".srt":
        cues = [f"{n}\n{_timing(u, ',')}\n{_labelled(u)}\n" for n, u in enumerate(utterances, 1)]
        return "\n".join(cues)
    if suffix == ".vtt":
        cues = [f"{_timing(u, '.')}\n{_voiced(u)}\n" for u in utterances]
        return "\n".join(["WEBVTT\n", *cues])
    raise ValueError(f"{suffix}: no transcript format; expected one of {', '.join(SUFFIXES)}")


# ---------------------------------------------------------------------------------------------------- reading


def _decoded(path: Path, max_bytes: int) -> str:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        if path.suffix.lower() == ".json":
            raise MediaError("too_large", f"{path}: larger than {max_bytes} bytes; expected a transcript")
        data = data[: max(data.rfind(b"\n", 0, max_bytes), 0) or max_bytes]
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse_txt(content: str) -> list[Utterance]:
    return _kept(_utterance(None, None, line) for line in content.split("\n"))


def _parse_srt(content: str) -> list[Utterance]:
    return _kept(_utterance(start_s, end_s, _MARKUP.sub("", text)) for start_s, end_s, text in _cues(content))


def _parse_vtt(content: str) -> list[Utterance]:
    return _kept(_voiced_utterance(start_s, end_s, text) for start_s, end_s, text in _cues(content))


def _parse_json(content: str) -> list[Utterance]:
    if not content.strip():
        return []
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _LayoutError(str(error)) from error
    segments = data.get("segments") if isinstance(data, dict) else None
    if not isinstance(segments, list):
        raise _LayoutError("no list `segments`")
    return _kept(_segment(segment, number) for number, segment in enumerate(segments))


def _segment(segment: Any, number: int) -> Utterance:
    if not isinstance(segment, dict) or not isinstance(segment.get("text"), str):
        raise _LayoutError(f"segment {number} has no `text`")
    speaker = segment.get("speaker")
    name = _clean(speaker) if isinstance(speaker, str) else ""
    return Utterance(
        _seconds(segment.get("start")), _seconds(segment.get("end")), name or None, _clean(segment["text"])
    )


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LONGEST_S else None  # NaN, infinities and integers beyond a float are no times


def _cues(content: str) -> Iterable[tuple[float, float, str]]:
    """Start, end and raw text of every cue of a .srt or .vtt: the lines from its timing to the next blank one."""
    timings = list(_TIMING.finditer(content))
    ends = [*(timing.start() for timing in timings[1:]), len(content)]
    for timing, end in zip(timings, ends, strict=False):  # one end and no timing where there is no cue
        body, *after_blank = _BLANK.split(content[timing.end() : end], maxsplit=1)
        if not after_blank and end < len(content):  # no blank line before the next cue: its number is not speech
            body = _NUMBER.sub("", body)
        groups = timing.groups()
        yield _from_clock(groups[:4]), _from_clock(groups[4:]), body


def _from_clock(groups: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (group or "0" for group in groups)
    whole_s = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole_s * 1000 + int(fraction.ljust(3, "0"))) / 1000  # one division, so that times survive a round trip


def _voiced_utterance(start_s: float, end_s: float, text: str) -> Utterance:
    voice = _VOICE.search(text)
    if voice is None:
        return _utterance(start_s, end_s, html.unescape(_MARKUP.sub("", text)))
    speaker, words = (_clean(html.unescape(part)) for part in (voice[1], _MARKUP.sub("", text)))
    return Utterance(start_s, end_s, speaker or None, words)


def _utterance(start_s: float | None, end_s: float | None, text: str) -> Utterance:
    words = _clean(text)
    prefix = _SPEAKER.match(words)
    if prefix is None:
        return Utterance(start_s, end_s, None, words)
    return Utterance(start_s, end_s, prefix[1], words[prefix.end() :])


def _clean(text: str) -> str:
    return " ".join(text.split())


def _kept(utterances: Iterable[Utterance]) -> list[Utterance]:
    return [utterance for utterance in utterances if utterance.text]


# ---------------------------------------------------------------------------------------------------- writing


def _labelled(utterance: Utterance) -> str:
    return f"{utterance.speaker}: {utterance.text}" if utterance.speaker else utterance.text


def _voiced(utterance: Utterance) -> str:
    words = html.escape(utterance.text, quote=False)
    return f"<v {html.escape(utterance.speaker, quote=False)}>{words}" if utterance.speaker else words


def _timing(utterance: Utterance, mark: str) -> str:
    if utterance.start_s is None or utterance.end_s is None:
        raise ValueError(f"{utterance.text!r} has no times; expected start_s and end_s in a subtitle file")
    return f"{_clock(utterance.start_s, mark)} --> {_clock(utterance.end_s, mark)}"


def _clock(time_s: float, mark: str) -> str:
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{milliseconds:03d}"
