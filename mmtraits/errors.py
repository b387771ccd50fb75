"""The exception tree. Every message reads *where: what was found; what was expected or what to do*.

MMTraitsError
├── ConfigError      a config file, an override or a part's options
├── ManifestError    clips.csv, schema.yaml, labels, splits
├── MediaError       one media file; carries the machine-readable reason of its row
├── BundleError      an exported bundle
└── JobError         the place where a job writes; exit code 1
"""

from __future__ import annotations

from collections.abc import Sequence


class MMTraitsError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback and exits with 2."""


class ConfigError(MMTraitsError):
    """A config, override or part option is wrong; lists every problem found, one per line."""


class ManifestError(MMTraitsError):
    """A manifest, schema or split is wrong; lists every problem found, one `file:line` per line."""


class MediaError(MMTraitsError):
    """One media file cannot be used; `reason` is one of `schema.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BundleError(MMTraitsError):
    """A bundle is missing, incomplete, altered or of another version."""


class JobError(MMTraitsError):
    """A job cannot write any more, on a full disk for one; what it wrote before is kept. Exit code 1."""


def joined(problems: Sequence[str]) -> str:
    """All problems as one message, one per line."""
    return "\n".join(problems)
