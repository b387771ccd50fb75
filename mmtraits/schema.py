"""The nouns: clips, traits and their scales, what an encoder wants as input, and scores. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits import power

Status = Literal["ok", "degraded", "failed"]
REASONS = (
    "unreadable_container", "truncated_no_index", "truncated", "corrupt_packets", "codec_unsupported",
    "format_not_allowed", "too_large", "too_long", "decoder_crash", "timeout", "out_of_memory", "no_modality",
    "no_face", "no_sound", "no_transcript", "no_speech", "text_truncated", "non_finite",
)  # fmt: skip


def join_reasons(reasons: Iterable[str]) -> str:
    """Reasons without repeats, in the order of `REASONS`, joined by `;`."""
    found = set(reasons)
    return ";".join(reason for reason in REASONS if reason in found)


# ---------------------------------------------------------------------------------------------------- traits


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """One number of a score: its name and scale. `low`/`high` None = unbounded; `opposite_of` declares the sign."""

    name: str
    kind: Literal["continuous", "binary"] = "continuous"
    low: float | None = None
    high: float | None = None
    opposite_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitSchema:
    """What the K numbers of a score mean: names, scales, signs and who judged them.

    `transform` maps labels to the space in which networks work; it is fitted on training labels only. `yeo_johnson`:
    nearly normal by a power transform, then z-scored. `rated`: what a label was given to; where that is a person,
    scores are averaged over a person's clips before they are judged.
    """

    name: str
    traits: tuple[Trait, ...]
    construct: Literal["apparent", "self_reported"]
    judged_by: str
    transform: Literal["min_max", "z_score", "yeo_johnson"] = "min_max"
    rated: Literal["clip", "person"] = "clip"

    @property
    def trait_names(self) -> tuple[str, ...]:
        """The K trait names, in column order."""
        return tuple(trait.name for trait in self.traits)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML and JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TraitSchema:
        """The inverse of `to_dict`."""
        return cls(**{**data, "traits": tuple(Trait(**trait) for trait in data["traits"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTransform:
    """target = (label − shift) / scale per trait, and the finite bounds of the schema's own scale; all (K,) float64.

    power: the λ of a Yeo-Johnson transform of the labels before that; None for the other transforms.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    power: NDArray[np.float64] | None = None

    @classmethod
    def fit(cls, schema: TraitSchema, labels: NDArray[np.floating[Any]]) -> TargetTransform:
        """Fit on training labels (N, K), NaN = missing.

        A trait without bounds is clipped to its training range widened by half of it on each side.
        """
        values = np.asarray(labels, dtype=np.float64)
        found_low, found_high = np.fmin.reduce(values), np.fmax.reduce(values)  # NaN, unsaid, where none is known
        margin = 0.5 * (found_high - found_low)
        low = np.array([found_low[k] - margin[k] if t.low is None else t.low for k, t in enumerate(schema.traits)])
        high = np.array([found_high[k] + margin[k] if t.high is None else t.high for k, t in enumerate(schema.traits)])
        rates = None
        if schema.transform == "yeo_johnson":
            rates = np.array([power.fit(column[~np.isnan(column)]) for column in values.T])
            values = power.forward(values, rates)
        if schema.transform == "min_max":
            shift, scale = low, high - low
        else:
            shift, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        return cls(shift=shift, scale=np.where(scale > 0, scale, 1.0), low=low, high=high, power=rates)

    def to_target(self, labels: NDArray[Any]) -> NDArray[np.float64]:
        """Labels (N, K) on the schema's scale -> target space."""
        values = np.asarray(labels, dtype=np.float64)
        if self.power is not None:
            values = power.forward(values, self.power)
        return (values - self.shift) / self.scale

    def to_scale(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """Targets (N, K) -> the schema's scale, clipped to its bounds."""
        values = np.asarray(targets, dtype=np.float64) * self.scale + self.shift
        if self.power is not None:
            ends = power.forward(np.stack([self.low, self.high]), self.power)
            values = power.inverse(np.clip(values, *ends), self.power)
        return np.clip(values, self.low, self.high)

    @property
    def curve(self) -> NDArray[np.float64] | None:
        """`power.curve` of the transform, (11, K); None without a power."""
        if self.power is None:
            return None
        return power.curve(self.power, self.shift, self.scale, self.low, self.high)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain data for JSON; `power` only where there is one."""
        return {name: value.tolist() for name in _TRANSFORM if (value := getattr(self, name)) is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[float]]) -> TargetTransform:
        """The inverse of `to_dict`."""
        return cls(**{name: np.asarray(data[name], dtype=np.float64) for name in _TRANSFORM if name in data})

    @classmethod
    def joined(cls, parts: Sequence[TargetTransform]) -> TargetTransform:
        """Side by side: of the traits of the first, then of the second. All have a power or none has."""
        names = [name for name in _TRANSFORM if getattr(parts[0], name) is not None]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


_TRANSFORM = ("shift", "scale", "low", "high", "power")


# ---------------------------------------------------------------------------------------------------- clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One person, one stretch of media, nothing decoded yet. An absent modality is None.

    `features` names, per stream, a file (or `file.npz#key`) that holds the output of that stream's front-end.
    """

    id: str
    video: Path | None = None
    audio: Path | None = None
    transcript: Path | None = None
    text: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    person: str | None = None  # splits and confidence intervals never divide a person
    speaker: str | None = None  # in a dialogue: whose traits are asked for
    question: str | None = None  # the interview prompt that this clip answers
    attributes: Mapping[str, str] = field(default_factory=dict)  # for audits; never a model input
    features: Mapping[str, str] = field(default_factory=dict)

    @property
    def whose(self) -> str:
        """The person, or where nobody is named the clip alone, under a name that no person has."""
        return self.person or f"clip {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How a clip is cut for one forward pass: windows of `length_s` every `hop_s`, the last one aligned to the end."""

    length_s: float = 15.0
    hop_s: float = 15.0


# ---------------------------------------------------------------------------------------------------- raw input


class Raw(NamedTuple):
    """One stream of one window, decoded: data (T, ...) and mask (T,) bool. Absent = no True in the mask; T may be 0."""

    data: NDArray[Any]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSpec:
    """uint8 RGB frames (T, H, W, 3) at `frames` uniform times per window; `face` = aligned crops of the person."""

    frames: int = 32
    height_px: int = 64
    width_px: int = 64
    crop: Literal["face", "full"] = "face"
    kind: Literal["frames"] = "frames"

    def empty(self) -> Raw:
        """The stream of a clip that has none of it."""
        return Raw(np.zeros((0, self.height_px, self.width_px, 3), np.uint8), np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveSpec:
    """float32 mono samples (S,) in [−1, 1] at `sample_rate` Hz; where `max_s` is given only that much of a window."""

    sample_rate: int
    max_s: float | None = None
    kind: Literal["wave"] = "wave"

    def empty(self) -> Raw:
        """The stream of a clip that has none of it."""
        return Raw(np.zeros(0, np.float32), np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """int64 token ids (T,), special tokens included, cut at `max_ids`.

    `tokenizer` is a tokenizer.json: `package:NAME/PATH` in an installed package, or a path (in a bundle: inside it).
    What follows it as `#sha256=...` its bytes must have.
    turns: `own` is what the scored speaker says; `dialogue` everybody's turns, as `Speaker: ... Others: ...`.
    """

    tokenizer: str
    max_ids: int = 256
    turns: Literal["own", "dialogue"] = "own"
    kind: Literal["text"] = "text"

    def empty(self) -> Raw:
        """The stream of a clip that has none of it."""
        return Raw(np.zeros(0, np.int64), np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSpec:
    """float32 vectors (T, width) from a named producer, or `external`: read from files named for each clip."""

    width: int
    producer: str = "external"
    kind: Literal["vector"] = "vector"

    def empty(self) -> Raw:
        """The stream of a clip that has none of it."""
        return Raw(np.zeros((0, self.width), np.float32), np.zeros(0, np.bool_))


InputSpec = FrameSpec | WaveSpec | TextSpec | VectorSpec
_SPECS: dict[str, type[InputSpec]] = {"frames": FrameSpec, "wave": WaveSpec, "text": TextSpec, "vector": VectorSpec}


def spec_from_dict(data: Mapping[str, Any]) -> InputSpec:
    """The inverse of `dataclasses.asdict` on any InputSpec."""
    return _SPECS[data["kind"]](**data)


def stack(raws: Sequence[Raw], *, min_steps: int = 1) -> Raw:
    """Pad raws of one stream to a batch: data (B, T, ...) with zeros and mask (B, T) with False; T >= `min_steps`."""
    steps = max(min_steps, *(len(raw.mask) for raw in raws))
    first = raws[0].data
    data = np.zeros((len(raws), steps, *first.shape[1:]), first.dtype)
    mask = np.zeros((len(raws), steps), np.bool_)
    for row, raw in enumerate(raws):
        data[row, : len(raw.mask)] = raw.data
        mask[row, : len(raw.mask)] = raw.mask
    return Raw(data, mask)


# ---------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitScores:
    """Scores for N clips on the schema's own scale. One clip in, one row out, always.

    values, lower, upper: (N, K) float32; a failed clip's row is all NaN, and only a failed clip's. The interval is NaN
    where the bundle is not calibrated. present: (N, P) which streams had anything to say. unlike: per clip the names of
    what is unlike training, joined by `;`, "" for nothing, None where it was not judged (the default).
    """

    schema: TraitSchema
    clip_ids: tuple[str, ...]
    values: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    streams: tuple[str, ...]
    present: NDArray[np.bool_]
    status: tuple[Status, ...]
    reasons: tuple[str, ...]
    unlike: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        """Without a judgement every clip's is None."""
        if not self.unlike:
            object.__setattr__(self, "unlike", (None,) * len(self.clip_ids))
