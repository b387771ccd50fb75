"""Finding, following and aligning the scored face: on drawn faces whose landmarks are known, and on real clips."""

from __future__ import annotations

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from mmtraits.errors import ConfigError
from mmtraits.media import faces
from mmtraits.media.faces import TARGETS, Face, FaceFinder, align, residual, track
from mmtraits.media.puppet import Look, Pose, Puppet

POSE = Pose(mouth=0.2, brows=0.1, lids=0.05, x_px=160.0, y_px=105.0, eyes_px=40.0, tilt_rad=0.0)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture(scope="module")
def puppet() -> Puppet:
    return Puppet(Look.random(np.random.default_rng(1)))


def eyes_of(pose: Pose) -> np.ndarray:
    arm = pose.eyes_px / 2 * np.array([np.cos(pose.tilt_rad), np.sin(pose.tilt_rad)])
    middle = np.array([pose.x_px, pose.y_px])
    return np.stack([middle - arm, middle + arm])


def moving(count: int) -> list[Pose]:
    return [replace(POSE, x_px=120 + 80 * k / (count - 1), tilt_rad=0.1 * np.sin(k)) for k in range(count)]


# ---------------------------------------------------------------------------------------------------- one frame


@pytest.mark.parametrize("change", [{}, {"tilt_rad": 0.2}, {"x_px": 90.0, "eyes_px": 32.0}, {"mouth": 1.0}])
def test_landmarks_are_where_they_were_drawn(finder, puppet, change):
    pose = replace(POSE, **change)
    (face,) = finder.detect(puppet.draw(pose))
    assert face.score >= 0.9
    assert residual(face.landmarks) <= 0.045
    np.testing.assert_allclose(face.landmarks[:2], eyes_of(pose), atol=0.1 * pose.eyes_px)
    x1, y1, x2, y2 = face.box
    assert x1 < face.landmarks[:, 0].min() and x2 > face.landmarks[:, 0].max()
    assert y1 < face.landmarks[:, 1].min() and y2 > face.landmarks[:, 1].max()
    assert face.area_px == pytest.approx((x2 - x1) * (y2 - y1))


def test_a_larger_frame_gives_the_same_face(finder, puppet):
    small = puppet.draw(POSE)
    large = cv2.resize(small, (1280, 960), interpolation=cv2.INTER_CUBIC)
    one, four = finder.detect(small)[0], finder.detect(large)[0]
    np.testing.assert_allclose(four.landmarks / 4, one.landmarks, atol=2.0)


def test_what_is_no_face_is_not_found(finder, puppet):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320]
    stripes = (127 + 120 * np.sin(x / 5 + y / 9))[..., None].repeat(3, 2).astype(np.uint8)
    for frame in (np.zeros((240, 320, 3), np.uint8), rng.integers(0, 256, (240, 320, 3), np.uint8), stripes):
        assert finder.detect(frame) == []
    assert finder.detect(puppet.draw(replace(POSE, x_px=-1e4))) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (11, 11), (12, 12), (500, 13)])
def test_frames_of_any_size(finder, size):
    assert finder.detect(np.full((*size, 3), 128, np.uint8)) == []


def test_the_gate(puppet):
    frame = puppet.draw(POSE)
    face = FaceFinder(min_score=0, max_residual=1).detect(frame)[0]
    assert FaceFinder(min_score=face.score, max_residual=1).detect(frame)
    assert not FaceFinder(min_score=face.score + 1e-6, max_residual=1).detect(frame)
    worst = residual(face.landmarks)
    assert FaceFinder(min_score=0, max_residual=worst + 1e-6).detect(frame)
    assert not FaceFinder(min_score=0, max_residual=worst - 1e-6).detect(frame)


def test_smallest_face(puppet):
    frame = puppet.draw(replace(POSE, eyes_px=24.0))
    assert FaceFinder(smallest=0.1).detect(frame)
    assert not FaceFinder(smallest=0.5).detect(frame)


