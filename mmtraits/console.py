"""What the command line shows: progress bars and tables of scores."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mmtraits.predict import Outcome, Progress


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside as ^C does, cleaning up on the way, with exit code 143."""

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def console() -> Any:
    """Rich's, on stderr."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """A progress bar that is there from the first report to the last: Lightning shows its own afterwards."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    stderr = console()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)
    task = shown.add_task(what, total=None)

    def update(done: int, total: int) -> None:
        shown.start()
        shown.update(task, completed=done, total=total)
        if done >= total:
            shown.stop()

    try:
        yield update
    finally:
        shown.stop()


def summary(outcome: Outcome) -> None:
    """How many clips have each status, and the files that hold them."""
    counts = ", ".join(f"{outcome.counts[status]} {status}" for status in ("ok", "degraded", "failed"))
    typer.echo(f"{outcome.total} clips: {counts}")
    for name in ("results.csv", "results.jsonl", "report.html"):
        typer.echo(str(outcome.folder / name))


def show(outcome: Outcome) -> None:
    """Print a table of scores with their intervals, narrow enough for a terminal of 80 columns."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = outcome.records
    traits = [name.removesuffix("_lower") for name in rows[0] if name.endswith("_lower")]
    table = Table(title="Apparent personality", caption="Research use; not for decisions about people.", padding=0)
    table.add_column("clip\nstatus", no_wrap=True)
    for trait in traits:
        table.add_column(trait.replace("_", " "), overflow="fold", justify="center")
    for row in rows:
        clip = f"{escape(str(row['clip']))}\n{row['status']}"
        table.add_row(clip, *(shown_score(row, trait) for trait in traits), end_section=True)
    Console().print(table)


def shown_score(row: dict[str, Any], trait: str) -> str:
    """A cell of `show`: the score and, below it, its interval."""
    score, lower, upper = (row[trait + suffix] for suffix in ("", "_lower", "_upper"))
    if score is None:
        return "-"
    return f"{score:.2f}" if lower is None else f"{score:.2f}\n{lower:.2f}–{upper:.2f}"
