"""A bundle whose scores can be worked out by hand meets disturbed clips."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sound import read_wave
from tiny_bundle import write_tiny_bundle

from mmtraits import metrics
from mmtraits.data import manifest, synthetic
from mmtraits.evaluation import nuisance
from mmtraits.evaluation.contents import Change, Nuisance
from mmtraits.media.disturb import DEFAULT, Disturbance
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip

SOFTER = Disturbance(name="loudness", amount=-6)
DARKER = Disturbance(name="brightness", amount=0.7)
NOISY = Disturbance(name="white_noise", amount=10)
MISHEARD = Disturbance(name="word_errors", amount=0.3)
UNTOUCHED = Change(mean=0.0, median_abs=0.0, p95_abs=0.0)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(write_tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, ...]:
    """Twelve drawn speakers of five seconds: three windows each."""
    path = synthetic.write_corpus(tmp_path_factory.mktemp("corpus"), clips=12, seconds=5.0, workers=1)
    return manifest.read(path).clips


def one(found: list[Nuisance]) -> Nuisance:
    (only,) = found
    return only


def test_a_gain_halves_loudness_and_nothing_else(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    few = [replace(clip, transcript=None) for clip in clips[:3]]
    gain = Disturbance(name="loudness", amount=20 * np.log10(0.5))
    found = one(nuisance.sensitivity(predictor, few, disturbances=[gain]))
    assert (found.name, found.strength, found.stream, found.clips, found.lost) == (
        "loudness", "-6.0206 dB", "voice", 3, 0
    )  # fmt: skip
    assert found.traits["brightness"] == UNTOUCHED
    before = predictor.predict(few).values[:, 1].astype(np.float64)
    change = found.traits["loudness"]
    assert change.mean == pytest.approx(-before.mean() / 2, abs=1e-4)
    assert change.median_abs == pytest.approx(np.median(before) / 2, abs=1e-4)
    assert change.p95_abs == pytest.approx(np.percentile(before, 95) / 2, abs=1e-4)


def test_darker_pictures_darken_the_face_and_nothing_else(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    few = [replace(clip, transcript=None) for clip in clips[:3]]
    found = one(nuisance.sensitivity(predictor, few, disturbances=[DARKER]))
    before = predictor.predict(few).values[:, 0].astype(np.float64)
    assert found.traits["brightness"].mean == pytest.approx(-0.3 * before.mean(), rel=0.1)
    assert found.traits["loudness"] == UNTOUCHED


def test_results_do_not_depend_on_order_or_threads(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    few, wanted = [replace(clip, end_s=2.0) for clip in clips[:4]], [NOISY, MISHEARD, DARKER]
    labels = np.linspace(0, 1, 8).reshape(4, 2)
    plain = nuisance.sensitivity(predictor, few, labels, disturbances=wanted, workers=1)
    assert [n.name for n in plain] == ["white_noise", "word_errors", "brightness"]
    assert plain == nuisance.sensitivity(predictor, few[::-1], labels[::-1], disturbances=wanted, workers=3)
    renamed = [replace(clip, id=f"x{clip.id}") for clip in few]
    assert plain[0] != nuisance.sensitivity(predictor, renamed, labels, disturbances=wanted[:1])[0]


def test_the_default_list_touches_every_stream(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    found = nuisance.sensitivity(predictor, clips[:1])
    assert [(n.name, n.strength, n.stream) for n in found] == [(d.name, d.strength, d.stream) for d in DEFAULT]
    assert all(n.clips == 1 and n.lost == 0 for n in found)


def test_concordance_of_labelled_clips(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    clips = tuple(replace(clip, end_s=2.0) for clip in clips)
    before = predictor.predict(clips).values.astype(np.float64)
    labels = before + 0.02 * np.random.default_rng(0).normal(size=before.shape)
    labels[:3, 0] = np.nan  # nine are left
    found = one(nuisance.sensitivity(predictor, clips, labels, disturbances=[SOFTER]))
    few, all_of_them = found.traits["brightness"], found.traits["loudness"]
    assert (few.ccc_before, few.ccc, few.ccc_retained) == (None, None, None)
    assert all_of_them.ccc_before == pytest.approx(metrics.ccc(labels[:, 1], before[:, 1]), abs=1e-6)
    assert all_of_them.ccc is not None and all_of_them.ccc < all_of_them.ccc_before
    assert all_of_them.ccc_retained == pytest.approx(all_of_them.ccc / all_of_them.ccc_before)
    upside_down = one(nuisance.sensitivity(predictor, clips, 1 - labels, disturbances=[SOFTER])).traits["loudness"]
    assert upside_down.ccc_before is not None and upside_down.ccc_before < 0
    assert upside_down.ccc_retained is None


def test_clips_without_the_stream_are_skipped(predictor: Predictor, clips: tuple[Clip, ...], tmp_path: Path) -> None:
    mixed = [
        clips[0],
        Clip(id="deaf", text="hello world hello world"),
        Clip(id="missing", video=tmp_path / "missing.mp4", transcript=clips[1].transcript),
        Clip(id="gone", video=tmp_path / "gone.mp4"),
        Clip(id="nothing"),
    ]
    found = nuisance.sensitivity(predictor, mixed, disturbances=[DARKER, SOFTER, MISHEARD])
    assert [n.clips for n in found] == [1, 1, 3]
    none = nuisance.sensitivity(predictor, mixed[3:], disturbances=[DARKER])
    assert none[0].clips == 0 and none[0].traits["loudness"] == Change(mean=None, median_abs=None, p95_abs=None)
    assert [n.clips for n in nuisance.sensitivity(predictor, [], disturbances=[DARKER])] == [0]


def test_lost_streams_are_counted(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    mute = Disturbance(name="loudness", amount=-60)
    found = one(nuisance.sensitivity(predictor, clips[:2], disturbances=[mute]))
    assert (found.clips, found.lost) == (2, 2)
    assert found.traits["loudness"].mean is not None  # the other streams still speak
    alone = [replace(clip, video=None, audio=clip.video, transcript=None) for clip in clips[:2]]
    found = one(nuisance.sensitivity(predictor, alone, disturbances=[mute]))
    assert (found.clips, found.lost) == (2, 2)
    assert found.traits["loudness"] == Change(mean=None, median_abs=None, p95_abs=None)


def test_sound_beside_the_video_is_what_is_disturbed(
    predictor: Predictor, clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    other = replace(clips[0], audio=clips[6].video, transcript=None)
    found = one(nuisance.sensitivity(predictor, [other], disturbances=[SOFTER]))
    assert found.traits["brightness"] == UNTOUCHED
    assert clips[6].video is not None
    level = np.abs(read_wave(clips[6].video, 8000)).mean()
    assert found.traits["loudness"].mean == pytest.approx((10 ** (-6 / 20) - 1) * level, rel=0.02)


def test_a_stretch_of_a_file_keeps_its_times(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    cut = replace(clips[0], start_s=1.0, end_s=2.5, transcript=None)
    softer, darker = nuisance.sensitivity(predictor, [cut], disturbances=[SOFTER, DARKER])
    bright, loud = predictor.predict([cut]).values[0].astype(np.float64)
    assert softer.traits["loudness"].mean == pytest.approx((10 ** (-6 / 20) - 1) * loud, abs=1e-4)
    assert darker.traits["brightness"].mean == pytest.approx(-0.3 * bright, rel=0.1)


def test_written_anew_a_clip_ends_where_it_ended(predictor: Predictor, clips: tuple[Clip, ...], tmp_path: Path) -> None:
    """A file written anew may be a frame longer, and would then be looked at elsewhere."""
    base = predictor.load(clips[0])
    for disturbance in (SOFTER, DARKER, MISHEARD):
        written = nuisance._written(clips[0], base, disturbance, tmp_path)
        assert (written.start_s, written.end_s) == (0.0, base.duration_s)


def test_long_files_are_left_out(
    predictor: Predictor, clips: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nuisance, "LONGEST_S", 4.0)
    assert one(nuisance.sensitivity(predictor, clips[:1], disturbances=[SOFTER])).clips == 0
    short = replace(clips[0], end_s=3.5)
    assert one(nuisance.sensitivity(predictor, [short], disturbances=[SOFTER])).clips == 1


def test_clips_are_chosen_evenly_by_id_and_progress_is_told(predictor: Predictor) -> None:
    texts = [Clip(id=f"c{n:02d}", text=" ".join(["hello"] * (1 + n % 5))) for n in range(50)]
    told: list[tuple[int, int]] = []
    found = one(
        nuisance.sensitivity(
            predictor, texts, disturbances=[MISHEARD], most=7, progress=lambda done, of: told.append((done, of))
        )
    )
    assert found.clips == 7
    assert told == [(n, 7) for n in range(1, 8)]
    assert nuisance._evenly(list(range(50)), 7) == [0, 8, 16, 24, 33, 41, 49]
    assert nuisance._evenly([3, 4], 7) == [3, 4]
    assert nuisance._evenly([], 7) == []


def test_nothing_is_left_behind(
    predictor: Predictor, clips: tuple[Clip, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    nuisance.sensitivity(predictor, clips[:1], disturbances=[SOFTER, DARKER, MISHEARD])
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_shape_are_named(predictor: Predictor, clips: tuple[Clip, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels \(2, 2\) beside 12 clips and 2 traits; expected \(N, K\)"):
        nuisance.sensitivity(predictor, clips, np.zeros((2, 2)))


def test_texts_of_features_alone_are_no_clips(predictor: Predictor) -> None:
    given = [Clip(id="a", features={"voice": "voice.npz#a"})]
    assert [n.clips for n in nuisance.sensitivity(predictor, given, disturbances=[MISHEARD, SOFTER])] == [0, 0]


def test_words_of_clips_that_have_no_medium(predictor: Predictor) -> None:
    """Each real token adds .01; words that are left out or added change their number."""
    said = [Clip(id=f"c{n:02d}", text="hello world hello world") for n in range(40)]
    (found,) = nuisance.sensitivity(predictor, said, disturbances=[MISHEARD])
    change = found.traits["brightness"]
    assert found.clips == 40 and change == found.traits["loudness"]
    assert change.p95_abs is not None and 0.0 < change.p95_abs < 0.03
