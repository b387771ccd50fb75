from __future__ import annotations

import hashlib
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest
from tiny_bundle import GRAPH, SCHEMA, SPECS, write_tiny_bundle

from mmtraits import runtime
from mmtraits.errors import BundleError, ConfigError
from mmtraits.heard import Heard
from mmtraits.media.assemble import Window
from mmtraits.media.load import LoadedClip
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, Raw
from mmtraits.unlike import Ranges, Vocabulary


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(bundle, threads=1)


def frames(level: int, n: int = 4) -> Raw:
    return Raw(np.full((n, 8, 8, 3), level, np.uint8), np.ones(n, bool))


def wave(level: float, n: int = 100) -> Raw:
    return Raw(np.full(n, level, np.float32), np.ones(n, bool))


def window(start_s=0.0, end_s=2.0, **streams: Raw) -> Window:
    absent = {name: spec.empty() for name, spec in SPECS.items()}
    return Window(start_s=start_s, end_s=end_s, streams=absent | streams)


def clip(*windows: Window, reasons=(), details=None) -> LoadedClip:
    return LoadedClip(windows=windows, reasons=reasons, duration_s=windows[-1].end_s, details=details or {})


def words(n: int) -> Raw:
    return Raw(np.ones(n, np.int64), np.ones(n, bool))


def one(predictor, loaded):
    return predictor.assess(["a"], [loaded])


def test_it_says_what_the_bundle_is(predictor, bundle):
    assert predictor.name == "tiny"
    assert predictor.schema == SCHEMA
    digest = hashlib.sha256((bundle / "tokenizer.json").read_bytes()).hexdigest()
    assert predictor.specs == SPECS | {"text": replace(SPECS["text"], tokenizer=f"tokenizer.json#sha256={digest}")}
    assert predictor.streams == ("face", "voice", "text")
    assert predictor.windowing.length_s == 2.0


def test_whole_clip_is_ok(predictor):
    scores = one(predictor, clip(window(face=frames(51), voice=wave(-0.5), text=words(3))))
    np.testing.assert_allclose(scores.values, [[0.23, 0.53]], atol=1e-6)
    assert scores.status == ("ok",)
    assert scores.reasons == ("",)
    assert scores.present.tolist() == [[True, True, True]]
    assert np.isnan(scores.lower).all() and np.isnan(scores.upper).all()


def test_a_missing_stream_degrades_and_is_not_read(predictor):
    hidden = Raw(np.full(50, np.nan, np.float32), np.zeros(50, bool))
    scores = one(predictor, clip(window(face=frames(51), voice=hidden), reasons=("no_transcript", "no_sound")))
    np.testing.assert_allclose(scores.values, [[0.2, 0.0]], atol=1e-6)
    assert scores.status == ("degraded",)
    assert scores.reasons == ("no_sound;no_transcript",)
    assert scores.present.tolist() == [[True, False, False]]


@pytest.mark.parametrize("reason", ["truncated", "text_truncated", "corrupt_packets"])
def test_a_partial_stream_degrades(predictor, reason):
    scores = one(predictor, clip(window(face=frames(51), voice=wave(0.1), text=words(1)), reasons=(reason,)))
    assert (scores.status, scores.reasons) == (("degraded",), (reason,))
    assert np.isfinite(scores.values).all()


@pytest.mark.parametrize(("found", "said"), [((), "no_modality"), (("no_face", "no_sound"), "no_face;no_sound")])
def test_nothing_present_fails_without_a_number(predictor, found, said):
    scores = one(predictor, clip(window(), reasons=found))
    assert np.isnan(scores.values).all() and np.isnan(scores.lower).all()
    assert (scores.status, scores.reasons) == (("failed",), (said,))


def test_vectors_given_for_a_clip_without_media_are_a_modality(predictor):
    scores = one(predictor, clip(window(face=frames(51)), reasons=("no_modality", "no_sound")))
    assert (scores.status, scores.reasons) == (("degraded",), ("no_sound",))


def test_a_score_that_is_no_number_fails_alone(predictor):
    bad = clip(window(voice=wave(np.nan)))
    good = clip(window(voice=wave(0.5)))
    scores = predictor.assess(["bad", "good"], [bad, good])
    assert scores.status == ("failed", "degraded")
    assert scores.reasons[0] == "non_finite"
    assert np.isnan(scores.values[0]).all()
    np.testing.assert_allclose(scores.values[1], [0, 0.5], atol=1e-6)


