"""Ranges of the unlike-training flag, from a corpus of features, texts and sound."""

from __future__ import annotations

import logging
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import SCHEMA, member, settings

from mmtraits import config, ranges
from mmtraits.data.manifest import Manifest
from mmtraits.schema import Clip

STREAMS = ("text", "emotion")
WORDS = ("i", "like", "my", "work", "because", "you", "meet", "many", "people", "and", "no", "two", "days", "are")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ranges")
    draw = np.random.default_rng(0)
    np.savez(root / "emotion.npz", **{f"c{n}": draw.normal(3, 2, 5).astype(np.float32) for n in range(150)})
    return root


def manifest(folder: Path) -> Manifest:
    draw = np.random.default_rng(1)
    clips = tuple(
        Clip(id=f"c{n}", text=" ".join(draw.choice(WORDS, 12)), features={"emotion": f"emotion.npz#c{n}"})
        for n in range(150)
    )
    labels = draw.uniform([0, 1, -2], [1, 7, 2], (150, 3))
    return Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=clips, labels=labels, splits=(None,) * 150)


def of(folder: Path, streams=STREAMS):
    """A config with its own cache, and a member fitted as training does."""
    data = settings(streams, "mean_pool", "linear").model_dump(mode="json")
    found = config.from_data(data | {"data": {"cache": str(folder / "cache")}})
    made = member(found)
    if "emotion" in streams:
        made.encoders["emotion"].standardize.mean.fill_(3)
        made.encoders["emotion"].standardize.std.fill_(2)
    return found, [made]


@pytest.fixture(scope="module")
def fitted(folder):
    settings_, members = of(folder)
    return ranges.fit(settings_, manifest(folder), range(150), members)


def test_features_and_texts_give_distances_and_language(fitted):
    """Text of `pool: none` is not standardised, so it has no distance; nothing was decoded, so no duration."""
    assert list(fitted.limits) == ["language", "emotion_distance"]
    assert fitted.rows == {"language": 150, "emotion_distance": 150}
    assert 1 < fitted.limits["emotion_distance"][1] < 3  # root mean square of five standard normals
    assert len(fitted.vocabulary.everywhere) == 2  # [CLS], [SEP]
    assert len(fitted.vocabulary.known) == len(set(WORDS))


def test_outliers_are_flagged(fitted):
    assert fitted.unlike({"emotion_distance": 9.0, "language": 0.0}) == "emotion_distance"
    assert (
        fitted.unlike({"emotion_distance": 1.0, "language": fitted.vocabulary.familiarity(np.arange(40))}) == "language"
    )


def test_only_the_rows_of_training_count(folder):
    settings_, members = of(folder)
    found = ranges.fit(settings_, manifest(folder), range(60), members)
    assert found.rows == {"language": 60, "emotion_distance": 60}


def test_any_order_of_rows_gives_the_same(folder, fitted):
    settings_, members = of(folder)
    assert ranges.fit(settings_, manifest(folder), range(149, -1, -1), members).to_dict() == fitted.to_dict()


def test_too_few_rows_give_no_ranges(folder):
    settings_, members = of(folder)
    assert ranges.fit(settings_, manifest(folder), range(20), members) is None


def test_media_give_duration_and_loudness(folder):
    """Sixty clips of 1 to 2 s of one file; the sample is spread over all of them."""
    rate = 4000
    tone = 0.1 * np.sin(np.arange(8 * rate) * 0.6)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setparams((1, 2, rate, len(tone), "NONE", ""))
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    clips = tuple(
        Clip(id=f"s{n:02d}", audio=folder / "tone.wav", start_s=n / 20, end_s=n / 20 + 1 + n / 59) for n in range(60)
    )
    own = replace(manifest(folder), clips=clips, labels=np.full((60, 3), 0.5), splits=(None,) * 60)
    settings_, members = of(folder, ("voice",))
    found = ranges.fit(settings_, own, range(60), members)
    assert list(found.limits) == ["duration", "loudness", "voice_distance"]
    low, high = found.limits["duration"]
    assert 0.9 < low < 1 and 2 < high < 2.11
    assert found.limits["loudness"][0] < 20 * np.log10(0.1 / np.sqrt(2)) < found.limits["loudness"][1]


def test_features_that_are_gone_leave_the_other_checks(folder, tmp_path, caplog):
    settings_, members = of(folder)
    moved = replace(manifest(folder), path=tmp_path / "clips.csv")
    with caplog.at_level(logging.WARNING):
        found = ranges.fit(settings_, moved, range(150), members)
    assert list(found.limits) == ["language"]
    assert "no distances from training, whose features cannot be read" in caplog.text
