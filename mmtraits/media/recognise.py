"""A stretch of speech to its words: Moonshine out of an installed package or a folder, or a Whisper model of a folder.

Only files on this machine are read; nothing is fetched. A package that holds a model is located, never imported.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mmtraits.errors import ConfigError
from mmtraits.media.audio import Wave
from mmtraits.packages import located

SAMPLE_RATE = 16_000
Recogniser = Callable[[Wave], str]  # mono samples at SAMPLE_RATE, up to half a minute -> words, "" where there are none

_MOONSHINE = "package:moonshine_voice/assets/tiny-en"  # MIT
_MOONSHINE_FILES = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
_WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")
_START, _END = 1, 2  # token ids
_SPACE = "▁".encode()
_IDS_PER_S, _IDS_MORE = 6.5, 8  # Jeffries et al. 2024 (arXiv 2410.15608): a decoder that goes on longer invents
_LEAST_LOG_PROBABILITY = -1.0  # per token id; English read or spelt lies above −0.8, what noise makes of it below
_REPEATS = 2.4  # zlib's ratio beyond which text runs in a circle (Radford et al. 2022, arXiv 2212.04356)
_LETTERS = re.compile(r"[^\W\d_]")


def installed() -> bool:
    """Whether the Moonshine model of the extra `asr` is there."""
    try:
        return all(located(f"{_MOONSHINE}/{name}").is_file() for name in _MOONSHINE_FILES)
    except ConfigError:
        return False


@lru_cache(maxsize=1)
def opened(name: str) -> Recogniser:
    """Open the recogniser `moonshine`, or that of a folder: Moonshine's three files, or a faster-whisper model.

    Raises ConfigError for anything else, and where a package that is needed is not installed.
    """
    folder = folder_of(name)
    if all((folder / file).is_file() for file in _MOONSHINE_FILES):
        return Moonshine(folder)
    if all((folder / file).is_file() for file in _WHISPER_FILES):  # without its tokenizer it would be fetched
        return _whisper(folder)
    kinds = f"Moonshine's {', '.join(_MOONSHINE_FILES)} or faster-whisper's {', '.join(_WHISPER_FILES)}"
    expected = f"moonshine, or a folder that holds {kinds}"
    raise ConfigError(f"speech to text: {name}: no such model; expected {expected}")


def session(path: Path) -> ort.InferenceSession:
    """A model on one core of the CPU that gives its memory back after a pass."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------------------------------------------- Moonshine


class Moonshine:
    """Moonshine's encoder and merged decoder, greedily (Jeffries et al. 2024, https://arxiv.org/abs/2410.15608)."""

    def __init__(self, folder: Path) -> None:
        encoder, decoder, tokenizer = (folder / name for name in _MOONSHINE_FILES)
        self._encoder, self._decoder = session(encoder), session(decoder)
        self._pieces = _pieces(tokenizer.read_bytes())
        self._past = [(i.name, i.shape[1], i.shape[3]) for i in self._decoder.get_inputs() if i.name.startswith("past")]
        self._outputs = [output.name.replace("present", "past_key_values") for output in self._decoder.get_outputs()]

    def __call__(self, wave: Wave) -> str:
        """The words in (S,) samples; "" where the model is not sure that there are any."""
        ids, log_probability, ended = self._ids(wave[None].astype(np.float32))
        text = self._text(ids)
        sure = ended and log_probability >= _LEAST_LOG_PROBABILITY and _LETTERS.search(text) is not None
        return text if sure and not _in_a_circle(text) else ""

    def _ids(self, wave: Wave) -> tuple[list[int], float, bool]:
        """Token ids, their mean natural log probability, and whether the model came to an end by itself."""
        mask = np.ones(wave.shape, np.int64)
        states = self._encoder.run(None, {"input_values": wave, "attention_mask": mask})[0]
        fixed = {"encoder_attention_mask": mask, "encoder_hidden_states": states}
        past = {name: np.zeros((1, heads, 0, width), np.float32) for name, heads, width in self._past}
        ids, log_probabilities = [_START], []
        for step in range(_IDS_MORE + int(_IDS_PER_S * wave.shape[1] / SAMPLE_RATE)):
            given = {"input_ids": np.array([ids[-1:]], np.int64), "use_cache_branch": np.array([step > 0])}
            found = dict(zip(self._outputs, self._decoder.run(None, fixed | given | past), strict=True))
            logits = found.pop("logits")[0, -1].astype(np.float64)
            ids.append(int(logits.argmax()))
            log_probabilities.append(float(logits.max() - np.logaddexp.reduce(logits)))
            if ids[-1] == _END:
                break
            past |= {name: value for name, value in found.items() if step == 0 or ".decoder." in name}
        return ids[1:], float(np.mean(log_probabilities)), ids[-1] == _END

    def _text(self, ids: Sequence[int]) -> str:
        known = (self._pieces[i] for i in ids if i > _END and not self._pieces[i].startswith(b"<<"))
        return " ".join(b"".join(known).replace(_SPACE, b" ").decode(errors="ignore").split())


def _pieces(data: bytes) -> list[bytes]:
    """The vocabulary in a tokenizer.bin: per id its length, in two bytes from 128 on, and that many bytes of UTF-8."""
    pieces, place = [], 0
    while place < len(data):
        length, place = data[place], place + 1
        if length >= 128:
            length, place = length - 128 + 128 * data[place], place + 1
        pieces.append(data[place : place + length])
        place += length
    return pieces


def _in_a_circle(text: str) -> bool:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) > _REPEATS


def folder_of(name: str) -> Path:
    """Where a recogniser's files are. Raises ConfigError where Moonshine is asked for and not installed."""
    if name != "moonshine":
        return Path(name)
    if not installed():
        raise ConfigError("speech to text: Moonshine is not installed; pip install 'mmtraits[asr]' (linux x86_64)")
    return located(_MOONSHINE)


# ---------------------------------------------------------------------------------------------------- Whisper


def _whisper(folder: Path) -> Recogniser:
    """A model in CTranslate2's layout, by faster-whisper on one core; the language is its own guess."""
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ConfigError(f"speech to text: {folder} needs faster-whisper; pip install faster-whisper") from error
    try:
        model = WhisperModel(str(folder), device="cpu", cpu_threads=1, compute_type="float32", local_files_only=True)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"speech to text: {folder}: {error}; expected a faster-whisper model") from error
    return lambda wave: _whispered(model, wave)


def _whispered(model: Any, wave: Wave) -> str:
    segments, _ = model.transcribe(
        wave, beam_size=1, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
    )
    text = " ".join(segment.text.strip() for segment in segments if segment.avg_logprob >= _LEAST_LOG_PROBABILITY)
    return "" if _in_a_circle(text) or not _LETTERS.search(text) else text
