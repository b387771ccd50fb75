"""Before any compute is spent: what is wrong with a config, manifest, bundle, run or media folder, and what it holds.

Torch is needed for the options of a config's parts alone; without it, that is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmtraits import config, parts
from mmtraits.config import RunConfig
from mmtraits.data import faults, leakage, probing, splits, survey
from mmtraits.data.faults import Fault
from mmtraits.data.leakage import Texts, counted
from mmtraits.data.manifest import Manifest, examine
from mmtraits.data.probing import Progress
from mmtraits.data.survey import Table
from mmtraits.data.texts import transcripts
from mmtraits.errors import ConfigError, ManifestError, MediaError, MMTraitsError
from mmtraits.media import features, transcript
from mmtraits.media.probe import MEDIA_SUFFIXES
from mmtraits.media.transcript import SUFFIXES
from mmtraits.runtime import Predictor
from mmtraits.schema import InputSpec, VectorSpec

Kind = Literal["config", "manifest", "bundle", "run", "media"]
Problem = tuple[tuple[str, ...], str]  # key path of a config, message
_COLUMNS = {
    "frames": ("video",),
    "wave": ("video", "audio"),
    "text": ("transcript", "text"),
}
_MADE_OF = {"no_transcript": ("transcript", "text"), "no_speech": ("video", "audio", "transcript")}  # by a producer
_ALIKE = 3  # of one kind that the text shows
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found at one path. `facts`: tables by name. `also`: the manifest that a config names, worth a look."""

    path: str
    kind: Kind
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Table] = field(default_factory=dict)
    also: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "also"}

    def to_text(self) -> str:
        """What a person reads in a terminal; of many problems of one kind the first few."""
        counts = f"{counted(len(self.problems), 'problem')}, {counted(len(self.warnings), 'warning')}"
        lines = [f"{self.kind} {self.path}: {counts}"]
        for title, found in (("problems", self.problems), ("warnings", self.warnings)):
            lines += ["", title, *_folded(found)] if found else []
        for title, table in self.facts.items():
            lines += ["", title, *_aligned(table)] if table else []
        return "\n".join(lines)


def check(
    path: Path | str, overrides: Sequence[str] = (), *, workers: int = 0, progress: Progress | None = None
) -> Report:
    """Look at one path, whatever it is; what is wrong there is in the report, never raised.

    `overrides`: `key.sub=value` for a config. `workers`: processes that open media files, 0 = this one.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _config(path, overrides)
    if _table(path).name.lower().endswith((".csv", ".csv.gz")):
        return _manifest(path, workers, progress)
    if (path / "bundle.json").is_file():
        return _bundle(path)
    if any((path / name).is_file() for name in ("run.json", "config.yaml")):
        return _run(path)
    return _media(path, workers, progress)


def check_all(
    paths: Sequence[Path | str], overrides: Sequence[str] = (), *, workers: int = 0, progress: Progress | None = None
) -> list[Report]:
    """A report for each path; that of a manifest that a config names follows the config's."""
    reports: dict[Path, Report] = {}
    waiting = list(map(Path, paths))
    while waiting:
        path = waiting.pop(0)
        if (real := _table(path).resolve()) not in reports:
            reports[real] = check(path, overrides, workers=workers, progress=progress)
            also = reports[real].also
            waiting[:0] = [also] if also else []
    return list(reports.values())


def _table(path: Path) -> Path:
    """The clips.csv of a folder that holds one, else the path itself."""
    return next((path / name for name in ("clips.csv", "clips.csv.gz") if (path / name).is_file()), path)


def _report(
    path: Path, kind: Kind, seen: Sequence[Fault], problems: Sequence[str], facts: Mapping[str, Table]
) -> Report:
    return Report(
        path=str(path),
        kind=kind,
        problems=(*(fault.text for fault in seen if fault.serious), *problems),
        warnings=tuple(fault.text for fault in seen if not fault.serious),
        facts=facts,
    )


