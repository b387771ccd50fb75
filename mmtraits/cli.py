"""The command line. Every heavy import is inside its command, so that `mmtraits --help` is quick and needs no torch."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtraits.console import bar, console, ended_by_sigterm, show, summary
from mmtraits.errors import JobError, MMTraitsError

if TYPE_CHECKING:
    from mmtraits.config import RunConfig

app = typer.Typer(
    name="mmtraits",
    help="Apparent-personality scores from video, audio and transcript. For research; not for decisions about people.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="The cache of predict --cache, and of training.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
Folder = Annotated[Path, typer.Argument(help="The folder of predict --cache, or of a config's data.cache.")]


class Device(StrEnum):
    """Where a bundle runs."""

    cpu = "cpu"
    cuda = "cuda"


class Engine(StrEnum):
    """What scores."""

    local = "local"
    ray = "ray"


class Split(StrEnum):
    """Rows of a manifest."""

    train = "train"
    val = "val"
    test = "test"


class Intervals(StrEnum):
    """How intervals are made."""

    split_conformal = "split_conformal"
    cqr = "cqr"


def main() -> None:
    """Entry point: an error that the user can mend is one message on stderr and exit code 2; typer makes 130 of ^C."""
    try:
        app()
    except MMTraitsError as error:
        typer.echo(f"mmtraits: {error}", err=True)
        sys.exit(1 if isinstance(error, JobError) else 2)


def _batch_size(given: str) -> int | None:
    if given == "auto":
        return None
    if not given.isdecimal() or int(given) < 1:
        raise typer.BadParameter(f"{given!r}; expected auto or a number from 1")
    return int(given)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from mmtraits import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the sample clips, the scores and the report.")] = Path("demo"),
    model: Annotated[Path | None, typer.Option(help="Bundle; without it the default one.")] = None,
) -> None:
    """The five-minute tour: make sample clips, score them, say where the report is."""
    from mmtraits import predict
    from mmtraits.bundle import default_bundle
    from mmtraits.data.synthetic import demo_clips

    bundle = model or default_bundle()  # before clips are drawn for nothing
    clips = out / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    with console().status(f"Drawing sample clips in {clips}"):
        demo_clips(clips)
    with bar("Scoring") as progress:
        outcome = predict.run([clips], out, bundle=bundle, fresh=True, progress=progress)
    show(outcome)
    summary(outcome)


@app.command("predict")
def predict_command(
    paths: Annotated[list[Path] | None, typer.Argument(help="Media files and folders.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.csv, results.jsonl and report.html.")] = Path("out"),
    model: Annotated[Path | None, typer.Option(help="Bundle; without it the default one.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="A clips.csv instead of paths.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Vectors: <stream>/<clip>.npy, or <stream>.npz with clip and features."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: one per core.")] = None,
    batch: Annotated[
        int | None, typer.Option(parser=_batch_size, metavar="auto|N", help="Windows per forward pass.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.cpu,
    max_duration: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of a clip; of a longer one the beginning is scored.")
    ] = None,
    min_decoded: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a clip's length; one that is cut off before it fails.")
    ] = 0.0,
    speech_to_text: Annotated[
        str,
        typer.Option(
            metavar="auto|none|moonshine|FOLDER",
            help="For clips without a transcript. auto: where it is installed; FOLDER: a faster-whisper model.",
        ),
    ] = "auto",
    follow: Annotated[bool, typer.Option("--follow", help="Follow symbolic links that lead out of a folder.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Score all anew, or go on with the job there.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for decoded media, for later runs: it will hold faces and voices.")
    ] = None,
    cache_mb: Annotated[int, typer.Option(min=1, help="Largest size of that folder.")] = 20_000,
    engine: Annotated[Engine, typer.Option(help="ray: a Ray cluster, RAY_ADDRESS or this machine's cores.")] = (
        Engine.local
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if a clip failed.")] = False,
) -> None:
    """Score every clip of a folder or manifest: one row each, with status and reason."""
    from mmtraits import predict
    from mmtraits.runtime import usable_cores

    with ended_by_sigterm(), bar("Scoring") as progress:
        outcome = predict.run(
            paths or [], out, manifest=manifest, features=features, bundle=model,
            workers=usable_cores() if workers is None else workers, batch=batch, device=device.value,
            max_duration_s=max_duration, min_decoded=min_decoded, speech_to_text=speech_to_text, follow=follow,
            fresh=fresh, cache=cache, cache_mb=cache_mb, engine=engine.value, progress=progress,
        )  # fmt: skip
    summary(outcome)
    if not outcome.total:
        typer.echo("mmtraits: no media files there; nothing was scored", err=True)
        raise typer.Exit(1)
    if strict and outcome.counts["failed"]:
        raise typer.Exit(2)


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="A .yaml config.", show_default=False)] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value ...", show_default=False)] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder instead of a config.")] = None,
    root: Annotated[Path, typer.Option(help="Where run folders are made.")] = Path("checkpoints"),
) -> None:
    """Fit the members of a run; leaves a run folder."""
    from mmtraits.errors import ConfigError

    if (config is None) == (resume is None):
        raise ConfigError("train: expected either a config or --resume RUN, and not both")
    settings = _settings(config or Path(resume or "") / "config.yaml", overrides)
    from mmtraits.train import fit

    with bar("Extracting") as extracting:
        folder = fit(
            settings, resume=resume is not None, root=resume.parent if resume else root,
            progress=console().is_terminal, extracting=extracting,
        )  # fmt: skip
    typer.echo(str(folder))


@app.command()
def extract(
    config: Annotated[Path, typer.Argument(help="A .yaml config.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value ...", show_default=False)] = None,
    manifest: Annotated[Path | None, typer.Option(help="A clips.csv; without it the config's own.")] = None,
) -> None:
    """Put what front-ends make of every clip into the cache, ahead of training."""
    settings = _settings(config, overrides)
    from mmtraits.data.manifest import read
    from mmtraits.extract import extract as run

    with bar("Extracting") as progress:
        found = run(settings, read(manifest or settings.data.manifest), progress=progress)
    typer.echo(f"{len(found.windows)} windows in {settings.data.cache}")
    for clip in found.dropped:
        typer.echo(f"{clip}: nothing in it; {found.reasons.get(clip, '')}")


@app.command()
def evaluate(
    source: Annotated[Path, typer.Argument(help="A run or a bundle.")],
    manifest: Annotated[Path | None, typer.Option(help="A labelled clips.csv; a run may leave it out.")] = None,
    split: Annotated[Split, typer.Option(help="Rows to evaluate.")] = Split.test,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json; a run: its own.")] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.cpu,
    sensitivity: Annotated[
        bool, typer.Option(help="Also disturb a bundle's media: light, blur, noise, pitch.")
    ] = False,
) -> None:
    """How far scores are from labels, beside floors, with intervals, an audit and a model card."""
    from mmtraits.config import load
    from mmtraits.errors import ConfigError
    from mmtraits.evaluate import evaluate as run
    from mmtraits.evaluation.contents import to_text

    if manifest is None and not (source / "config.yaml").is_file():
        raise ConfigError(f"{source}: no run, whose config names a manifest; name one with --manifest")
    result = run(
        source, manifest or load(source / "config.yaml").data.manifest, split.value, out=out, device=device.value,
        sensitivity=sensitivity,
    )  # fmt: skip
    typer.echo(to_text(result))


@app.command()
def compare(
    manifest: Annotated[Path, typer.Option(help="The clips.csv that all are trained and judged on.")],
    systems: Annotated[
        list[str] | None,
        typer.Argument(help="Configs and finished run folders; key.sub=value ...", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for comparison.json, report.html, runs.")] = Path("comparison"),
) -> None:
    """Several systems under one protocol: one table with intervals, and their differences."""
    overrides = [one for one in systems or [] if "=" in one and not Path(one).exists()]
    from mmtraits.compare import compare as run
    from mmtraits.evaluation.side_by_side import to_text

    with bar("Extracting") as extracting:
        result = run(
            [one for one in systems or [] if one not in overrides], manifest, out, overrides,
            progress=console().is_terminal, extracting=extracting,
        )  # fmt: skip
    typer.echo(to_text(result))
    typer.echo(str(out / "report.html"))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder; it must be new.")],
    name: Annotated[str | None, typer.Option(help="The bundle's name; without it the run's.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="The run's clips.csv, if it was moved.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="A dataset.yaml: licence and citations of the data.")] = None,
    intervals: Annotated[Intervals, typer.Option(help="How intervals are made.")] = Intervals.split_conformal,
) -> None:
    """Write a run's members as one bundle, after checking that it scores as they do."""
    from mmtraits.export import export as write

    done = write(run, out, name=name, manifest=manifest, dataset=dataset, method=intervals.value)
    typer.echo(f"{done.folder}: {done.members} members, {done.graph_mb:.1f} MB")
    typer.echo(f"largest difference from torch {done.parity:.1e}, between batches {done.batch_effect:.1e}")


