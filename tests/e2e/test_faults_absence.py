"""Fault cases 13, 15 and 16: streams that are absent, sound that is silent or unusual, transcripts that are neither."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import bad_media as bad
import clock
import numpy as np
import pytest
import scoring
from scoring import Row, cause
from tiny_bundle import write_tiny_bundle

from mmtraits import predict

STREAMS = ("face", "voice", "text")
ABSENCE = {"face": "no_face", "voice": "no_sound", "text": "no_transcript"}
SUBSETS = [subset for count in range(4) for subset in itertools.combinations(STREAMS, count)]
UNUSUAL_SOUND = (
    "8_khz.wav",
    "96_khz.flac",
    "5_1.wav",
    "7_1.mkv",
    "clipped.wav",
    "constant.wav",
    "floats.wav",
    "bytes.au",
)


def named(subset: tuple[str, ...]) -> str:
    return f"{'_'.join(subset) or 'nothing'}.mkv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = scoring.with_neighbours(tmp_path_factory.mktemp("absence") / "media")
    for subset in SUBSETS:
        path = folder / named(subset)
        bad.recorded(
            path, [bad.portrait() if "face" in subset else bad.BLACK] * 8, codec="h264", pix_fmt="yuv420p", fps=4
        )
        if "voice" in subset:
            bad.talking(path.with_suffix(".mp4"), [bad.portrait() if "face" in subset else bad.BLACK] * 8)
            path.unlink()
        if "text" in subset:
            path.with_suffix(".txt").write_text("hello world")
    no_streams = clock.write(folder / "neither.mkv", seconds=1, sound_span_s=None)
    no_streams.write_bytes(no_streams.read_bytes().replace(b"\x83\x81\x01", b"\x83\x81\x11"))  # says: subtitles
    loud = np.clip(20 * bad.tone(16000), -1, 1)
    bad.sounding(folder / "8_khz.wav", bad.tone(8000), 8000, layout="mono")
    bad.sounding(folder / "96_khz.flac", bad.tone(96000, 2), 96000, codec="flac", layout="stereo")
    bad.sounding(folder / "5_1.wav", bad.tone(48000, 6), 48000, layout="5.1")
    bad.sounding(folder / "7_1.mkv", bad.tone(48000, 8), 48000, codec="flac", layout="7.1")
    bad.sounding(folder / "clipped.wav", loud, 16000, layout="mono")
    bad.sounding(folder / "constant.wav", np.ones((1, 32000), np.float32), 16000, layout="mono")
    bad.sounding(folder / "floats.wav", 100 * bad.tone(16000), 16000, codec="pcm_f32le", layout="mono")
    bad.sounding(folder / "bytes.au", bad.tone(8000), 8000, codec="pcm_mulaw", layout="mono")
    bad.sounding(folder / "no_samples.wav", np.zeros((1, 0), np.float32), 16000, layout="mono")
    bad.sounding(folder / "no_samples.m4a", np.zeros((1, 0), np.float32), 16000, codec="aac", layout="mono")
    nan = np.full((1, 32000), np.nan, np.float32)
    bad.sounding(folder / "not_numbers.wav", nan, 16000, codec="pcm_f32le", layout="mono")
    bad.talking(folder / "silent.mp4", level=0.0)
    bad.talking(folder / "whispered.mp4", level=0.001)
    clock.write(folder / "short_sound.mp4", seconds=2, sound_span_s=(0.0, 0.7))
    clock.write(folder / "late_sound.mkv", seconds=2, sound_span_s=(1.2, 2.0))
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    return scoring.scored(folder)


# ---------------------------------------------------------------------------------------------------- absent streams


@pytest.mark.parametrize("subset", SUBSETS, ids=named)
def test_every_subset_of_streams_is_scored_as_what_it_is(rows: dict[str, Row], subset: tuple[str, ...]) -> None:
    row = rows[named(subset)] if "voice" not in subset else rows[named(subset).replace(".mkv", ".mp4")]
    assert tuple(stream for stream in STREAMS if row[f"{stream}_present"]) == subset
    assert row["status"] == {0: "failed", 3: "ok"}.get(len(subset), "degraded")
    assert row["reason"] == ";".join(reason for stream, reason in ABSENCE.items() if stream not in subset)
    words = 0.02 if "text" in subset else 0.0
    if subset and "face" not in subset:
        assert row["brightness"] == pytest.approx(words, abs=1e-6)  # nothing of black pictures
    if subset and "voice" not in subset:
        assert row["loudness"] == pytest.approx(words, abs=1e-6)


def test_a_file_with_neither_picture_nor_sound(rows: dict[str, Row]) -> None:
    row = rows["neither.mkv"]
    assert (row["status"], cause(row)) == ("failed", "no_modality")
    assert [row[trait] for trait in scoring.TRAITS] == [None, None]


# ---------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("name", UNUSUAL_SOUND)
def test_unusual_sound_is_resampled_and_heard(rows: dict[str, Row], name: str) -> None:
    row = rows[name]
    assert (row["status"], row["reason"]) == ("degraded", "no_face;no_transcript")
    assert row["duration_s"] == pytest.approx(2.0, abs=0.02)
    expected = {"clipped.wav": 0.95, "constant.wav": 1.0, "floats.wav": 0.98}.get(name, 0.3 * 2 / np.pi)
    assert row["loudness"] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", ["no_samples.wav", "no_samples.m4a", "not_numbers.wav"])
def test_sound_without_a_sample_or_a_number_is_none(rows: dict[str, Row], name: str) -> None:
    assert rows[name]["status"] == "failed"
    assert "no_sound" in rows[name]["reason"]


@pytest.mark.parametrize("name", ["silent.mp4", "whispered.mp4"])
def test_silence_is_an_absent_voice_and_no_words(rows: dict[str, Row], name: str) -> None:
    assert (rows[name]["status"], rows[name]["reason"]) == ("degraded", "no_sound;no_transcript")
    assert not rows[name]["text_present"]


@pytest.mark.parametrize("name", ["short_sound.mp4", "late_sound.mkv"])
def test_sound_of_a_part_of_the_clip(rows: dict[str, Row], name: str) -> None:
    assert rows[name]["voice_present"]
    assert rows[name]["duration_s"] == pytest.approx(2.0, abs=0.06)


# ---------------------------------------------------------------------------------------------------- transcripts

TRANSCRIPTS = {  # name -> (file, content, reason, words that the tiny tokenizer finds: at most 6)
    "empty": (".txt", b"", "no_transcript", 0),
    "blank": (".txt", b" \n\t\r\n \xe2\x80\x83", "no_transcript", 0),
    "mark": (".txt", b"\xef\xbb\xbf", "no_transcript", 0),
    "families": (".txt", "👩‍👩‍👧 hello 🇺🇳".encode(), None, None),
    "nul": (".txt", b"hello\x00 world\x00", "", 4),
    "right_to_left": (".txt", "\u202eשלום \u200fعالم\u202c".encode(), "", None),
    "emoji": (".txt", "🙂 hello 🎉".encode(), "", 3),
    "chinese": (".txt", "你好世界".encode(), "", 1),
    "bytes": (".txt", bytes(range(128, 256)), "", None),
    "utf_16": (".txt", "hello world".encode("utf-16"), "", 2),
    "formula": (".txt", b"=cmd|'/c calc'!A0", "text_truncated", 6),
    "megabyte": (".txt", b"hello world " * 90_000, "text_truncated", 6),
    "one_word": (".txt", b"x" * 1_000_000, "", 1),
    "ten_megabytes": (".txt", (b"hello " * 100 + b"\n") * 17_000, "text_truncated", 6),
    "mostly_blank": (".txt", b"hello\n" + b" " * 9_000_000, "text_truncated", 1),
    "no_cues": (".srt", b"\xff\xfe garbage -->\n" * 50, "no_transcript", 0),
    "voices": (".vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\n" + b"<v " * 300_000, "text_truncated", 6),
    "long_clock": (".srt", b"1\n99:99:99,999 --> 00:00:00,000\nhello\n", "no_transcript", 0),
    "other_layout": (".json", b'{"likes": 7}', "no_transcript", 0),
    "deep": (".json", b"[" * 200_000, "no_transcript", 0),
    "nan_times": (".json", b'{"segments":[{"start":NaN,"end":Infinity,"text":"hello"}]}', "", 1),
    "huge_number": (".json", b'{"segments":[{"start":1' + b"0" * 5000 + b',"end":2,"text":"hello"}]}', None, None),
}


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Row], float]:
    folder = scoring.with_neighbours(tmp_path_factory.mktemp("worded") / "media")
    for name, (suffix, content, _, _) in TRANSCRIPTS.items():
        (folder / f"{name}.mp4").write_bytes((folder / scoring.GOOD[0]).read_bytes())
        (folder / f"{name}{suffix}").write_bytes(content)
    start = time.process_time()
    return scoring.scored(folder), time.process_time() - start


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_is_words_or_none_and_told(worded: tuple[dict[str, Row], float], name: str) -> None:
    row = worded[0][f"{name}.mp4"]
    _, _, reason, words = TRANSCRIPTS[name]
    assert row["face_present"] and row["voice_present"]
    if reason is not None:
        assert row["reason"] == reason
        assert row["status"] == ("degraded" if reason else "ok")
        assert row["text_present"] == (reason != "no_transcript")
    if words is not None:
        silent = worded[0][scoring.GOOD[0]]["brightness"] - 0.02
        assert row["brightness"] == pytest.approx(silent + 0.01 * words, abs=1e-4)


def test_hostile_transcripts_cost_seconds(worded: tuple[dict[str, Row], float]) -> None:
    assert worded[1] < 20


def test_formulas_in_a_manifest_are_escaped_in_the_table_alone(tmp_path: Path) -> None:
    folder = scoring.with_neighbours(tmp_path / "media")
    formulas = ["=cmd|'/c calc'!A0", "+1", "-1+1", "@SUM(A1)"]
    lines = ["id,video,speaker,question", *(f'"{f}",a_good.mp4,"{f}","{f}"' for f in formulas)]
    (folder / "clips.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    predict.run([], out, manifest=folder / "clips.csv", bundle=write_tiny_bundle(tmp_path / "bundle"))
    for line, formula in zip((out / "results.csv").read_text().splitlines()[1:], formulas, strict=True):
        assert line.startswith(f"'{formula},'{formula},'{formula},")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(row["clip"], row["speaker"], row["question"]) for row in rows] == [(f, f, f) for f in formulas]
