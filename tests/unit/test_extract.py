import dataclasses
import logging
import os
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SCHEMA, config, plant

from mmtraits import parts, workers
from mmtraits.config import Part, RunConfig
from mmtraits.data.batch import to_tokens
from mmtraits.data.dataset import Held
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError, MMTraitsError
from mmtraits.extract import absent, extract, fingerprint, run_frontend
from mmtraits.media.cache import Stored
from mmtraits.media.load import load
from mmtraits.schema import Clip, FrameSpec, Raw, Windowing
from mmtraits.tokens import Tokens

RATE = 8000


def sound(path: Path, seconds: float, pitch_hz: float = 220.0) -> Path:
    time_s = np.arange(round(seconds * RATE)) / RATE
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((0.3 * np.sin(2 * np.pi * pitch_hz * time_s) * 32767).astype("<i2").tobytes())
    return path


def corpus(folder: Path, clips: list[Clip]) -> Manifest:
    labels = np.full((len(clips), 2), 0.5)
    return Manifest(
        path=folder / "clips.csv", schema=SCHEMA, clips=tuple(clips), labels=labels, splits=(None,) * len(clips)
    )


def settings(folder: Path, **changes: object) -> RunConfig:
    mel = {"use": "conv_mel", "sample_rate": RATE, "mels": 16, "width": 8}
    return config(folder, **{"streams": {"sound": mel}, **changes})


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    files = [sound(tmp_path / f"{n}.wav", seconds, 200.0 + 50 * n) for n, seconds in enumerate([2.0, 0.7, 20.0])]
    return corpus(tmp_path, [Clip(id=file.stem, audio=file) for file in files])


def packs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache" / "packs").glob("*")}


def test_what_is_read_again_is_what_was_computed_bit_for_bit(tmp_path, manifest) -> None:
    fresh = extract(settings(tmp_path), manifest)
    before = packs(tmp_path)
    again = extract(settings(tmp_path), manifest)
    assert packs(tmp_path) == before
    for first, second in zip(fresh.windows, again.windows, strict=True):
        assert (first.row, first.seconds) == (second.row, second.seconds)
        assert np.array_equal(first.streams["sound"].read().data, second.streams["sound"].read().data)


def test_it_is_what_the_front_end_gives_for_the_clip_alone(tmp_path, manifest) -> None:
    encoder = parts.encoder(settings(tmp_path).streams["sound"]).eval()
    for window in extract(settings(tmp_path), manifest).windows[:2]:
        (loaded,) = load(manifest.clips[window.row], {"sound": encoder.spec}, Windowing()).windows
        tokens = encoder.frontend(to_tokens([loaded.streams["sound"]]))
        found = window.streams["sound"].read()
        np.testing.assert_allclose(found.data[found.mask], tokens.data[tokens.mask], atol=1e-5)


def test_a_long_clip_has_windows_that_stand_for_all_of_its_time(tmp_path, manifest) -> None:
    windows = extract(settings(tmp_path), manifest, [2]).windows
    assert [window.row for window in windows] == [2, 2]
    assert sum(window.seconds for window in windows) == pytest.approx(20.0, abs=0.01)


def test_a_stream_that_was_extracted_alone_keeps_its_windows_beside_another(tmp_path) -> None:
    """Alone, sound has no middle window: it is silent there. The words fill all three."""
    time_s = np.arange(45 * RATE) / RATE
    loud = np.where((time_s < 15) | (time_s >= 30), 0.3 * np.sin(2 * np.pi * 220 * time_s), 0)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((loud * 32767).astype("<i2").tobytes())
    manifest = corpus(tmp_path, [Clip(id="a", audio=tmp_path / "a.wav", text="hello there")])
    alone = extract(settings(tmp_path), manifest).windows
    assert len(alone) == 2
    streams = {**settings(tmp_path).model_dump()["streams"], "text": {"use": "text", "layers": 1, "width": 8}}
    both = extract(settings(tmp_path, streams=streams), manifest).windows
    assert [window.streams["text"].present for window in both] == [True, True, True]
    assert [window.streams["sound"].present for window in both] == [True, False, True]
    for mine, before in ((both[0], alone[0]), (both[2], alone[1])):
        np.testing.assert_array_equal(mine.streams["sound"].read().data, before.streams["sound"].read().data)
    assert [window.seconds for window in both] == pytest.approx([15, 15, 15], abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"data__windowing": {"length_s": 10.0, "hop_s": 10.0}},
        {"streams": {"sound": {"use": "conv_mel", "sample_rate": RATE, "mels": 20}}},
        {"streams": {"sound": {"use": "voice"}}},
    ],
)
def test_another_cut_option_or_front_end_is_computed_anew(tmp_path, manifest, changes) -> None:
    extract(settings(tmp_path), manifest)
    before = packs(tmp_path)
    extract(settings(tmp_path, **changes), manifest)
    assert packs(tmp_path) > before


