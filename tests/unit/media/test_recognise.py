"""Recognisers that are chosen by a folder; the words of the default one are tested in test_speech.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from spoken import BECKETT, RATE, needs_moonshine, recording, speech, wrong_words

from mmtraits.errors import ConfigError
from mmtraits.media import recognise
from mmtraits.media.recognise import opened


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of one small layer that has learned nothing, in faster-whisper's files."""
    pytest.importorskip("faster_whisper")
    import torch
    from ctranslate2.converters.transformers import WhisperLoader
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from tokenizers import Tokenizer, models
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    languages, times = list(_LANGUAGE_CODES)[:99], [f"{n * 0.02:.2f}" for n in range(1501)]
    special = [f"<|{name}|>" for name in ("endoftext", "startoftranscript", *languages, *tasks, *times)]
    vocabulary = [f"word{n} " for n in range(50257)] + special
    torch.manual_seed(0)
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 80}
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=len(vocabulary), **layers, **sizes))
    spec = WhisperLoader().get_model_spec(model.eval())
    spec.register_vocabulary(vocabulary)
    spec.config.suppress_ids = spec.config.suppress_ids_begin = []
    spec.config.lang_ids = list(range(50259, 50259 + len(languages)))
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.optimize()
    folder = tmp_path_factory.mktemp("whisper")
    spec.save(str(folder))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token=vocabulary[0]))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.slow
def test_faster_whisper_with_a_model_of_ones_own(whisper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs; what an unlearned model makes of speech is thrown away, and only let through where all is."""
    say = opened(str(whisper))
    wave = speech("beckett")[: 3 * RATE]
    assert say(wave) == ""
    monkeypatch.setattr(recognise, "_LEAST_LOG_PROBABILITY", -1e9)
    monkeypatch.setattr(recognise, "_REPEATS", 1e9)
    assert say(wave).startswith("word")


@pytest.mark.slow
def test_a_whisper_model_without_its_tokenizer_is_refused(whisper: Path, tmp_path: Path) -> None:
    """faster-whisper would ask a server for one."""
    for name in ("model.bin", "config.json"):
        (tmp_path / name).symlink_to(whisper / name)
    with pytest.raises(ConfigError, match=r"no such model; expected .* faster-whisper's model.bin, config.json, token"):
        opened(str(tmp_path))


@pytest.mark.slow
def test_a_damaged_whisper_model_is_refused(whisper: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(whisper / name)
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="expected a faster-whisper model"):
        opened(str(tmp_path))


@needs_moonshine
def test_moonshine_says_what_it_hears_and_nothing_of_too_little() -> None:
    say = opened("moonshine")
    assert wrong_words(BECKETT, say(speech("beckett"))) == 0
    assert say(speech("beckett")[: RATE // 4]) == ""


@needs_moonshine
def test_the_vocabulary_has_an_entry_for_every_output() -> None:
    data = (recording("beckett").parent / "tiny-en/tokenizer.bin").read_bytes()
    pieces = recognise._pieces(data)
    assert len(pieces) == 32768
    assert pieces[:3] == [b"<unk>", b"<s>", b"</s>"]
    assert recognise._pieces(b"\x01a\x00\x82\x01" + b"b" * 130) == [b"a", b"", b"b" * 130]


def test_text_that_runs_in_a_circle() -> None:
    assert recognise._in_a_circle("Oh, my God. " * 20)
    assert not recognise._in_a_circle("It was the best of times, it was the worst of times.")
    assert not recognise._in_a_circle("")
