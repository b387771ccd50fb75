"""What is said in every clip, as plain text: for baselines and checks, which read words and no media."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from mmtraits.errors import MediaError
from mmtraits.media import transcript
from mmtraits.media.transcript import Utterance
from mmtraits.schema import Clip

_log = logging.getLogger(__name__)


def transcripts(clips: Iterable[Clip]) -> list[str | None]:
    """The text of each clip, as `said` finds it."""
    return [said(clip) for clip in clips]


def said(clip: Clip) -> str | None:
    """`clip.text`, else what its transcript file holds; None where neither says anything.

    Of a file only what the scored speaker says counts where speakers are told apart, and only what overlaps the clip's
    stretch where all of it is timed, as for a model. A file that cannot be read is logged; nothing is raised for it.
    """
    text = clip.text if clip.text is not None else " ".join(u.text for u in _utterances(clip))
    return text if text.strip() else None


def _utterances(clip: Clip) -> list[Utterance]:
    if clip.transcript is None:
        return []
    try:
        found = transcript.read(clip.transcript)
    except MediaError as error:
        _log.warning("clip %s: %s", clip.id, error)
        return []
    if clip.speaker is not None and any(u.speaker for u in found):
        found = [u for u in found if u.speaker == clip.speaker]
    times = [(u.start_s, u.end_s) for u in found if u.start_s is not None and u.end_s is not None]
    if len(times) < len(found):
        return found
    until_s = math.inf if clip.end_s is None else clip.end_s
    return [u for u, (start_s, end_s) in zip(found, times, strict=True) if start_s < until_s and end_s > clip.start_s]