def test_a_front_end_is_known_by_its_code_and_by_what_training_does_not_change(tmp_path, monkeypatch) -> None:
    part = Part(use="precomputed", size=2)
    encoder = parts.encoder(part)
    before = fingerprint(part, encoder)
    torch.nn.init.ones_(encoder.project[1].weight)
    assert fingerprint(part, encoder) == before
    module = parts.module("encoders", "precomputed")
    edited = tmp_path / "precomputed.py"
    edited.write_bytes(Path(module.__file__).read_bytes() + b"# another line")
    with monkeypatch.context() as patch:
        patch.setattr(module, "__file__", str(edited))
        assert fingerprint(part, encoder) != before
    encoder.standardize.mean += 1
    assert fingerprint(part, encoder) != before


def test_options_of_the_trained_part_change_nothing(tmp_path, manifest) -> None:
    extract(settings(tmp_path), manifest)
    before = packs(tmp_path)
    mel = {"use": "conv_mel", "sample_rate": RATE, "mels": 16, "width": 32, "dropout": 0.5}
    extract(settings(tmp_path, streams={"sound": mel}, seed=9), manifest)
    assert packs(tmp_path) == before


def test_only_a_file_with_other_content_is_computed_anew(tmp_path, manifest) -> None:
    first = extract(settings(tmp_path), manifest).windows[0].streams["sound"].read()
    before = packs(tmp_path)
    os.utime(tmp_path / "0.wav", (1, 1))
    extract(settings(tmp_path), manifest)
    assert packs(tmp_path) == before
    sound(tmp_path / "0.wav", 2.0, 1000.0)
    second = extract(settings(tmp_path), manifest).windows[0].streams["sound"].read()
    assert len(packs(tmp_path)) == len(before) + 1
    assert not np.array_equal(first.data, second.data)


def test_what_does_not_fit_in_memory_is_read_when_it_is_met(tmp_path, manifest) -> None:
    held = extract(settings(tmp_path), manifest).windows
    stored = extract(settings(tmp_path, data__in_memory_mb=0), manifest).windows
    assert all(isinstance(window.streams["sound"], Held) for window in held)
    assert all(isinstance(window.streams["sound"], Stored) for window in stored)
    for first, second in zip(held, stored, strict=True):
        assert np.array_equal(first.streams["sound"].read().data, second.streams["sound"].read().data)
        assert first.steps == second.steps


def test_an_unreadable_clip_is_named_and_the_others_are_kept(tmp_path, manifest, caplog) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    clips = [*manifest.clips, Clip(id="broken", audio=broken), Clip(id="gone", audio=tmp_path / "gone.wav")]
    with caplog.at_level(logging.WARNING):
        found = extract(settings(tmp_path), corpus(tmp_path, clips))
    assert found.dropped == ("broken", "gone")
    assert {window.row for window in found.windows} == {0, 1, 2}
    assert "clip broken: nothing to train on or to score (unreadable_container" in caplog.text
    assert found.reasons.keys() == {"broken", "gone"}


def test_workers_give_what_one_process_gives(tmp_path, manifest) -> None:
    alone = extract(settings(tmp_path / "alone"), manifest)
    together = extract(settings(tmp_path / "together", data__workers=2), manifest)
    for first, second in zip(alone.windows, together.windows, strict=True):
        assert np.array_equal(first.streams["sound"].read().data, second.streams["sound"].read().data)