# ---------------------------------------------------------------------------------------------------- manifest, media


def _manifest(path: Path, workers: int, progress: Progress | None) -> Report:
    try:
        found, problems = examine(path, check_files=True)
    except ManifestError as error:
        found, problems = None, str(error).splitlines()
    if found is None or not found.clips:
        return _report(path, "manifest", (), problems, {})
    files, texts = probing.named(found), transcripts(found.clips)
    probed = probing.probe_all(list(files), workers, progress)
    facts = {"rows": survey.counts(found), "labels": survey.labels(found)}
    rows, everybody = faults.rows_by_split(found), np.arange(len(found.clips))
    seen = [*probing.find(found, files, probed), *_unread(found, texts)]
    if "train" in rows and len(rows) > 1:
        leak = leakage.report(survey.on_scale(found), rows, texts=texts)
        seen += survey.leaks(found, leak)
        facts["leakage: what is shared with train"] = survey.leakage(found, leak)
    seen += faults.find(found, texts)
    seen += survey.two_names(found, leakage.near_duplicates(texts, everybody, everybody))
    if probed:
        facts["media"] = probing.summary(probed)
    return _report(found.path, "manifest", seen, problems, facts)


def _unread(manifest: Manifest, texts: Texts) -> Iterator[Fault]:
    """Transcripts that cannot be read; those that are not there are named already."""
    for row, (clip, text) in enumerate(zip(manifest.clips, texts, strict=True)):
        if text is None and clip.transcript is not None and clip.transcript.is_file():
            try:
                transcript.read(clip.transcript)
            except MediaError as error:
                yield Fault(True, f"{faults.line_of(manifest, row)}: {error}")


def _media(path: Path, workers: int, progress: Progress | None) -> Report:
    """A folder of media, or one file of it."""
    if not path.exists():
        return _report(path, "media", (), [f"{path}: no such file or folder"], {})
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    media = [file for file in files if file.suffix.lower() in MEDIA_SUFFIXES]
    if not media:
        expected = "expected media files, a config (.yaml), a manifest (clips.csv), a bundle or a run"
        return _report(path, "media", (), [f"{path}: no media among {counted(len(files), 'file')}; {expected}"], {})
    probed = probing.probe_all(media, workers, progress)
    problems = [info for info in probed.values() if isinstance(info, str)]
    seen = [
        Fault(False, f"{others[0]}: the same bytes as {first}: it will be scored twice")
        for first, *others in probing.same_content(media)
    ]
    told = sum(any(file.with_suffix(suffix).is_file() for suffix in SUFFIXES) for file in media)
    if not told:
        seen.append(
            Fault(False, f"{path}: no file has a transcript beside it ({', '.join(SUFFIXES)}); scores lack words")
        )
    facts = [row | {"with transcript": told} for row in probing.summary(probed)]
    return _report(path, "media", seen, problems, {"media": facts})


# ---------------------------------------------------------------------------------------------------- config


def _config(path: Path, overrides: Sequence[str]) -> Report:
    """A config, and its protocol and streams on the manifest that it names."""
    seen: list[Fault] = []
    facts: dict[str, Table] = {}
    named: list[Path] = []

    def judge(found: RunConfig) -> list[Problem]:
        named[:] = [found.data.manifest]
        return list(_judged(found, seen, facts))

    problems: list[str] = []
    try:
        config.load(path, overrides, check=judge)
    except ConfigError as error:
        problems = str(error).splitlines()
    report = _report(path, "config", seen, problems, facts)
    return replace(report, also=next((manifest for manifest in named if manifest.exists()), None))


def _parts(found: RunConfig, seen: list[Fault]) -> list[Problem]:
    """Problems in the options of streams, fusion and head, which their own files know."""
    try:
        return parts.problems(found)
    except ModuleNotFoundError as error:
        told = "the options of streams, fusion and head were not looked at"
        seen.append(Fault(False, f'{error.name}: not installed; {told} (pip install "mmtraits[train]")'))
        return []


