"""Series whose peaks, speed, jerk and symmetry are known."""

from __future__ import annotations

import numpy as np
import pytest

from mmtraits.media.features import behaviour
from mmtraits.media.features.behaviour import (
    asymmetry,
    diversity,
    expressivity,
    kinematics,
    peaks,
    relative_motion,
    smoothness,
    summary,
    uniform,
)  # fmt: skip

FPS, SECONDS, AMPLITUDE = 50.0, 40, 3.0
TIME_S = np.arange(int(SECONDS * FPS)) / FPS


def sine(hz: float, amplitude: float = AMPLITUDE) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * TIME_S)


def test_a_sine_has_a_peak_each_period():
    found = expressivity(sine(0.5), FPS, 2.0)
    assert found["frequency"] == pytest.approx(30)
    assert found["density"] == pytest.approx(1, abs=0.02)
    attenuated = AMPLITUDE * np.sinc(0.5 * 0.5)  # the mean over a quarter of the scale
    assert found["mean"] == pytest.approx(attenuated, rel=0.02)
    assert found["sd"] < 0.02
    assert found["min"] <= found["mean"] <= found["max"]


def test_a_scale_hears_what_is_slow_enough_for_it():
    both = sine(0.125) + sine(2.0, 2.5)
    assert expressivity(both, FPS, 0.5)["frequency"] > 100
    assert expressivity(both, FPS, 8.0)["frequency"] == pytest.approx(7.5, abs=0.1)


def test_without_peaks_all_is_zero():
    for flat in (np.ones(500), np.linspace(0, 1, 500)):
        assert set(expressivity(flat, FPS, 1.0).values()) == {0.0}


def test_peaks_by_hand():
    signal = np.array([0, 0, 4, 0, 0, 1.1, 1.1, 0, 0, 0.5, 0, 0])
    np.testing.assert_array_equal(peaks(signal, 2), [2, 5])  # a plateau once; 0.5 is less than a quarter of the range
    np.testing.assert_array_equal(peaks(signal, 4), [2])


def test_motion_of_a_sine():
    hz = 0.5
    omega, found = 2 * np.pi * hz, kinematics(sine(hz)[:, None], FPS)
    assert found["range"] == pytest.approx(2 * AMPLITUDE, rel=1e-3)
    assert found["path"] == pytest.approx(4 * AMPLITUDE * hz * SECONDS, rel=5e-3)
    assert found["speed_max"] == pytest.approx(AMPLITUDE * omega, rel=1e-2)
    assert found["speed_mean"] == pytest.approx(AMPLITUDE * omega * 2 / np.pi, rel=1e-2)
    assert found["acceleration_mean"] == pytest.approx(AMPLITUDE * omega**2 * 2 / np.pi, rel=1e-2)


def test_smoothness_of_a_sine_and_that_it_knows_no_unit():
    hz = 0.5
    omega, found = 2 * np.pi * hz, smoothness(sine(hz)[:, None], FPS)
    assert found["jerk_mean"] == pytest.approx(AMPLITUDE * omega**3 * 2 / np.pi, rel=1e-2)
    assert found["log_dimensionless_jerk"] == pytest.approx(-np.log((omega * SECONDS) ** 4 / 2), rel=1e-2)
    tenfold = smoothness(10 * sine(hz)[:, None], FPS)
    assert tenfold["log_dimensionless_jerk"] == pytest.approx(found["log_dimensionless_jerk"])
    rough = smoothness((sine(hz) + np.random.default_rng(0).normal(0, 0.1, len(TIME_S)))[:, None], FPS)
    assert rough["log_dimensionless_jerk"] < found["log_dimensionless_jerk"] - 1
    assert smoothness(np.ones((50, 2)), FPS) == {"jerk_mean": 0.0, "log_dimensionless_jerk": 0.0}


def test_a_point_on_a_circle():
    circle = np.stack([np.cos(TIME_S), np.sin(TIME_S)], 1)[: int(2 * np.pi * FPS)]
    assert kinematics(circle, FPS)["speed_mean"] == pytest.approx(1, rel=1e-3)
    distances = relative_motion(circle)
    assert distances["distance_min"] == pytest.approx(1, abs=0.01)
    assert distances["distance_sd"] < 0.01
    from_first = relative_motion(circle, "first")
    assert from_first["distance_min"] == 0
    assert from_first["distance_max"] == pytest.approx(2, rel=1e-3)