@app.command()
def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Configs, manifests, bundles, runs, media; key.sub=value ...", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write what was found as JSON, too.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that open media; default: one per core.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a config, for editors.")] = False,
) -> None:
    """Every problem of a config, manifest, bundle, run or media folder, before any compute is spent."""
    import json

    from mmtraits.errors import ConfigError

    if schema:
        from mmtraits.config import json_schema

        typer.echo(json.dumps(json_schema(), indent=1))
        return
    from mmtraits.check import check_all
    from mmtraits.runtime import usable_cores

    overrides = [path for path in paths or [] if "=" in path and not Path(path).exists()]
    wanted = [path for path in paths or [] if path not in overrides]
    if not wanted:
        raise ConfigError("check: expected a config, manifest, bundle, run or media folder")
    with bar("Opening media") as progress:
        cores = usable_cores() if workers is None else workers
        reports = check_all(wanted, overrides, workers=cores, progress=progress)
    if out is not None:
        out.write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n", encoding="utf-8")
    typer.echo("\n\n".join(report.to_text() for report in reports))
    if any(report.problems for report in reports):
        raise typer.Exit(2)


@cache_app.command("ls")
def cache_ls(folder: Folder) -> None:
    """How much is in it, by kind."""
    from mmtraits.media.cache_survey import survey, to_text

    typer.echo(to_text(survey(folder)))


@cache_app.command("verify")
def cache_verify(folder: Folder) -> None:
    """Read everything; exit with 2 where something is damaged, which is made again when it is next needed."""
    from mmtraits.media.cache_survey import damaged

    found = list(damaged(folder))
    for path in found:
        typer.echo(f"{path}: damaged; delete it")
    raise typer.Exit(2 if found else 0)


@cache_app.command("prune")
def cache_prune(
    folder: Folder,
    max_mb: Annotated[float | None, typer.Option(min=0, help="Remove what was used longest ago down to this.")] = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="Remove what was not used for so long.")] = None,
) -> None:
    """Remove clips and rows of predict, never packs of training."""
    from mmtraits.media.cache_survey import prune

    removed = prune(folder, max_mb=max_mb, unused_days=unused_days)
    typer.echo(f"{removed.files} files removed, {removed.size_mb:.1f} MB")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """What this installation can do, what is missing, and the command that mends it."""
    import json

    from mmtraits.doctor import examine

    found = examine()
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else found.to_text())
    if found.broken:
        raise typer.Exit(1)


def _settings(path: Path, overrides: list[str] | None) -> RunConfig:
    from mmtraits.config import load
    from mmtraits.parts import problems

    return load(path, overrides or [], check=problems)
