"""Media and transcripts with something changed that should not matter to a score: light, noise, misheard words."""

from __future__ import annotations

import heapq
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.filter import Graph

from mmtraits.errors import MediaError
from mmtraits.media import transcript
from mmtraits.media.audio import Track, Wave
from mmtraits.media.probe import VIDEO_SUFFIXES, Media, audio_stream, opened, video_stream
from mmtraits.media.video import Health, Image, Picture, Sound, read

Stream = Literal["face", "voice", "text"]
Draw = np.random.Generator

_TICKS = 90_000  # per second: the time base of written pictures
_BLOCK = 4096  # samples per written frame of sound
_SMOOTH_HZ = 200.0
_CLEAN = {"preset": "ultrafast", "crf": "8", "bf": "0"}  # no difference to see, and quick
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """One change at one strength; `name` is a key of `KINDS`, which says what `amount` counts and what is touched."""

    name: str
    amount: float

    @property
    def stream(self) -> Stream:
        """Which of pictures, sound and words it touches."""
        return KINDS[self.name][0]

    @property
    def strength(self) -> str:
        """The amount with its unit."""
        return KINDS[self.name][1].format(self.amount)


KINDS: dict[str, tuple[Stream, str]] = {
    "brightness": ("face", "x{:g}"),
    "blur": ("face", "sigma {:g} px"),
    "crop": ("face", "{:.0%} of each side"),
    "reencoding": ("face", "crf {:g}"),
    "loudness": ("voice", "{:+g} dB"),
    "white_noise": ("voice", "SNR {:g} dB"),
    "speech_noise": ("voice", "SNR {:g} dB"),
    "pitch": ("voice", "{:+g} semitones"),
    "word_errors": ("text", "{:.0%} of words"),
}
_AMOUNTS: dict[str, tuple[float, ...]] = {
    "brightness": (0.7, 1.3),
    "blur": (1, 2, 4),
    "crop": (0.9, 0.8),
    "reencoding": (28, 35, 40),
    "loudness": (-12, -6, 6, 12),
    "white_noise": (20, 10, 5, 0),
    "speech_noise": (20, 10, 5, 0),
    "pitch": (-2, 2),
    "word_errors": (0.1, 0.3),
}
DEFAULT = tuple(Disturbance(name=name, amount=amount) for name, amounts in _AMOUNTS.items() for amount in amounts)


def disturb(source: Path, target: Path, disturbance: Disturbance, *, seed: int = 0, until_s: float = math.inf) -> None:
    """Write a media file, or a transcript, with one thing changed; times stay as they are.

    The stream that is not touched is copied packet by packet where the container of `target` takes it, else re-encoded
    without visible loss or as PCM; a target with the suffix of a sound file holds the sound alone. Written pictures are
    upright H.264, written sound is mono float32 PCM. `seed` decides noise and words; what lies after `until_s` is left
    out. Raises MediaError for a source that cannot be read or does not hold what is to be disturbed.
    """
    rng = np.random.default_rng(seed)
    if disturbance.stream == "text":
        utterances = transcript.read(source)
        texts = word_errors([utterance.text for utterance in utterances], disturbance.amount, rng)
        spoken = [replace(utterance, text=text) for utterance, text in zip(utterances, texts, strict=True) if text]
        target.write_text(transcript.render(spoken, target.suffix.lower()), encoding="utf-8", newline="\n")
        return
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the source itself; name another file")
    try:
        _write(source, target, disturbance, rng, until_s)
    except (MediaError, av.FFmpegError, ValueError) as error:
        target.unlink(missing_ok=True)
        if isinstance(error, MediaError):
            raise
        raise MediaError("corrupt_packets", f"{source}: could not be written again as {target} ({error})") from error


# ---------------------------------------------------------------------------------------------------- pictures


