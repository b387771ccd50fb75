"""A Predictor inside of another program: decoded arrays, many threads, and no failure that it does not outlive."""

from __future__ import annotations

import subprocess
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import greedy, write_tiny_bundle

from mmtraits.errors import ConfigError
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, Raw

THREADS, CALLS = 4, 1000  # in all


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    return Predictor(write_tiny_bundle(tmp_path_factory.mktemp("tiny")), threads=1)


def faces(level: int, n: int = 4) -> np.ndarray:
    return np.full((n, 8, 8, 3), level, np.uint8)


def tone(level: float, n: int = 8000) -> np.ndarray:
    return np.full(n, level, np.float32)


def sound(path: Path, level: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((np.where(np.arange(8000) // 40 % 2, level, -level) * 32767).astype("<i2").tobytes())
    return path


# ---------------------------------------------------------------------------------------------------- decoded arrays


def test_decoded_arrays_are_scored_as_windows_are(predictor):
    ids = np.array([1, 2, 1])
    scores = predictor.predict([{"face": faces(51), "voice": tone(0.5), "text": ids}, {"voice": tone(-0.25)}, {}])
    assert scores.clip_ids == ("0", "1", "2")
    assert scores.status == ("ok", "degraded", "failed")
    assert scores.reasons == ("", "no_face;no_transcript", "no_face;no_sound;no_transcript")
    np.testing.assert_allclose(scores.values[:2], [[0.23, 0.53], [0, 0.25]], atol=1e-6)
    assert np.isnan(scores.values[2]).all()
    real = {"face": Raw(faces(51), np.ones(4, bool)), "voice": Raw(tone(0.5), np.ones(8000, bool))}
    np.testing.assert_array_equal(predictor.score([{**real, "text": Raw(ids, np.ones(3, bool))}])[0], scores.values[0])


def test_files_clips_and_arrays_side_by_side(predictor, tmp_path):
    clips = [
        sound(tmp_path / "a.wav", 0.5),
        {"voice": tone(0.5)},
        Clip(id="said", text="hello"),
        str(tmp_path / "no.mp4"),
    ]
    scores = predictor.predict(clips, batch=2)
    assert scores.clip_ids == ("a.wav", "1", "said", "no.mp4")
    assert scores.status == ("degraded", "degraded", "degraded", "failed")
    np.testing.assert_allclose(scores.values[:3, 1], [0.5, 0.5, 0.01], atol=2e-3)


def test_silence_and_nothing_are_absent_and_nan_is_a_failure(predictor):
    scores = predictor.predict(
        [{"voice": tone(1e-4)}, {"voice": tone(0.1, 0)}, {"face": faces(9), "voice": tone(np.nan)}]
    )
    assert scores.reasons[:2] == ("no_face;no_sound;no_transcript",) * 2
    assert (scores.status[2], scores.reasons[2]) == ("failed", "no_transcript;non_finite")
    assert np.isnan(scores.values).all()
    assert predictor.predict([{"voice": tone(np.inf)}]).status == ("failed",)  # the graph alone would clip it to 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"sound": tone(0.1)}, "streams sound; the bundle has face, voice, text"),
        ({"voice": tone(0.1).astype(np.float64)}, r"voice is float64 \(8000,\); expected float32 \(T\)"),
        ({"voice": tone(0.1)[None]}, r"voice is float32 \(1, 8000\); expected float32 \(T\)"),
        ({"voice": [0.1, 0.2]}, r"voice is list; expected float32 \(T\)"),
        ({"voice": np.float32(0.1)}, "voice is float32; expected"),
        ({"voice": np.array(0.1, np.float32)}, "voice has no axes; expected"),
        ({"voice": tone(0.1, 16001)}, "voice has 16001 steps; expected at most 16000, one window"),
        ({"face": np.zeros((4, 8, 8), np.uint8)}, r"face is uint8 \(4, 8, 8\); expected uint8 \(T, 8, 8, 3\)"),
        ({"face": faces(1, 5)}, "face has 5 steps; expected at most 4"),
        ({"text": np.ones(7, np.int64)}, "text has 7 steps; expected at most 6"),
        ({"text": np.ones(2, np.int32)}, r"text is int32 \(2,\); expected int64 \(T\)"),
    ],
)
def test_arrays_of_another_form_are_refused_before_anything_is_scored(predictor, arrays, message):
    with pytest.raises(ConfigError, match=f"decoded clip: {message}"):
        predictor.predict([{"voice": tone(0.5)}, arrays])


# ---------------------------------------------------------------------------------------------------- threads


def test_four_threads_a_thousand_calls_the_same_scores(predictor, tmp_path):
    """Files and arrays, failures among them; a deadlock is a thread that does not come back."""
    (tmp_path / "broken.mp4").write_bytes(b"no media")
    files = [sound(tmp_path / f"{n}.wav", 0.1 * n) for n in range(1, 5)]
    calls = [[file] for file in files] + [
        [tmp_path / "broken.mp4", files[0]],
        [{"face": faces(99), "voice": tone(0.3)}],
    ]
    expected = [predictor.predict(call) for call in calls]
    wrong: list[object] = []

    def work(first: int) -> None:
        try:
            for n in range(first, CALLS, THREADS):
                found, known = predictor.predict(calls[n % len(calls)]), expected[n % len(calls)]
                same = found.status == known.status and found.reasons == known.reasons
                if not same or found.values.tobytes() != known.values.tobytes():
                    wrong.append((n, found.values, found.reasons))
                if n % 10 == first:
                    with pytest.raises(ConfigError):
                        predictor.predict([{"voice": tone(0.1, 99_999)}])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_a_graph_that_is_opened_later_is_opened_once_for_all_threads(tmp_path):
    later = Predictor(write_tiny_bundle(tmp_path), threads=1, later=True)
    found: list[float] = []
    barrier = threading.Barrier(THREADS)

    def work() -> None:
        barrier.wait()
        found.append(float(later.predict([{"voice": tone(0.5)}]).values[0, 1]))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [0.5] * THREADS


# ---------------------------------------------------------------------------------------------------- after a failure


def test_it_goes_on_after_any_failure(predictor, tmp_path):
    good = {"face": faces(51), "voice": tone(0.5)}
    expected = predictor.predict([good]).values.tobytes()
    (tmp_path / "text.mp4").write_text("no media")
    (tmp_path / "folder.mp4").mkdir()
    ragged = {"face": Raw(faces(1, 2), np.ones(2, bool)), "voice": Raw(faces(1), np.ones(4, bool))}
    failures = [
        lambda: predictor.predict([tmp_path / name for name in ("gone.mp4", "text.mp4", "folder.mp4")]),
        lambda: predictor.predict([Clip(id="x", transcript=tmp_path / "gone.srt", video=tmp_path / "gone.mp4")]),
        lambda: predictor.predict([{"voice": tone(np.inf)}]),
        lambda: predictor.predict([{"nothing": tone(1)}]),
        lambda: predictor.score([ragged]),
        lambda: predictor.score([{}]),
        lambda: predictor.score([]),
        lambda: predictor.predict([3]),
    ]
    raised = 0
    for fail in failures:
        try:
            assert set(fail().status) == {"failed"}
        except Exception:
            raised += 1
        assert predictor.predict([good]).values.tobytes() == expected
    assert raised == 5


STARVED = """
import resource, sys
from pathlib import Path
import numpy as np
from mmtraits.jobs.batches import Waiting, score
from mmtraits.heard import Heard
from mmtraits.media.decoded import from_arrays
from mmtraits.runtime import Predictor

predictor = Predictor(sys.argv[1], threads=1)
def clips(n):
    return [from_arrays({"voice": np.full(800, 0.1 * k, np.float32)}, predictor.specs, predictor.windowing)
            for k in range(1, n + 1)]
def scored(loaded):
    heard = [Heard(predictor.streams) for _ in loaded]
    waiting = [Waiting(h, h.add(c.windows[0], None), c.windows[0].streams) for h, c in zip(heard, loaded)]
    score(predictor, waiting)
    return heard
expected = [scored([clip])[0].answers[0][0] for clip in clips(6)]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)  # two rows need 480 MB, six 1,440
try:
    predictor.assess("abcdef", clips(6))
    print("enough")
except Exception as error:
    print("refused", type(error).__name__)
heard = scored(clips(6))
assert all(np.allclose(h.answers[0][0], e) for h, e in zip(heard, expected))
assert not any(h.reasons for h in heard)
print("halved")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits as Linux has them")
def test_a_batch_too_large_for_the_memory_is_halved_and_no_row_suffers(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "greedy", graph=greedy(30_000_000))
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(bundle)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "refused", done.stdout
    assert done.stdout.split()[-1] == "halved"
    assert "failed and is halved" in done.stderr