def _judged(found: RunConfig, seen: list[Fault], facts: dict[str, Table]) -> Iterator[Problem]:
    wrong_parts = _parts(found, seen)
    yield from wrong_parts
    try:
        manifest, wrong = examine(found.data.manifest)
    except ManifestError as error:
        yield ("data", "manifest"), f"{error}; seen from {Path.cwd()}"
        return
    if manifest is None or wrong:
        yield (
            ("data", "manifest"),
            f"{counted(len(wrong), 'problem')} in {found.data.manifest}; nothing else was judged",
        )
        return
    yield from _protocol(found, manifest, seen, facts)
    if not wrong_parts:
        yield from _streams(found, manifest, facts)


def _protocol(found: RunConfig, manifest: Manifest, seen: list[Fault], facts: dict[str, Table]) -> Iterator[Problem]:
    """The rows that train, select and test, divided as training would."""
    protocol, by_fold = found.protocol, found.over_folds
    yield from found.runs.unknown(manifest.schema.trait_names, (c.question for c in manifest.clips), manifest.path)
    if by_fold and protocol.split != "kfold":
        yield ("runs", "over"), f"found 'fold' with protocol.split {protocol.split!r}; expected 'kfold'"
        return
    options = protocol.model_dump(exclude={"allow_leakage"})
    try:
        members = [splits.assign(manifest, member=n, **options) for n in range(protocol.folds if by_fold else 1)]
    except ManifestError as error:
        yield ("protocol",), str(error)
        return
    sizes = [{split: len(rows) for split, rows in member.items()} for member in members]
    facts["members"] = [{"member": n, **size} for n, size in enumerate(sizes)]
    for split in (split for split in ("train", "val") if not all(size[split] for size in sizes)):
        yield ("protocol",), f"no row is left for {split}; use fewer folds, or more clips and persons"
    if not all(size["test"] for size in sizes):
        seen.append(Fault(False, f"{manifest.path}: no row is tested under protocol.split {protocol.split!r}"))
    persons, clips = leakage.between(manifest, members)
    if persons and not protocol.allow_leakage:
        yield ("protocol", "split" if protocol.split == "official" else "by"), leakage.refusal(manifest, persons, clips)
    elif persons:
        seen.append(Fault(False, f"{manifest.path}: {counted(persons, 'person')} in training and outside, as allowed"))


def _streams(found: RunConfig, manifest: Manifest, facts: dict[str, Table]) -> Iterator[Problem]:
    """How many clips may have each stream; what no clip has cannot be trained."""
    facts["streams"] = []
    for stream, part in found.streams.items():
        try:
            spec = parts.encoder(part).spec
            columns = _columns(spec)
        except ImportError:
            return
        except MMTraitsError as error:
            yield ("streams", stream), str(error)
            continue
        having = [stream in c.features or any(getattr(c, name) is not None for name in columns) for c in manifest.clips]
        facts["streams"].append({"stream": stream, "use": part.use, "clips": sum(having), "of": len(having)})
        if not any(having):
            wanted = " or ".join((*columns, f"feature_{stream}"))
            yield ("streams", stream), f"no clip of {manifest.path} has {wanted}; take the stream out ({stream}: null)"


def _columns(spec: InputSpec) -> tuple[str, ...]:
    """Any of which a clip needs for the stream, besides given features. ConfigError for an unknown producer."""
    if not isinstance(spec, VectorSpec):
        return _COLUMNS[spec.kind]
    return () if spec.producer == features.EXTERNAL else _MADE_OF[features.producer(spec).REASON]


# ---------------------------------------------------------------------------------------------------- bundle, run