def brightness(image: Image, factor: float) -> Image:
    """RGB (H, W, 3) with every value multiplied, cut at white."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=factor), np.uint8)


def blur(image: Image, sigma_px: float) -> Image:
    """RGB (H, W, 3) under a Gaussian of this standard deviation."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def crop(image: Image, share: float) -> Image:
    """The middle of RGB (H, W, 3): this share of its height and width, rounded to even numbers."""
    height, width = (max(2, 2 * round(side * share / 2)) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


_PICTURES: dict[str, Callable[[Image, float], Image]] = {"brightness": brightness, "blur": blur, "crop": crop}


# ---------------------------------------------------------------------------------------------------- sound


def loudness(wave: Wave, gain_db: float) -> Wave:
    """(S,) samples made louder or softer, clipped at full scale."""
    return np.asarray(np.clip(wave * np.float32(10 ** (gain_db / 20)), -1, 1))


def white_noise(wave: Wave, snr_db: float, rng: Draw) -> Wave:
    """(S,) samples with normal noise, so far below the level of the whole."""
    return _mixed(wave, rng.standard_normal(len(wave), np.float32), snr_db)


def speech_noise(wave: Wave, rate: int, snr_db: float, rng: Draw) -> Wave:
    """(S,) samples with noise of their own long-term spectrum, its phases drawn at random: like many voices at once.

    The spectrum is averaged over 200 Hz, wider than between the harmonics of a voice: noise is no chord.
    """
    power = np.abs(np.fft.rfft(wave)) ** 2
    width = 2 * round(_SMOOTH_HZ / 2 * len(wave) / rate) + 1
    shape = np.sqrt(cv2.blur(power.astype(np.float64)[None], (width, 1))[0])
    noise = np.fft.irfft(shape * np.exp(2j * np.pi * rng.random(len(shape))), len(wave))
    return _mixed(wave, noise.astype(np.float32), snr_db)


def pitch(wave: Wave, rate: int, semitones: float) -> Wave:
    """(S,) samples with all frequencies higher or lower, formants too, and as long as before."""
    factor = 2 ** (semitones / 12)
    graph = Graph()
    graph.link_nodes(
        graph.add_abuffer(format="flt", sample_rate=rate, layout="mono", time_base=Fraction(1, rate)),
        graph.add("asetrate", str(round(rate * factor))),
        graph.add("aresample", str(rate)),
        graph.add("atempo", f"{1 / factor:.9f}"),
        graph.add("abuffersink"),
    ).configure()
    parts = []
    for frame in (*_sound_frames(wave, rate), None):
        graph.push(frame)
        parts += [made.to_ndarray().reshape(-1) for made in _pulled(graph)]
    made = np.concatenate([*parts, np.zeros(len(wave), np.float32)])[: len(wave)]
    return np.asarray(np.clip(made, -1, 1), np.float32)


def _mixed(wave: Wave, noise: Wave, snr_db: float) -> Wave:
    """Silence stays silent: a level relative to it means nothing."""
    power, own = (float(np.mean(np.square(part, dtype=np.float64))) if len(part) else 0.0 for part in (wave, noise))
    gain = math.sqrt(power / own) * 10 ** (-snr_db / 20) if own else 0.0
    return np.asarray(np.clip(wave + np.float32(gain) * noise, -1, 1))


def _pulled(graph: Graph) -> Iterator[Any]:
    """What a filter graph has ready."""
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


_SOUNDS: dict[str, Callable[[Wave, int, float, Draw], Wave]] = {
    "loudness": lambda wave, rate, gain_db, rng: loudness(wave, gain_db),
    "white_noise": lambda wave, rate, snr_db, rng: white_noise(wave, snr_db, rng),
    "speech_noise": speech_noise,
    "pitch": lambda wave, rate, semitones, rng: pitch(wave, rate, semitones),
}


# ---------------------------------------------------------------------------------------------------- words

_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # scripts without spaces: each sign counts as a word
_WORD = re.compile(rf"([{_WIDE}]|[^\s{_WIDE}]+)(\s*)")
_SUBSTITUTED, _DELETED = 0.6, 0.8  # up to .6 of the errors, up to .8; the rest are insertions


def word_errors(texts: Sequence[str], share: float, rng: Draw, words: Iterable[str] = ()) -> list[str]:
    """Texts in which this share of all words is misheard: 60 % other words, 20 % left out, 20 % with one added.

    Other words come from `words`, or else from the texts. The same draw with a larger share holds the same errors and
    more.
    """
    found = [_WORD.findall(text.strip()) for text in texts]
    count = sum(map(len, found))
    known = sorted(set(words) or {word for text in found for word, _ in text})
    wrong = set(rng.permutation(count)[: math.floor(share * count + rng.random())].tolist())
    kinds, picks = rng.random(count), rng.integers(max(1, len(known)), size=count)
    heard, place = [], 0
    for text in found:
        parts = []
        for word, space in text:
            if place in wrong:
                parts.append(_misheard(word, space, kinds[place], known, int(picks[place])))
            else:
                parts.append(word + space)
            place += 1
        heard.append("".join(parts).strip())
    return heard


def _misheard(word: str, space: str, kind: float, known: Sequence[str], pick: int) -> str:
    other = known[pick] if known[pick] != word else known[(pick + 1) % len(known)]
    if kind < _SUBSTITUTED and other != word:
        return other + space
    if kind < _DELETED:
        return ""
    return f"{word}{space or ' '}{other}{space}" if not re.match(f"[{_WIDE}]", word) else word + other + space


# ---------------------------------------------------------------------------------------------------- files


def _write(source: Path, target: Path, disturbance: Disturbance, rng: Draw, until_s: float) -> None:
    """Two readings of the source, one per stream, into one file."""
    with ExitStack() as stack:
        seen, heard = (stack.enter_context(opened(source)) for _ in range(2))
        _check_held(seen, disturbance)
        out = stack.enter_context(av.open(str(target), "w"))
        flows = []
        if seen.info.has_video and target.suffix.lower() in VIDEO_SUFFIXES:
            flows.append(_picture_flow(seen, out, disturbance, until_s))
        if heard.info.has_audio:
            flows.append(_sound_flow(heard, out, disturbance, rng, until_s))
        for packet in heapq.merge(*flows, key=lambda packet: float(packet.dts * packet.time_base)):
            out.mux(packet)


def _check_held(media: Media, disturbance: Disturbance) -> None:
    held, what = (media.info.has_video, "picture") if disturbance.stream == "face" else (media.info.has_audio, "sound")
    if not held:
        raise MediaError("no_modality", f"{media.path}: holds no {what}; expected some to apply {disturbance.name} to")


def _picture_flow(media: Media, out: Any, disturbance: Disturbance, until_s: float) -> Iterator[Any]:
    stream = video_stream(media.container)
    if disturbance.stream != "face" and _takes(out, stream):
        return _copied(media, stream, out, until_s)
    images = _pictures(media, until_s)
    if (change := _PICTURES.get(disturbance.name)) is not None:
        images = ((time_s, change(image, disturbance.amount)) for time_s, image in images)
    worse = {"preset": "veryfast", "bf": "0", "crf": f"{disturbance.amount:g}"}
    return _encoded(images, media, out, worse if disturbance.name == "reencoding" else _CLEAN)


def _sound_flow(media: Media, out: Any, disturbance: Disturbance, rng: Draw, until_s: float) -> Iterator[Any]:
    stream = audio_stream(media.container)
    if disturbance.stream != "voice" and _takes(out, stream):
        return _copied(media, stream, out, until_s)
    wave, rate = _wave(media, until_s)
    if disturbance.stream == "voice":
        wave = _SOUNDS[disturbance.name](wave, rate, disturbance.amount, rng)
    return _encoded_sound(wave, rate, out)


def _takes(out: Any, stream: Any) -> bool:
    """Whether a container can hold a stream as it is."""
    context = stream.codec_context
    return context is not None and context.codec.canonical_name in out.supported_codecs


def _copied(media: Media, stream: Any, out: Any, until_s: float) -> Iterator[Any]:
    copy = out.add_stream_from_template(stream, opaque=True)

    def packets() -> Iterator[Any]:
        for packet in _packets(media, stream):
            if packet.dts * packet.time_base - media.info.start_s > until_s:
                return
            shift = round(media.info.start_s / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = copy
            yield packet

    return packets()


def _packets(media: Media, stream: Any) -> Iterator[Any]:
    """Those with a time, up to the end of what is readable."""
    try:
        yield from (packet for packet in media.container.demux(stream) if packet.dts is not None)
    except av.FFmpegError as error:
        _log.debug("%s: reading stopped: %s", media.path, error)


def _pictures(media: Media, until_s: float) -> Iterator[tuple[float, Image]]:
    """Every frame with its time, upright; of an odd side the last row or column is lost."""
    with opened(media.path) as other:
        packets = _packets(other, video_stream(other.container))
        stamps = {packet.pts * packet.time_base for packet in packets if packet.pts is not None}
    times_s = sorted(time_s for stamp in stamps if (time_s := float(stamp) - media.info.start_s) <= until_s)
    last_s = -math.inf
    for event in read(media, wanted=times_s, sizes=[lambda width, height: (width, height)], health=Health()):
        if isinstance(event, Picture) and event.time_s > last_s:
            last_s, image = event.time_s, event.images[0]
            yield last_s, np.ascontiguousarray(image[: image.shape[0] & ~1, : image.shape[1] & ~1])


def _encoded(images: Iterator[tuple[float, Image]], media: Media, out: Any, options: dict[str, str]) -> Iterator[Any]:
    first = next(images, None)
    if first is None:
        raise MediaError("corrupt_packets", f"{media.path}: no picture can be decoded; expected at least one")
    stream = out.add_stream("h264", rate=Fraction(media.info.fps or 25).limit_denominator(1001), options=options)
    stream.height, stream.width = first[1].shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    stream.codec_context.thread_count = 1

    def packets() -> Iterator[Any]:
        for time_s, image in chain([first], images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = round(time_s * _TICKS), Fraction(1, _TICKS)
            yield from stream.encode(frame)
        yield from stream.encode()

    return packets()


def _wave(media: Media, until_s: float) -> tuple[Wave, int]:
    """All sound as mono samples (S,) from the container's first time stamp on, and their rate."""
    track = Track(0.0, until_s)
    for event in read(media, sound_span_s=(0.0, until_s), health=Health()):
        if isinstance(event, Sound):
            track.add(event.time_s, event.samples, event.rate)
    if not track.rate:
        raise MediaError("corrupt_packets", f"{media.path}: no sound can be decoded; expected some")
    return track.cut(0.0, track.reached_s), track.rate


def _encoded_sound(wave: Wave, rate: int, out: Any) -> Iterator[Any]:
    stream = out.add_stream("pcm_f32le", rate=rate, layout="mono")

    def packets() -> Iterator[Any]:
        for frame in (*_sound_frames(wave, rate), None):
            yield from stream.encode(frame)

    return packets()


def _sound_frames(wave: Wave, rate: int) -> Iterator[Any]:
    for start in range(0, len(wave), _BLOCK):
        block = np.ascontiguousarray(wave[None, start : start + _BLOCK], np.float32)
        frame = av.AudioFrame.from_ndarray(block, "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame
