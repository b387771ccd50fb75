"""How the files of this package word what is wrong with a corpus."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from mmtraits.errors import ManifestError, joined

_MAX_PROBLEMS = 100


def manifest_error(problems: Sequence[str]) -> ManifestError:
    """All problems in one error, each once; beyond a hundred they are counted."""
    found = list(dict.fromkeys(problems))
    more = len(found) - _MAX_PROBLEMS
    return ManifestError(joined([*found[:_MAX_PROBLEMS], f"... and {more} more"] if more > 0 else found))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` where a known name is close, whatever its case; else nothing."""
    spelled = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean {spelled[close[0]]!r}?" if close else ""