def test_a_lack_of_memory_stops_extraction_and_leaves_nothing_wrong(tmp_path, manifest, monkeypatch) -> None:
    """What tells of the machine must neither be kept nor quietly cost a training row."""
    decode = workers.decode

    def short_of_memory(jobs, count):
        for number, item in decode(jobs, count):
            yield number, workers.failure("out_of_memory", "no room") if number == 1 else item

    monkeypatch.setattr(workers, "decode", short_of_memory)
    with pytest.raises(MMTraitsError, match=r"extract: clip 1: out_of_memory \(no room\); run again"):
        extract(settings(tmp_path), manifest)
    monkeypatch.undo()
    assert {window.row for window in extract(settings(tmp_path), manifest).windows} == {0, 1, 2}


def test_progress_is_told(tmp_path, manifest) -> None:
    told: list[tuple[int, int]] = []
    extract(settings(tmp_path), manifest, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)


# ---------------------------------------------------------------------------------------------------- given features


def test_given_features_enter_as_they_are_and_an_absent_stream_is_masked(tmp_path) -> None:
    manifest = plant(tmp_path, clips=10)
    windows = extract(config(tmp_path), manifest).windows
    assert [window.present for window in windows[:2]] == [{"b"}, {"a", "b"}]
    with np.load(tmp_path / "b.npz") as file:
        np.testing.assert_array_equal(windows[3].streams["b"].read().data, file["features"][3])
    assert windows[0].streams["a"].read().data.shape == (0, 6)


def test_a_given_feature_belongs_to_every_window_of_its_clip(tmp_path, manifest) -> None:
    plant(tmp_path, clips=10)
    clip = dataclasses.replace(manifest.clips[2], features={"b": "b.npz#c004"})
    streams = {**settings(tmp_path).model_dump()["streams"], "b": {"use": "precomputed", "size": 5}}
    windows = extract(settings(tmp_path, streams=streams), corpus(tmp_path, [clip])).windows
    assert [window.present for window in windows] == [{"sound", "b"}, {"sound", "b"}]


def test_features_of_another_width_are_refused(tmp_path) -> None:
    manifest = plant(tmp_path, clips=10)
    streams = {**config(tmp_path).model_dump()["streams"], "a": {"use": "precomputed", "size": 4}}
    with pytest.raises(ManifestError, match="clips.csv: feature_a holds vectors of 6; the front-end of a gives 4"):
        extract(config(tmp_path, streams=streams), manifest)


# ---------------------------------------------------------------------------------------------------- front-ends


def test_steps_that_come_out_non_finite_are_masked() -> None:
    encoder = parts.encoder(Part(use="precomputed", size=2))
    data = np.array([[1, 2], [np.nan, 1], [3, 4], [np.inf, 0]], np.float32)
    blank = Raw(np.zeros((0, 2), np.float32), np.zeros(0, np.bool_))
    (out,) = run_frontend(encoder, [Raw(data, np.ones(4, np.bool_))], blank, torch.device("cpu"))
    assert out.mask.tolist() == [True, False, True]


def test_front_ends_answer_in_the_order_asked_whatever_the_lengths() -> None:
    encoder = parts.encoder(Part(use="precomputed", size=1))
    blank = Raw(np.zeros((0, 1), np.float32), np.zeros(0, np.bool_))
    lengths = [5, 0, 3, 130, 1, 0, 7] * 30
    raws = [Raw(np.full((n, 1), i, np.float32), np.ones(n, np.bool_)) for i, n in enumerate(lengths)]
    found = run_frontend(encoder, raws, blank, torch.device("cpu"))
    for i, (raw, out) in enumerate(zip(raws, found, strict=True)):
        assert len(out.mask) == len(raw.mask)
        assert (out.data == i).all()


class Fixed(torch.nn.Module):
    """An encoder that insists on its number of frames."""

    lengths = "fixed"
    spec = FrameSpec(frames=4, height_px=2, width_px=2)

    def frontend(self, raw: Tokens) -> Tokens:
        assert raw.mask.shape[1] == 4
        return raw


def test_an_encoder_of_fixed_length_gets_and_keeps_all_of_its_steps() -> None:
    blank = absent(Fixed(), torch.device("cpu"))
    assert blank.data.shape == (4, 2, 2, 3)
    assert not blank.mask.any()
    seen = Raw(np.ones((4, 2, 2, 3), np.uint8), np.array([True, True, False, False]))
    (out,) = run_frontend(Fixed(), [seen], blank, torch.device("cpu"))
    assert out.mask.tolist() == [True, True, False, False]
