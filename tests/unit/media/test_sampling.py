"""Windows and frame times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtraits.media.sampling import frame_times, time_covered, windows
from mmtraits.schema import Windowing

SECONDS = st.floats(0.01, 5000, allow_nan=False)


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (3.0, ((0.0, 3.0),)),
        (15.0, ((0.0, 15.0),)),
        (15.0 + 1e-9, ((0.0, 15.0 + 1e-9),)),
        (30.0, ((0.0, 15.0), (15.0, 30.0))),
        (31.0, ((0.0, 15.0), (15.0, 30.0), (16.0, 31.0))),
        (20.0, ((0.0, 15.0), (5.0, 20.0))),
    ],
)
def test_windows_of_fifteen_seconds(duration_s: float, expected: tuple[tuple[float, float], ...]) -> None:
    assert windows(duration_s, Windowing()) == expected


def test_a_stretch_of_a_longer_medium() -> None:
    assert windows(100.0, Windowing(), 10.0, 45.0) == ((10.0, 25.0), (25.0, 40.0), (30.0, 45.0))
    assert windows(12.0, Windowing(), 10.0, 45.0) == ((10.0, 12.0),)  # no window reaches beyond the medium
    assert windows(12.0, Windowing(), -3.0) == ((0.0, 12.0),)


def test_nothing_in_the_stretch_is_one_empty_window() -> None:
    assert windows(0.0, Windowing()) == ((0.0, 0.0),)
    assert windows(5.0, Windowing(), start_s=9.0) == ((9.0, 9.0),)


def test_overlapping_windows() -> None:
    found = windows(10.0, Windowing(length_s=4.0, hop_s=2.0))
    assert found == ((0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 10.0))


@pytest.mark.parametrize("windowing", [Windowing(length_s=0.0), Windowing(hop_s=-1.0)])
def test_a_windowing_that_never_advances_is_refused(windowing: Windowing) -> None:
    with pytest.raises(ValueError, match=r"windowing: length_s .*both must be positive"):
        windows(5.0, windowing)


@settings(deadline=None)  # the machine may be busy
@given(SECONDS, st.floats(1, 60), st.floats(0.2, 1), st.floats(0, 50), st.one_of(st.none(), SECONDS))
def test_windows_cover_the_stretch(
    duration_s: float, length_s: float, hop_share: float, start_s: float, end_s: float | None
) -> None:
    found = windows(duration_s, Windowing(length_s=length_s, hop_s=length_s * hop_share), start_s, end_s)
    end = max(start_s, min(duration_s, duration_s if end_s is None else end_s))
    assert found[0][0] == start_s
    assert found[-1][1] == end
    assert all(later[0] <= earlier[1] + 1e-9 for earlier, later in zip(found, found[1:], strict=False))
    assert all(later[0] > earlier[0] for earlier, later in zip(found, found[1:], strict=False))
    assert all(b - a <= length_s + 1e-5 for a, b in found)
    assert all(b - a == pytest.approx(length_s) for a, b in found) or len(found) == 1


@settings(deadline=None)
@given(st.floats(0, 1000), SECONDS, st.integers(1, 64))
def test_frame_times_are_centres_of_equal_parts(start_s: float, length_s: float, n: int) -> None:
    times = frame_times(start_s, start_s + length_s, n)
    assert times.shape == (n,)
    assert times.dtype == np.float64
    edges = np.linspace(start_s, start_s + length_s, n + 1)
    np.testing.assert_allclose(times, (edges[1:] + edges[:-1]) / 2, atol=1e-6)
    assert start_s < times[0]
    assert times[-1] < start_s + length_s


@pytest.mark.parametrize(
    ("windows", "seconds"),
    [
        ([(0, 15)], [15]),
        ([(0, 15), (5, 20)], [10, 10]),
        ([(0, 15), (15, 30), (17, 32)], [15, 8.5, 8.5]),
        ([(0, 2), (0, 2), (0, 2)], [2 / 3, 2 / 3, 2 / 3]),
        ([(0, 0)], [1]),
        ([(0, 0), (0, 0)], [1, 1]),
        ([(0, 2), (10, 11)], [2, 1]),
    ],
)
def test_time_covered(windows, seconds):
    np.testing.assert_allclose(time_covered(windows), seconds)
