"""What is said in a clip, by whom and when -> the text streams of each window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from mmtraits.media import features, transcript, turns
from mmtraits.media.text import Tokenizer
from mmtraits.media.transcript import Utterance
from mmtraits.media.turns import Intervals
from mmtraits.schema import Clip, InputSpec, Raw, TextSpec, VectorSpec

_NOBODY = np.zeros((0, 2))


@dataclass(frozen=True, slots=True)
class Words:
    """The utterances of a clip: `said` by everybody, and `own` of the scored person (all, where nobody is told apart).

    own_turns: (n, 2) seconds in which the asked-for speaker speaks; None where nobody is asked for or told apart.
    """

    clip: Clip
    said: Sequence[Utterance] = ()
    own: Sequence[Utterance] = ()
    own_turns: Intervals | None = None

    def streams(
        self, specs: Mapping[str, InputSpec], span_s: tuple[float, float], root: Path | None
    ) -> tuple[dict[str, Raw], bool]:
        """What is made of words for one window: token ids and vectors by stream, and whether text was cut off."""
        source = features.Source(clip=self.clip, turns=self.said, said=_said_in(self.own, span_s), span_s=span_s)
        found = {name: features.produce(spec, source) for name, spec in specs.items() if has_producer(spec)}
        cut = False
        for name, spec in specs.items():
            if isinstance(spec, TextSpec):
                ids, truncated = _token_ids(spec, root, source.text if spec.turns == "own" else _dialogue(source))
                found[name] = Raw(ids, np.ones(len(ids), np.bool_))
                cut = cut or truncated
        return found, cut


def words_of(clip: Clip, max_bytes: int = transcript.MAX_BYTES) -> Words:
    """Read the words of a clip: of clip.text, else of its transcript; the speaker's turns from either or an RTTM file.

    max_bytes: of the transcript; the rest is not read. Raises MediaError (`no_transcript`, `too_large`) for a file that
    cannot be read or is no transcript.
    """
    said = _said(clip, max_bytes)
    own_turns = _own_turns(clip)
    return Words(clip, said, _own(clip, said, own_turns), own_turns)


def nobody(clip: Clip) -> Words:
    """No words, and where a speaker is asked for no turns: nobody knows which voice and face are meant."""
    return Words(clip, own_turns=None if clip.speaker is None else _NOBODY)


def has_producer(spec: InputSpec) -> TypeGuard[VectorSpec]:
    """Whether a file of media/features makes the stream."""
    return isinstance(spec, VectorSpec) and spec.producer != features.EXTERNAL


def made_of_words(spec: InputSpec) -> bool:
    """Whether a clip without words lacks this stream."""
    return isinstance(spec, TextSpec) or (has_producer(spec) and features.producer(spec).REASON == "no_transcript")


# ---------------------------------------------------------------------------------------------------- who says what


def _said(clip: Clip, max_bytes: int) -> list[Utterance]:
    if clip.text is not None:
        return [Utterance(None, None, None, clip.text)] if clip.text.strip() else []
    return [] if clip.transcript is None else transcript.read(clip.transcript, max_bytes)


def _own_turns(clip: Clip) -> Intervals | None:
    found = None if clip.speaker is None else turns.of_clip(clip)
    return None if found is None else found.speakers.get(clip.speaker or "", _NOBODY)


def _own(clip: Clip, said: list[Utterance], own_turns: Intervals | None) -> list[Utterance]:
    """What the scored speaker says: where speakers are named, else where more than half lies in the turns."""
    if clip.speaker is not None and any(utterance.speaker for utterance in said):
        return [utterance for utterance in said if utterance.speaker == clip.speaker]
    if own_turns is None:
        return said
    return [utterance for utterance in said if _share(utterance, own_turns) > 0.5]


def _share(utterance: Utterance, own_turns: Intervals) -> float:
    """How much of an utterance lies in the turns; all of one without times."""
    if utterance.start_s is None or utterance.end_s is None or utterance.end_s <= utterance.start_s:
        return 1.0
    inside = np.clip(own_turns, utterance.start_s, utterance.end_s)
    return float((inside[:, 1] - inside[:, 0]).sum()) / (utterance.end_s - utterance.start_s)


def _said_in(utterances: Sequence[Utterance], span_s: tuple[float, float]) -> Sequence[Utterance]:
    """Those that overlap a window, where all are timed; else all."""
    timed = [(u.start_s, u.end_s, u) for u in utterances if u.start_s is not None and u.end_s is not None]
    if len(timed) < len(utterances):
        return utterances
    start_s, end_s = span_s
    return [utterance for begin_s, until_s, utterance in timed if begin_s < end_s and until_s > start_s]


def _dialogue(source: features.Source) -> str:
    """What everybody says in the window, with who says it in front where it is not who spoke before."""
    spoken = _said_in(source.turns, source.span_s)
    if source.clip.speaker is None or not any(turn.speaker for turn in spoken):
        return " ".join(turn.text for turn in spoken)
    said = []
    for own, some in groupby(spoken, key=lambda turn: turn.speaker == source.clip.speaker):
        said.append(" ".join(["Speaker:" if own else "Others:", *(turn.text for turn in some)]))
    return " ".join(said)


# ---------------------------------------------------------------------------------------------------- token ids


@lru_cache(maxsize=4)
def _tokenizer(spec: TextSpec, root: Path | None) -> Tokenizer:
    return Tokenizer(spec, root)


@lru_cache(maxsize=4)
def _token_ids(spec: TextSpec, root: Path | None, text: str) -> tuple[NDArray[np.int64], bool]:
    """Kept for the next windows, which have the same text where it is not timed."""
    return _tokenizer(spec, root).encode(text)