def _bundle(path: Path) -> Report:
    """Every file against its sha256, the graph against what bundle.json says of it."""
    try:
        predictor = Predictor(path, threads=1)
    except MMTraitsError as error:
        return _report(path, "bundle", (), str(error).splitlines(), {})
    seen = []
    if not (path / "MODEL_CARD.md").is_file():
        seen.append(Fault(True, f"{path / 'MODEL_CARD.md'}: no such file; export the bundle again"))
    if predictor.calibration is None:
        seen.append(Fault(False, f"{path}: not calibrated; its scores have no intervals"))
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    about = {"name": predictor.name, "streams": ", ".join(predictor.streams), "MB": size / 1e6}
    about |= {"window s": predictor.windowing.length_s, "construct": predictor.schema.construct}
    traits = [{"trait": t.name, "kind": t.kind, "from": t.low, "to": t.high} for t in predictor.schema.traits]
    return _report(path, "bundle", seen, (), {"bundle": [about], "traits": traits})


def _run(path: Path) -> Report:
    """Whether the members of a run are trained to their end, and its clips still in the manifest."""
    try:
        settings = config.load(path / "config.yaml")
        about = json.loads((path / "run.json").read_text(encoding="utf-8"))
        members = {name: one["splits"] for name, one in about["members"].items()}
    except ConfigError as error:
        return _report(path, "run", (), str(error).splitlines(), {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"{path / 'run.json'}: cannot be read ({error!r}); expected a folder written by `mmtraits train`"
        return _report(path, "run", (), [told], {})
    seen = [fault for name in members for fault in _member(path, name)]
    if persons := (about.get("leakage") or {}).get("persons_shared"):
        seen.append(Fault(False, f"{path}: trained with {counted(persons, 'person')} both in training and outside"))
    seen += _moved(settings.data.manifest, {clip for one in members.values() for ids in one.values() for clip in ids})
    done = {name: (path / name / "metrics.json").is_file() for name in members}
    table = [
        {"member": name, "finished": "yes" if done[name] else "no", **{split: len(ids) for split, ids in one.items()}}
        for name, one in members.items()
    ]
    return _report(path, "run", seen, (), {"members": table})


def _member(path: Path, name: str) -> Iterator[Fault]:
    if not (path / name / "metrics.json").is_file():
        yield Fault(False, f"{path / name}: not trained to its end; go on with mmtraits train --resume {path}")
    elif not (path / name / "best.safetensors").is_file():
        yield Fault(
            True, f"{path / name / 'best.safetensors'}: no such file; the member cannot be used, train it again"
        )


def _moved(path: Path, clips: set[str]) -> Iterator[Fault]:
    """Clips of a run that its manifest no longer has."""
    try:
        manifest, _ = examine(path)
    except ManifestError:
        yield Fault(False, f"{path}: no such manifest, seen from {Path.cwd()}; evaluate needs it (--manifest)")
        return
    if gone := sorted(clips - {clip.id for clip in manifest.clips} if manifest else clips):
        told = f"without {counted(len(gone), 'clip')} of the run, such as {gone[0]!r}"
        yield Fault(True, f"{path}: {told}; evaluate on the manifest that the run was trained on")


# ---------------------------------------------------------------------------------------------------- text


def _folded(found: Sequence[str]) -> Iterator[str]:
    """The first few of each kind: lines that differ in what they quote and count only."""
    kinds: dict[str, list[str]] = {}
    for line in found:
        kinds.setdefault(re.sub(r"'[^']*'|\d+(?:[.,]\d+)*", "#", line), []).append(line)
    for lines in kinds.values():
        yield from (f"  {line}" for line in lines[:_ALIKE])
        if len(lines) > _ALIKE:
            yield f"    ... and {len(lines) - _ALIKE:,} more like these"


def _aligned(table: Table) -> list[str]:
    names = list(dict.fromkeys(name for row in table for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in table)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(names))]
    left = [isinstance(table[0].get(name), str) for name in names]
    lines = [
        "  ".join(c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, left, strict=True))
        for row in cells
    ]
    return [f"  {line}".rstrip() for line in lines]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        most = max(*value, 1)
        return "".join(_BARS[-(-8 * count // most)] for count in value)
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
