"""Charts as inline SVG figures: functions of plain data, without script, style sheet or dependency.

A chart is 340 units wide with letters of 11, so that it is readable at the width of a phone; it never stretches text.
Lines and letters take the page's ink; its variable --score, where there is one, colours what was measured. Meaning is
carried by shapes and words, never by colour alone. None and NaN are unknown: nothing is drawn for them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from markupsafe import Markup

WIDTH = 340
_LEFT, _RIGHT, _LINE = 44.0, 332.0, 14.0  # of the plotting area; height of a line of text
_BAND = 16.0  # height of the band that holds the mark of a row
_NAME_COLUMNS = 42  # letters of a row's name that fit beside its number
Mark = Literal["disc", "ring", "square", "diamond"]
Point = tuple[float, float | None, float | None, float | None]  # x, value, lower, upper


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A row of `dots`: a number with its interval; `text` is how the number is written, `others` are small strokes."""

    name: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    text: str = ""
    mark: Mark = "disc"
    others: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """Values low to high along the units start to end of the drawing."""

    name: str
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies in the drawing."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scatter(title: str, points: Sequence[tuple[float, float]], *, x: str = "score", y: str = "label") -> Markup:
    """Points (x, y) on equal axes with the line of equality, and how often each value occurs at the margins."""
    low, high = _span(value for point in points for value in point)
    across, up = Axis(x, low, high, _LEFT, 292), Axis(y, low, high, 300, 52)
    size = 3 if len(points) > 200 else 5
    dots = "".join(f"M{across.at(a):.1f} {up.at(b):.1f}h0" for a, b in points if _known(a) and _known(b))
    parts = [
        *_across(across, 300, 52), *_up(up, _LEFT, 292), _equality(across, up),
        Markup('<path class="points" d="{}" fill="none" stroke="currentColor" stroke-width="{}" stroke-opacity=".55"'
               ' stroke-linecap="round"/>').format(dots, size),
        *_margins(points, across, up),
    ]  # fmt: skip
    note = f"Each dot one of {len(points)}; dashed: {y} = {x}; bars at the margins: how often a value occurs."
    return _figure(title, 336, parts, note)


def calibration(title: str, bins: Sequence[tuple[int, float, float]], *, x: str = "score", y: str = "label") -> Markup:
    """Bins (n, mean score, mean label) with the line of equality, above bars of n."""
    known = [(n, score, label) for n, score, label in bins if _known(score) and _known(label)]
    low, high = _span(value for _, *pair in known for value in pair)
    across, up = Axis(f"mean {x}", low, high, _LEFT, _RIGHT), Axis(f"mean {y}", low, high, 236, 20)
    most = max((n for n, _, _ in known), default=1) or 1
    places = [across.at(score) for _, score, _ in known]
    gap = min((b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)), default=14.0)
    wide = min(max(gap - 1.0, 2.0), 14.0)
    bars = [
        _rect(place - wide / 2, 286 - 36 * n / most, wide, 36 * n / most)
        for place, (n, _, _) in zip(places, known, strict=True)
    ]
    line = [(place, up.at(label)) for place, (_, _, label) in zip(places, known, strict=True)]
    parts = [
        *_across(across, 286, 20), *_up(up, _LEFT, _RIGHT), _equality(across, up), *bars,
        _text(_LEFT - 5, 258, f"n {most}", "end"), _path(sorted(line)), *(_mark("disc", *place) for place in line),
    ]  # fmt: skip
    return _figure(title, 322, parts, f"Dashed: {y} = {x}; bars: units in each bin, the tallest {most}.")


def forest(title: str, rows: Sequence[Dot], *, x: str, reach: Sequence[Dot] = ()) -> Markup:
    """Rows with intervals beside a line at zero, e.g. signed errors of groups; `reach`: as in `dots`."""
    return dots(title, rows, x=x, line=0.0, line_name="zero", reach=reach)


def dots(
    title: str,
    rows: Sequence[Dot],
    *,
    x: str,
    line: float | None = None,
    line_name: str = "",
    reach: Sequence[Dot] = (),
) -> Markup:
    """Numbers with intervals, one row each under its name; `line`: a value to compare with.

    reach: rows of other charts that the axis spans too, so that one can be laid beside the other.
    """
    drawn = [value for row in [*rows, *reach] for value in (row.value, row.lower, row.upper, *row.others)]
    names = [_wrapped(row.name) for row in rows]
    top = 18.0 if line is not None else 4.0
    bottom = top + sum(_LINE * len(name) + _BAND for name in names)
    across = Axis(x, *_span([*drawn, line]), 10, _RIGHT)
    parts = _across(across, bottom, bottom)
    if line is not None:
        at = across.at(line)
        anchor = "start" if at < WIDTH / 3 else "end" if at > WIDTH * 2 / 3 else "middle"
        parts.append(_text(at, top - 6, line_name, anchor))
    y = top
    for row, name in zip(rows, names, strict=True):
        parts += [_text(2, y + 11 + _LINE * n, text) for n, text in enumerate(name)]
        parts.append(_text(WIDTH - 2, y + 11, row.text, "end"))
        y += _LINE * len(name) + _BAND
        parts += [*_grid(across, y, line), *_dot(row, across, y - _BAND / 2)]
    return _figure(title, bottom + 34, parts)


def curve(title: str, points: Sequence[Point], *, x: str, y: str) -> Markup:
    """Values joined by a line, with a band where bounds are known and a gap where a value is not."""
    across = Axis(x, *_span(point[0] for point in points), _LEFT, _RIGHT)
    up = Axis(y, *_span(value for point in points for value in point[1:]), 190, 20)
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value, _, _ in points:
        if _known(value):
            runs[-1].append((across.at(at), up.at(value)))
        else:
            runs.append([])
    parts = [*_across(across, 190, 20), *_up(up, _LEFT, _RIGHT), _band(points, across, up)]
    parts += [_path(run) for run in runs if run] + [_mark("disc", *place) for run in runs for place in run]
    return _figure(title, 226, parts)


# ---------------------------------------------------------------------------------------------------- rows and bands


def _grid(across: Axis, bottom: float, line: float | None) -> list[Markup]:
    """Ticks and the line to compare with, over the band of one row: a name is never struck through."""
    top = bottom - _BAND
    ticks = [across.at(value) for value, _ in _ticks(across.low, across.high)]
    parts = [_line(at, top + 1, at, bottom - 1, opacity=0.15) for at in ticks]
    return parts if line is None else [*parts, _line(across.at(line), top, across.at(line), bottom, dash="3 2")]


def _dot(row: Dot, across: Axis, y: float) -> list[Markup]:
    others = [across.at(value) for value in row.others if _known(value)]
    parts = [_line(at, y - 4, at, y + 4, opacity=0.6) for at in others]
    if _known(row.lower) and _known(row.upper):
        left, right = across.at(row.lower), across.at(row.upper)
        parts.append(_line(left, y, right, y, wide=1.5))
        parts += [_line(end, y - 3, end, y + 3, wide=1.5) for end in (left, right)]
    if _known(row.value):
        parts.append(_mark(row.mark, across.at(row.value), y))
    return parts


def _band(points: Sequence[Point], across: Axis, up: Axis) -> Markup:
    edges = [(across.at(at), up.at(hi), up.at(lo)) for at, _, lo, hi in points if _known(lo) and _known(hi)]
    there = [f"{at:.1f} {high:.1f}" for at, high, _ in edges]
    back = [f"{at:.1f} {low:.1f}" for at, _, low in reversed(edges)]
    shape = f"M{'L'.join(there + back)}Z" if edges else ""
    return Markup('<path class="band" d="{}" fill-opacity=".15"/>').format(shape)


def _margins(points: Sequence[tuple[float, float]], across: Axis, up: Axis) -> list[Markup]:
    """Bars of 20 equal steps: of x above the plot, of y at its right."""
    parts = []
    for part, axis in enumerate((across, up)):
        counts = [0] * 20
        for point in points:
            if _known(point[part]):
                counts[min(int(20 * (point[part] - axis.low) / (axis.high - axis.low)), 19)] += 1
        step, most = abs(axis.end - axis.start) / 20, max(*counts, 1)
        for n, count in enumerate(counts):
            tall = 30 * count / most
            if count:
                at = axis.start + (n if part == 0 else -n - 1) * step
                parts.append(_rect(at, 48 - tall, step - 1, tall) if part == 0 else _rect(296, at, tall, step - 1))
    return parts


# ---------------------------------------------------------------------------------------------------- axes


def _across(axis: Axis, bottom: float, top: float) -> list[Markup]:
    """Ticks, grid and name of a horizontal axis under `bottom`."""
    parts = [_line(axis.start, bottom, axis.end, bottom)]
    for value, text in _ticks(axis.low, axis.high):
        at = axis.at(value)
        parts += [_line(at, top, at, bottom, opacity=0.15), _text(at, bottom + _LINE, text, "middle")]
    return [*parts, _text((axis.start + axis.end) / 2, bottom + 2 * _LINE + 2, axis.name, "middle")]


def _up(axis: Axis, left: float, right: float) -> list[Markup]:
    """Ticks, grid and name of a vertical axis left of `left`; its name lies flat above it."""
    parts = [_line(left, axis.start, left, axis.end)]
    for value, text in _ticks(axis.low, axis.high):
        at = axis.at(value)
        parts += [_line(left, at, right, at, opacity=0.15), _text(left - 5, at + 4, text, "end")]
    return [*parts, _text(2, axis.end - 9, axis.name)]


def _ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Round values between low and high, at most `most` + 1, as they are written."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= rough * (1 - 1e-9))
    decimals = next(d for d in range(16) if d == 15 or abs(round(step, d) - step) < 1e-6 * step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, f"{n * step:.{decimals}f}".replace("-", "−")) for n in range(first, last + 1)]


def _span(values: Iterable[float | None]) -> tuple[float, float]:
    """The range of what is known, widened a little; 0 to 1 where nothing is."""
    known = [value for value in values if _known(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    margin = 0.05 * (high - low) or max(0.05 * abs(low), 0.05)
    return low - margin, high + margin


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


# ---------------------------------------------------------------------------------------------------- elements


def _figure(title: str, height: float, parts: Iterable[Markup], note: str = "") -> Markup:
    small = Markup("<small>{}</small>").format(note) if note else ""
    return Markup(
        '<figure class="chart"><figcaption>{0} {1}</figcaption><svg viewBox="0 0 {2} {3:.0f}" role="img" '
        'aria-label="{0}" font-size="11" fill="currentColor"><title>{0}</title>{4}</svg></figure>'
    ).format(title, small, WIDTH, height, Markup("").join(parts))


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, dash: str = "", opacity: float = 1, wide: float = 1) -> Markup:
    return Markup(
        '<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="currentColor" stroke-width="{}" stroke-opacity="{}"{}/>'
    ).format(x1, y1, x2, y2, wide, opacity, Markup(' stroke-dasharray="{}"').format(dash) if dash else "")


def _equality(across: Axis, up: Axis) -> Markup:
    ends = (across.low, across.high)
    return _line(across.at(ends[0]), up.at(ends[0]), across.at(ends[1]), up.at(ends[1]), dash="4 3", opacity=0.8)


def _path(places: Sequence[tuple[float, float]]) -> Markup:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Markup('<path class="line" d="{}" fill="none" stroke="currentColor" stroke-width="1.5"/>').format(
        f"M{steps}" if steps else ""
    )


def _rect(x: float, y: float, wide: float, tall: float) -> Markup:
    return Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity=".35"/>').format(
        x, y, wide, tall
    )


def _mark(mark: Mark, x: float, y: float) -> Markup:
    """Disc and square are full, ring and diamond hollow: they differ in black and white too."""
    round_ = f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z"
    shapes = {
        "disc": round_,
        "ring": round_,
        "square": f"M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7Z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5Z",
    }
    fill = "none" if mark in ("ring", "diamond") else "currentColor"
    return Markup('<path class="mark {}" d="{}" stroke="currentColor" fill="{}"/>').format(mark, shapes[mark], fill)


def _wrapped(name: str) -> list[str]:
    """Lines of at most `_NAME_COLUMNS` letters, broken at spaces where there are any; a wide letter counts two."""
    lines, columns = [""], 0
    for word in name.split(" "):
        wide = sum(map(_columns, word))
        if columns and columns + wide > _NAME_COLUMNS:
            lines, columns = [*lines, ""], 0
        for letter in word:
            if columns + _columns(letter) > _NAME_COLUMNS:
                lines, columns = [*lines, ""], 0
            lines[-1] += letter
            columns += _columns(letter)
        lines[-1] += " "
        columns += 1
    return [line.rstrip() for line in lines]


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