def test_weights_that_are_not_there(monkeypatch):
    monkeypatch.setattr(faces, "_NETWORKS", "package:no_such_package")
    with pytest.raises(ConfigError, match="package:no_such_package/pnet.onnx: no package 'no_such_package'"):
        FaceFinder()


# ---------------------------------------------------------------------------------------------------- alignment


def test_residual_ignores_similarity_and_sees_the_rest():
    turn = 37.0 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    assert residual(TARGETS @ turn.T + [300, -20]) == pytest.approx(0, abs=1e-12)
    assert residual(TARGETS * [100, 130]) > 0.02
    assert residual(TARGETS[[1, 0, 2, 3, 4]]) > 0.045
    assert residual(np.zeros((5, 2))) > 0.045


def test_align_puts_landmarks_on_the_targets():
    landmarks = np.array([250.0, 180.0]) + 150 * TARGETS @ np.array(
        [[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]]
    )
    frame = np.zeros((480, 640, 3), np.uint8)
    for number, (x, y) in enumerate(landmarks):
        cv2.circle(frame, (round(x * 16), round(y * 16)), 5 * 16, (50 * (number + 1),) * 3, -1, cv2.LINE_AA, 4)
    crop = align(frame, landmarks, 64)
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
    y, x = np.mgrid[:64, :64] + 0.5
    for target in TARGETS * 64:
        near = (np.hypot(x - target[0], y - target[1]) < 5) * crop[..., 0].astype(float)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        np.testing.assert_allclose(centre, target, atol=0.2)


def test_align_keeps_colours_and_order():
    frame = np.tile(np.array([200, 100, 50], np.uint8), (100, 120, 1))
    crop = align(frame, 20 + 60 * TARGETS, 32)
    assert crop.shape == (32, 32, 3)
    assert (crop == [200, 100, 50]).all()


@pytest.mark.parametrize("side_px", [150, 400, 1500])
def test_align_does_not_alias(side_px):
    """Lines one pixel wide average to grey; an aliased warp keeps or beats them."""
    frame = np.zeros((side_px + 20, side_px + 20, 3), np.uint8)
    frame[:, ::2] = 255
    crop = align(frame, 10 + side_px * TARGETS)
    assert np.abs(crop.astype(float) - 127.5).max() < 26


def test_a_face_larger_than_any_crop_is_shrunk_first(puppet):
    small = puppet.draw(POSE)
    large = cv2.resize(small, None, fx=10, fy=10, interpolation=cv2.INTER_NEAREST)
    landmarks = np.array([[140.0, 105], [180, 105], [160, 125], [144, 144], [176, 144]])
    one, ten = align(small, landmarks), align(large, (landmarks + 0.5) * 10 - 0.5)
    assert np.abs(one.astype(float) - ten).mean() < 3


def test_align_beyond_the_frame_repeats_its_border():
    frame = np.full((40, 40, 3), 90, np.uint8)
    assert (align(frame, 100 * TARGETS - 30) == 90).all()


# ---------------------------------------------------------------------------------------------------- over time


def test_track_follows_between_detections(finder, puppet):
    poses = moving(16)
    found = track(finder, [puppet.draw(pose) for pose in poses], detections=4).landmarks
    for pose, landmarks in zip(poses, found, strict=True):
        assert landmarks is not None
        np.testing.assert_allclose(landmarks[:2], eyes_of(pose), atol=0.12 * pose.eyes_px)


def test_track_runs_the_detector_on_few_frames(puppet, monkeypatch):
    finder, seen = FaceFinder(), []
    detect = FaceFinder.detect
    monkeypatch.setattr(FaceFinder, "detect", lambda self, rgb: seen.append(rgb) or detect(self, rgb))
    frames = [puppet.draw(pose) for pose in moving(20)]
    assert len(track(finder, frames).landmarks) == 20
    assert len(seen) == 8
    assert seen[0] is frames[0] and seen[-1] is frames[-1]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_track_of_few_frames(finder, puppet, count):
    found = track(finder, [puppet.draw(POSE)] * count).landmarks
    assert len(found) == count
    assert all(landmarks is not None for landmarks in found)


