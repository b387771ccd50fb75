"""Arrays to mp4 and back."""

from __future__ import annotations

from pathlib import Path

import clock
import numpy as np
import pytest
from sound import read_wave

from mmtraits.media.probe import opened, probe
from mmtraits.media.video import Health, exactly, read
from mmtraits.media.write import write_video


def test_frames_and_sound_come_back(tmp_path: Path) -> None:
    path, sound = tmp_path / "a.mp4", clock.wave(0, 2, 22050)
    write_video(path, (clock.picture(k) for k in range(50)), 25, sound, 22050)
    info = probe(path)
    assert (info.width_px, info.height_px, info.fps, info.sample_rate) == (128, 96, 25.0, 22050)
    assert info.duration_s == pytest.approx(2.0, abs=0.05)
    with opened(path) as media:
        found = list(read(media, wanted=[0.02, 0.5, 1.99], sizes=[exactly(128, 96)], health=Health()))
    assert [clock.number(picture.images[0]) for picture in found] == [0, 12, 49]
    assert np.abs(found[1].images[0].astype(int) - clock.picture(12)).mean() < 4
    heard = read_wave(path, 22050)[: len(sound)]
    lags = [float(np.dot(heard[200:-200], np.roll(sound, lag)[200:-200])) for lag in range(-5, 6)]
    assert int(np.argmax(lags)) == 5  # to the sample
    np.testing.assert_allclose(heard[4000:20000], sound[4000:20000], atol=0.03)


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_sound_may_be_shorter_or_longer_than_the_picture(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, [clock.picture(k) for k in range(10)], 10, clock.wave(0, seconds, 16000), 16000)
    assert len(read_wave(path, 16000)) == pytest.approx(seconds * 16000, abs=1100)


def test_picture_alone_and_options(tmp_path: Path) -> None:
    sizes = []
    for name, crf in [("a.mp4", "10"), ("b.mp4", "45")]:
        write_video(tmp_path / name, [clock.picture(k) for k in range(20)], 29.97, options={"crf": crf})
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[0] > sizes[1]
    info = probe(tmp_path / "a.mp4")
    assert not info.has_audio
    assert info.fps == pytest.approx(29.97, abs=0.01)


@pytest.mark.parametrize(
    "image", [np.zeros((96, 127, 3), np.uint8), np.zeros((96, 128), np.uint8), np.zeros((96, 128, 3), np.float32)]
)
def test_other_arrays_are_refused(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frame: .*expected uint8 \(H, W, 3\) with even H and W"):
        write_video(tmp_path / "a.mp4", [image], 25)


def test_a_change_of_size_and_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frame: 64x64; expected 128x96 as the first one"):
        write_video(tmp_path / "a.mp4", [clock.picture(0), np.zeros((64, 64, 3), np.uint8)], 25)
    with pytest.raises(ValueError, match="no frames; expected at least one"):
        write_video(tmp_path / "b.mp4", [], 25)