def test_windows_are_averaged_by_the_time_they_cover(predictor):
    quiet, loud = window(0, 2, voice=wave(0.2)), window(1, 3, voice=wave(0.8))  # 1.5 s each
    silent = window(3, 9)
    scores = one(predictor, clip(quiet, loud, silent, reasons=("no_sound",)))
    np.testing.assert_allclose(scores.values, [[0, 0.5]], atol=1e-6)
    assert scores.present.tolist() == [[False, True, False]]


def test_alone_in_a_batch_and_padded_are_equal(predictor):
    clips = [clip(window(face=frames(10 * n, n), voice=wave(0.1 * n, 10 * n), text=words(n))) for n in range(1, 6)]
    names = [str(n) for n in range(5)]
    together = predictor.assess(names, clips, batch=8)
    for batch in (1, 2, 3):
        np.testing.assert_allclose(predictor.assess(names, clips, batch=batch).values, together.values, atol=1e-6)


def test_no_clips_no_rows(predictor):
    scores = predictor.predict([])
    assert scores.values.shape == (0, 2)
    assert scores.present.shape == (0, 3)
    assert scores.status == ()


def test_predict_reads_clips(predictor):
    clips = [Clip(id=f"t{n}", text="hello " * n) for n in (1, 2, 9)]
    scores = predictor.predict(clips, batch=2)
    assert scores.clip_ids == ("t1", "t2", "t9")
    np.testing.assert_allclose(scores.values[:, 0], [0.01, 0.02, 0.06], atol=1e-6)  # cut at 6 ids
    assert scores.status == ("degraded",) * 3
    assert "text_truncated" in scores.reasons[2]
    assert "text_truncated" not in scores.reasons[1]


def test_a_missing_file_is_a_failed_row(predictor, tmp_path):
    scores = predictor.predict([tmp_path / "none.mp4"])
    assert scores.clip_ids == ("none.mp4",)
    assert scores.status == ("failed",)
    assert np.isnan(scores.values).all()


def test_a_graph_opened_later_is_opened_once_by_the_first_pass(bundle, predictor):
    loaded = clip(window(voice=wave(0.3)))
    later = Predictor(bundle, threads=1, later=True)
    assert (later.name, later.specs, later.windowing) == (predictor.name, predictor.specs, predictor.windowing)
    assert later._opened is None
    sessions: list[int] = []
    threads = [threading.Thread(target=lambda: sessions.append(id(later.open()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(sessions) == 8 and set(sessions) == {id(later._opened)}
    assert np.array_equal(one(later, loaded).values, one(predictor, loaded).values)
    with pytest.raises(ConfigError, match="device 'tpu'"):
        Predictor(bundle, device="tpu", later=True)


def test_one_predictor_serves_many_threads(predictor):
    clips = [clip(window(voice=wave(0.1 * n))) for n in range(1, 6)]
    expected = predictor.assess(["x"] * 5, clips).values
    wrong = []

    def work():
        for _ in range(20):
            if not np.allclose(predictor.assess(["x"] * 5, clips).values, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------------------------------------------- unlike training

RANGES = Ranges(
    limits={
        "duration": (1.0, 5.0),
        "face_share": (0.5, 1.0),
        "loudness": (-30.0, -10.0),
        "language": (-3.0, np.inf),
        "face_distance": (-np.inf, 4.0),
        "voice_distance": (-np.inf, 4.0),
        "text_distance": (-np.inf, 5.0),
    },
    vocabulary=Vocabulary(known=np.array([1]), everywhere=np.zeros(0, np.int64), share=0.9),
)
USUAL = {"face_coverage": 1.0, "loudness_dbfs": -20.0}


@pytest.fixture(scope="module")
def judging(tmp_path_factory):
    return Predictor(write_tiny_bundle(tmp_path_factory.mktemp("judging"), ranges=RANGES), threads=1)


def whole(**changes: Raw) -> Window:
    return window(**({"face": frames(51), "voice": wave(0.1), "text": words(3)} | changes))


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        (clip(whole(), details=USUAL), ""),
        (clip(whole()), ""),  # features that were given: nothing decoded
        (clip(replace(whole(), end_s=9.0), details=USUAL), "duration"),
        (clip(whole(), details=USUAL | {"face_coverage": 0.1}), "face_share"),
        (clip(whole(), details=USUAL | {"loudness_dbfs": -3.0}), "loudness"),
        (clip(whole(text=Raw(np.full(5, 2), np.ones(5, bool))), details=USUAL), "language"),
        (clip(whole(text=Raw(np.array([1, 1, 1, 2, 2, 2, 2, 2]), np.arange(8) < 3)), details=USUAL), ""),  # hidden ids
        (clip(whole(face=frames(153)), details=USUAL), "face_distance"),
        (clip(whole(voice=wave(0.5)), details=USUAL | {"loudness_dbfs": -5.0}), "loudness;voice_distance"),
        (clip(whole(text=words(6)), details=USUAL), "text_distance"),
    ],
)
def test_what_is_unlike_training_is_named(judging, loaded, said):
    scores = one(judging, loaded)
    assert scores.unlike == (said,)
    assert scores.status == ("ok",)  # a flag, no fault of the clip


def test_a_failed_clip_is_not_judged(judging):
    nothing = clip(window(), reasons=("no_face",), details=USUAL | {"loudness_dbfs": -60.0})
    bad = clip(window(voice=wave(np.nan)), details=USUAL)
    scores = judging.assess(["a", "b", "c"], [nothing, bad, clip(whole(), details=USUAL)])
    assert scores.unlike == (None, None, "")


def test_a_bundle_without_ranges_judges_nothing(predictor):
    assert one(predictor, clip(whole())).unlike == (None,)
    _, far = predictor.examine([whole().streams])
    assert far.shape == (1, 3) and np.isnan(far).all()


def test_distances_are_averaged_by_time_over_the_windows_that_hold_the_stream(judging):
    """Brightness .6 for 2 s and .2 for 6 s: distance 3; the window without a face does not count."""
    near, far = window(0, 6, face=frames(51)), window(6, 8, face=frames(153), voice=wave(0.1))
    silent = window(8, 9, voice=wave(0.1))
    heard = Heard(judging.streams)
    distances = judging.examine([w.streams for w in (near, far, silent)])[1]
    for w, distance in zip((near, far, silent), distances, strict=True):
        heard.answers[heard.add(w, None)] = (np.zeros(2, np.float32), distance)
    _, seen = heard.averages(2)
    np.testing.assert_allclose(seen, [3, 1, np.nan], atol=1e-5)


def test_an_absent_stream_is_at_no_distance(judging):
    assert judging.examine([window(voice=wave(0.1)).streams])[1][0].tolist() == [0, pytest.approx(1), 0]


def test_a_text_that_stands_in_every_window_is_judged_once(judging):
    """Two of three ids are known: 1.3 standard errors below .9; as twenty-seven ids it would be 4."""
    text = Raw(np.array([1, 1, 2]), np.ones(3, bool))
    windows = [window(2.0 * n, 2.0 * n + 0.5, text=text) for n in range(9)]
    vocabulary = RANGES.vocabulary
    assert vocabulary.familiarity(np.tile(text.data, 9)) < -3 < vocabulary.familiarity(text.data)
    assert "language" not in one(judging, clip(*windows)).unlike[0]


def test_concatenation_keeps_what_is_unlike(judging, predictor):
    one_, other = one(judging, clip(whole(), details=USUAL)), one(judging, clip(whole(text=words(6))))
    assert runtime.concatenate([one_, other]).unlike == ("", "text_distance")
    assert runtime.concatenate([one(predictor, clip(whole()))] * 2).unlike == (None, None)


def test_a_distance_that_the_graph_lacks(tmp_path):
    with pytest.raises(BundleError, match=r"outputs \['scores'\]; bundle.json says .*\['scores', 'distance'\]"):
        Predictor(write_tiny_bundle(tmp_path, distance="distance"))


def test_ranges_that_cannot_be_read(tmp_path):
    with pytest.raises(BundleError, match="bundle.json: KeyError: 'ranges'; export the bundle again"):
        Predictor(write_tiny_bundle(tmp_path, unlike={"rows": {}}))


def test_unknown_device(bundle):
    with pytest.raises(ConfigError, match="device 'tpu': onnxruntime offers .*CPUExecutionProvider"):
        Predictor(bundle, device="tpu")


def test_a_fixed_number_of_steps_is_padded_to(tmp_path):
    graph = onnx.parser.parse_model(GRAPH.replace("[B,F", "[B,4")).SerializeToString()
    fixed = Predictor(write_tiny_bundle(tmp_path, graph=graph))
    scores = one(fixed, clip(window(face=frames(51, 2)), reasons=("no_sound",)))
    np.testing.assert_allclose(scores.values, [[0.2, 0]], atol=1e-6)
    assert one(fixed, clip(window(voice=wave(0.5)))).status == ("degraded",)
