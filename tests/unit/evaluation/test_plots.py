from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.evaluation import plots
from mmtraits.evaluation.plots import Dot

NAN = float("nan")
NAMES = {"x": "score <0-1>", "y": "label"}
CHARTS = {
    "scatter": plots.scatter("A <title>", [(0.2, 0.3), (0.5, 0.9), (0.9, 0.1)]),
    "scatter of nothing": plots.scatter("A <title>", []),
    "scatter of a constant": plots.scatter("A <title>", [(0.5, 0.5)] * 3),
    "calibration": plots.calibration("A <title>", [(10, 0.2, 0.3), (20, 0.5, 0.4)]),
    "calibration of nothing": plots.calibration("A <title>", []),
    "calibration of one": plots.calibration("A <title>", [(4, 0.0, 0.0)]),
    "forest": plots.forest("A <title>", [Dot(name="a", value=0.1, lower=-0.1, upper=0.2, text="0.100")], x="error"),
    "dots of nothing": plots.dots("A <title>", [], x="r"),
    "dots unknown": plots.dots("A <title>", [Dot(name="a", text="–"), Dot(name="b", value=NAN, lower=NAN)], x="r"),
    "curve": plots.curve("A <title>", [(0.0, 0.4, 0.3, 0.5), (0.1, None, None, None), (0.2, 0.2, NAN, 0.3)], **NAMES),
    "curve of nothing": plots.curve("A <title>", [], **NAMES),
}


def svg(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart).find("svg")  # raises where a tag is not closed


def texts(chart: str) -> list[str]:
    return [element.text or "" for element in svg(chart).iter("text")]


def marks(chart: str) -> list[str]:
    return [e.get("class") for e in svg(chart).iter("path") if (e.get("class") or "").startswith("mark")]


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_every_chart_is_whole_named_and_on_paper(chart):
    root = svg(chart)
    assert root.find("title").text == root.get("aria-label") == "A <title>"
    assert ElementTree.fromstring(chart).find("figcaption").text.startswith("A <title>")
    assert root.get("role") == "img" and "preserveAspectRatio" not in root.attrib
    width, height = map(float, root.get("viewBox").split()[2:])
    for element in root.iter("text"):
        assert 0 <= float(element.get("x")) <= width and 0 < float(element.get("y")) < height
    for element in root.iter("path"):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", element.get("d")):
            assert -0.1 <= float(x) <= width + 0.1 and -0.1 <= float(y) <= height + 0.1
    assert not re.search(r"\b(nan|inf|None)\b", chart)


@pytest.mark.parametrize("name", ["scatter", "calibration", "forest", "curve"])
def test_axes_have_names_and_ticks(name):
    found = texts(CHARTS[name])
    assert len([text for text in found if re.fullmatch(r"−?[\d.]+", text)]) >= 3
    wanted = {
        "scatter": {"score", "label"},
        "calibration": {"mean score", "mean label", "n 20"},
        "forest": {"error", "zero"},
        "curve": {"score <0-1>", "label"},
    }
    assert wanted[name] <= set(found)


def test_scatter_draws_each_point_and_both_margins():
    root = svg(CHARTS["scatter"])
    points = next(e for e in root.iter("path") if e.get("class") == "points")
    assert points.get("d").count("M") == 3
    assert len(list(root.iter("rect"))) == 6  # three different values on each margin


def test_scatter_puts_equal_values_on_the_line_of_equality():
    root = svg(plots.scatter("t", [(0.0, 0.0), (1.0, 1.0)]))
    points = next(e for e in root.iter("path") if e.get("class") == "points").get("d")
    (x0, y0), (x1, y1) = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)", points)]
    assert x1 > x0 and y1 < y0
    assert x1 - x0 == pytest.approx(y0 - y1, abs=0.2)  # the same scale on both axes