def test_diversity():
    one = np.stack([sine(1.0), np.zeros_like(TIME_S), np.zeros_like(TIME_S)], 1)
    assert diversity(one, FPS, 0.02) == pytest.approx((0, 0))
    alike = np.stack([sine(1.0)] * 3, 1)
    overall, framewise = diversity(alike, FPS, 0.02)
    assert overall == pytest.approx(1)
    assert framewise == pytest.approx(1, abs=0.01)
    in_turn = np.stack([np.where(n == TIME_S % 3 // 1, 1.0, 0.0) for n in range(3)], 1)
    overall, framewise = diversity(in_turn, FPS, 0.02)
    assert overall > 0.99
    assert framewise < 0.05


def face() -> np.ndarray:
    """A mirror-symmetric arrangement of the 68 points."""
    draw = np.random.default_rng(0)
    points = draw.normal(size=(68, 2))
    order = behaviour._mirror_order()
    return (points + points[order] * [-1, 1]) / 2


def test_mirrored_pairs_are_pairs():
    order = behaviour._mirror_order()
    np.testing.assert_array_equal(order[order], np.arange(68))
    assert [n for n in range(68) if order[n] == n] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_asymmetry_ignores_place_size_and_roll():
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for seen in (face(), 30 * face() @ turn.T + [400, 200]):
        assert all(errors.max() < 1e-9 for errors in asymmetry(seen[None]).values())


def test_asymmetry_finds_the_region():
    odd = face()
    odd[48:55, 1] += 0.5  # a mouth's upper lip moved alike on both sides stays symmetric
    assert asymmetry(odd[None])["mouth"][0] < 1e-9
    odd[48, 1] += 2.0
    errors = asymmetry(odd[None])
    assert max(errors, key=lambda region: float(errors[region][0])) == "mouth"
    assert errors["eye"][0] < errors["overall"][0] < errors["mouth"][0]


def test_summary_names_everything_it_says():
    signals = np.stack([sine(0.5), sine(1.0)], 1)
    found = summary(signals, ("AU12_r", "pose_Rx"), FPS)
    assert found is not None
    assert len(found.names) == len(set(found.names)) == len(found.units) == len(found.values) == 2 * 29 + 6
    assert np.isfinite(found.values).all()
    named = dict(zip(found.names, found.values.tolist(), strict=True))
    assert named["AU12_r_peak_frequency_2s"] == pytest.approx(30)
    assert named["pose_Rx_peak_frequency_0.5s"] == pytest.approx(60, abs=2)
    assert named["AU12_r_range"] == pytest.approx(2 * AMPLITUDE, rel=1e-3)


def test_landmarks_give_asymmetry_and_are_no_signals():
    names = tuple(f"{axis}_{n}" for axis in "xy" for n in range(68))
    series = np.tile(face().T.reshape(1, -1), (20, 1))
    found = summary(np.concatenate([series, sine(1.0)[:20, None]], 1), (*names, "AU01_r"), FPS)
    assert found is not None
    assert sum(name.startswith("asymmetry_") for name in found.names) == 3 * len(behaviour.REGIONS)
    assert not any(name.startswith(("x_", "y_")) for name in found.names)


def test_short_and_broken_series():
    assert summary(np.zeros((7, 1)), ("a",), FPS) is None
    found = summary(np.zeros((8, 1)), ("a",), FPS)
    assert found is not None
    assert not found.values.any()
    with pytest.raises(ValueError, match=r"series \(9, 2\) at 50.0 fps; expected finite \(T, 1\)"):
        summary(np.zeros((9, 2)), ("a",), FPS)
    with pytest.raises(ValueError, match="expected finite"):
        summary(np.full((9, 1), np.nan), ("a",), FPS)


def test_uneven_times_become_even():
    times_s = np.array([0.0, 0.1, 0.4, 0.5])
    np.testing.assert_allclose(uniform(times_s[:, None] * 2, times_s, 10.0)[:, 0], np.arange(6) / 5)
    with pytest.raises(ValueError, match="times do not rise"):
        uniform(np.zeros((2, 1)), np.array([1.0, 1.0]), 10.0)