def test_frames_without_the_face_are_none(finder, puppet):
    gone = replace(POSE, x_px=-1e4)
    frames = [puppet.draw(POSE if 8 <= k < 16 else gone) for k in range(24)]
    found = [landmarks is not None for landmarks in track(finder, frames).landmarks]
    assert found == [8 <= k < 16 for k in range(24)]
    assert track(finder, frames[:8]).landmarks == [None] * 8


def test_interpolation_goes_by_time(puppet):
    """Where the last network refuses, the landmarks lie between the neighbours by time, not by count."""
    finder = FaceFinder()
    frames = [puppet.draw(replace(POSE, x_px=120.0)), puppet.draw(POSE), puppet.draw(replace(POSE, x_px=200.0))]
    finder.follow = lambda rgb, box: None
    first, between, last = track(finder, frames, [0.0, 1.0, 4.0], detections=2).landmarks
    np.testing.assert_allclose(between, 0.75 * first + 0.25 * last)


def test_the_larger_and_longer_face_is_scored(finder):
    left, right = (Puppet(Look.random(np.random.default_rng(seed))) for seed in (1, 4))
    large, small = replace(POSE, eyes_px=42.0), replace(POSE, eyes_px=30.0)
    both = [np.concatenate([left.draw(small), right.draw(large)], axis=1) for _ in range(6)]
    assert all(landmarks[:, 0].mean() > 320 for landmarks in track(finder, both).landmarks)
    left_only = [np.concatenate([left.draw(small), right.draw(replace(POSE, x_px=-1e4))], axis=1) for _ in range(18)]
    found = track(finder, both[:2] + left_only, detections=20).landmarks
    assert all(landmarks[:, 0].mean() < 320 for landmarks in found)


def test_neighbouring_detections_are_one_person():
    def face(x: float, side: float = 100.0) -> Face:
        return Face(np.array([x, 0, x + side, side]), 1.0, TARGETS * side + [x, 0])

    def chain(*detected: list[Face]) -> list[float | None]:
        return [found and float(found.box[0]) for found in faces._scored_person(detected)]

    assert chain([face(10)], [face(60), face(400, 120)], [], [face(130)], [face(700)]) == [10, 60, None, 130, None]
    assert chain([face(10)], [face(10)], [face(130)]) == [10, 10, None]  # farther than a face: somebody else
    assert chain([face(10, 40), face(200, 100)], [face(10, 40)], [face(10, 40)]) == [200, None, None]  # area, not count
    assert chain([], []) == [None, None]


# ---------------------------------------------------------------------------------------------------- real clips

REAL = {  # of 16 frames spread over the clip: how many show the face (seen by eye)
    "speaking/*.mpg": (16, 16),
    "edge/carphone_pristine.mp4": (15, 16),
    "edge/single_face.mp4": (16, 16),
    "edge/WolfgangLanger_Pexels.mp4": (14, 16),
    "edge/noface_face.mov": (5, 8),
    "edge/nasa_13013.mp4": (0, 0),
    "edge/testsrc2*": (0, 0),
    "edge/av1_video.mkv": (0, 0),
}


@pytest.mark.parametrize("pattern", REAL)
def test_real_clips(finder, real_data, pattern):
    paths = sorted((real_data / "clips").glob(pattern))
    assert paths
    least, most = REAL[pattern]
    for path in paths:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames = [frames[k] for k in np.linspace(0, len(frames) - 1, 16).round().astype(int)]
        found = [landmarks for landmarks in track(finder, frames).landmarks if landmarks is not None]
        assert least <= len(found) <= most, f"{path.name}: {len(found)}"
        assert all(residual(landmarks) <= 0.045 for landmarks in found)