def test_calibration_bars_are_as_tall_as_n():
    bars = list(svg(CHARTS["calibration"]).iter("rect"))
    assert [float(bar.get("height")) for bar in bars] == pytest.approx([18.0, 36.0])
    assert {float(bar.get("y")) + float(bar.get("height")) for bar in bars} == {286.0}
    assert marks(CHARTS["calibration"]) == ["mark disc"] * 2


def test_dots_place_values_on_one_axis():
    chart = plots.dots(
        "t", [Dot(name="a", value=0.0), Dot(name="b", value=1.0, mark="square")], x="r", line=0.5, line_name="mean"
    )
    assert marks(chart) == ["mark disc", "mark square"]
    left, right = [float(re.match(r"M([\d.]+)", e.get("d"))[1]) for e in svg(chart).iter("path") if e.get("class")]
    dashes = [e.get("d") for e in svg(chart).iter("path") if e.get("stroke-dasharray")]
    assert len(dashes) == 2  # a line to compare with in each row
    line = float(re.match(r"M([\d.]+)", dashes[0])[1])
    assert (left + 4 + right + 3.5) / 2 == pytest.approx(line, abs=0.2)
    assert "mean" in texts(chart)


def test_dots_of_an_unknown_value_draw_no_mark():
    assert marks(CHARTS["dots unknown"]) == []
    assert "–" in texts(CHARTS["dots unknown"])


def test_reach_gives_charts_one_axis():
    wide = Dot(name="far", value=5.0, lower=-5.0, upper=9.0)
    one, other = Dot(name="a", value=0.1), Dot(name="a", value=0.3)
    ticks = [texts(plots.forest("t", [dot], x="e", reach=[one, other, wide]))[1:] for dot in (one, other)]
    assert ticks[0] == ticks[1]
    assert ticks[0] != texts(plots.forest("t", [one], x="e"))[1:]


def test_long_names_are_wrapped_never_cut():
    name = "prefers not to say, or described in own words that do not fit " + "x" * 60 + " 日本語" * 10
    found = texts(plots.dots("t", [Dot(name=name, value=1.0)], x="r"))
    assert "".join(name.split()) in "".join("".join(found).split())
    assert max(map(len, found)) <= 42


def test_marks_differ_without_colour():
    chart = plots.dots("t", [Dot(name=m, value=0.5, mark=m) for m in ("disc", "ring", "square", "diamond")], x="r")
    shapes = [(e.get("d").split("a")[-1], e.get("fill")) for e in svg(chart).iter("path") if e.get("class")]
    assert len(set(shapes)) == 4


def test_curve_breaks_where_a_value_is_unknown():
    lines = [e for e in svg(CHARTS["curve"]).iter("path") if e.get("class") == "line"]
    assert len(lines) == 2
    band = next(e for e in svg(CHARTS["curve"]).iter("path") if e.get("class") == "band")
    assert band.get("d").count(" ") == 2  # the one point with both bounds, there and back


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.1, 0.1, ["−0.10", "−0.05", "0.00", "0.05", "0.10"]),
        (0.0, 100.0, ["0", "20", "40", "60", "80", "100"]),
        (0.875, 0.985, ["0.875", "0.900", "0.925", "0.950", "0.975"]),
    ],
)
def test_ticks_are_round(low, high, texts):
    assert [text for _, text in plots._ticks(low, high)] == texts


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_inside_and_differ(low, size):
    high = low + size
    if high > low:
        found = plots._ticks(low, high)
        assert 1 <= len(found) <= 7
        assert len({text for _, text in found}) == len(found)
        assert all(low - 1e-6 * size - 1e-9 <= value <= high + 1e-6 * size + 1e-9 for value, _ in found)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), max_size=5))
def test_any_numbers_can_be_drawn(points):
    assert svg(plots.scatter("t", points)) is not None
    assert svg(plots.curve("t", [(x, y, y - 1, y + 1) for x, y in points], x="x", y="y")) is not None
