"""The rules of the tree, as data: who imports whom, where each heavy library lives, how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmtraits"
EVERYTHING = None

MAY_IMPORT: dict[str, set[str] | None] = {
    "__init__": {"_wheels", "errors", "schema"},
    "_wheels": set(),
    "errors": set(),
    "power": set(),
    "schema": {"power"},
    "tokens": set(),
    "losses": set(),
    "packages": {"errors"},
    "weights": {"errors", "packages"},
    "networks": {"errors", "layers", "tokens", "weights"},
    "metrics": {"schema"},
    "evaluation": set(),  # its __init__; of the files below, each is listed
    "evaluation.contents": {"errors"},
    "evaluation.bootstrap": {"schema", "metrics", "evaluation.contents"},
    "calibrate": {"schema", "evaluation.contents"},
    "baselines": {"schema", "metrics", "data", "media"},
    "fairness": {"schema", "metrics", "evaluation.bootstrap", "evaluation.contents"},
    "evaluation.robustness": {"schema", "metrics", "evaluation.contents"},
    "evaluation.nuisance": {"schema", "errors", "metrics", "media", "runtime", "evaluation.contents"},
    "evaluation.coverage": {"calibrate", "evaluation.contents"},
    "evaluation.units": {"data", "schema"},
    "evaluation.findings": {"evaluation.contents", "evaluation.views"},
    "evaluation.group_findings": {"evaluation.contents", "schema", "evaluation.views"},
    "evaluation.side_by_side": {"evaluation.contents"},
    "evaluation.side_findings": {"evaluation.contents", "evaluation.side_by_side", "evaluation.views"},
    "evaluation.views": {"evaluation.contents", "evaluation.plots", "schema", "evaluation.side_by_side"},
    "unlike": {"schema"},
    "ranges": {"config", "data", "errors", "extract", "graph", "media", "model", "schema", "unlike"},
    "evaluation.scored": {"baselines", "calibrate", "data", "errors", "schema"},
    "evaluation.scored_run": {"baselines", "config", "data", "errors", "extract", "run", "schema", "evaluation.scored"},
    "evaluation.scored_bundle": {
        "baselines", "data", "errors", "jobs.inputs", "media", "runtime", "schema", "evaluation.scored",
    },
    "evaluation.plots": set(),
    "check": {"config", "errors", "schema", "media", "data", "runtime", "parts"},
    "yaml_file": set(),
    "config": {"errors", "schema", "yaml_file"},
    "parts": {"config", "errors", "losses"},
    "layers": {"tokens"},
    "llm": {"config", "errors", "media", "packages", "schema"},
    "media": {"schema", "errors", "packages"},
    "data": {"schema", "errors", "media", "tokens", "yaml_file"},
    "encoders": {"errors", "packages", "schema", "tokens", "layers", "networks", "weights", "media.features"},
    "fusion": {"tokens", "layers", "networks"},
    "heads": {"tokens", "layers"},
    "optimizer": {"config", "errors"},
    "model": {"config", "errors", "parts", "encoders", "fusion", "heads", "tokens", "schema", "optimizer", "weights"},
    "extract": {"config", "errors", "data", "media", "parts", "encoders", "tokens", "schema", "workers"},
    "train": {
        "config", "errors", "schema", "data", "media", "model", "losses", "metrics", "tokens", "extract", "run",
        "parts", "trainer", "optimizer", "weights",
    },
    "trainer": {"config", "data", "weights"},
    "objectives": {"data", "losses", "model", "tokens", "layers", "networks"},
    "run": {"config", "errors", "schema", "data", "model", "tokens", "extract"},
    "onnx_file": set(),
    "bundle": {"schema", "errors", "calibrate", "unlike", "onnx_file"},
    "heard": {"media", "schema"},
    "runtime": {"schema", "errors", "media", "bundle", "heard", "unlike"},
    "jobs": set(),
    "jobs.batches": {"heard", "runtime", "schema"},
    "workers": {"schema", "errors", "media"},
    "jobs.inputs": {"data", "errors", "media", "schema"},
    "jobs.journal": {"data", "errors", "media", "schema"},
    "jobs.transcripts": {"report"},
    "predict": {"errors", "heard", "jobs", "media", "report", "runtime", "schema", "workers"},
    "jobs.ray_engine": {"errors"},
    "jobs.kept": {"jobs.batches", "jobs.inputs", "jobs.journal", "media", "runtime", "schema"},
    "console": {"predict"},
    "report": {"schema", "evaluation.contents", "evaluation.side_by_side", "evaluation.views"},
    "card": {"errors", "schema", "report", "evaluation.contents", "evaluation.views"},
    "doctor": {"errors", "packages", "bundle", "runtime"},
    "evaluation.systems": {
        "baselines", "data", "evaluation.bootstrap", "evaluation.contents", "evaluation.scored",
        "evaluation.scored_run", "evaluation.units",
    },
    "evaluate": {
        "bundle", "card", "data", "errors", "evaluation", "fairness", "metrics", "report", "runtime", "schema",
    },
    "compare": {
        "config", "data", "errors", "evaluate", "evaluation", "extract", "metrics", "parts", "report", "run", "schema",
        "train",
    },
    "graph": {"errors", "layers", "media", "model", "runtime", "schema", "tokens", "unlike"},
    "export": {
        "bundle", "config", "errors", "schema", "data", "media", "model", "run", "graph", "evaluate", "calibrate",
        "runtime", "card", "evaluation", "ranges", "unlike", "baselines",
    },
    "cli": EVERYTHING,
}  # fmt: skip

HOMES: dict[str, set[str]] = {
    "lightning": {"train", "trainer", "data/datamodule"},
    "av": {"media", "doctor"},
    "decord": {"media"},
    "cv2": {"media", "data/synthetic"},
    "timm": {"encoders"},
    "torchvision": {"encoders", "_wheels"},
    "torchaudio": {"encoders", "networks", "_wheels"},
    "transformers": {"encoders", "llm"},
    "onnx": {"export", "graph"},
    "onnxscript": {"export"},
    "onnxruntime": {"doctor", "runtime", "media/faces", "media/recognise", "export"},
    "pandas": set(),
    "scipy": {"baselines", "metrics", "evaluation/bootstrap", "fairness"},
    "sklearn": {"baselines", "metrics"},
    "jinja2": {"report", "card"},
    "safetensors": {"media/cache", "train", "run", "export", "weights", "encoders"},
    "librosa": set(),
    "requests": set(),
    # strangers' by an allow-list; an error's name; our own processes
    "pickle": {"data/pickles", "weights", "workers", "jobs/ray_engine"},
    "ray": {"jobs/ray_engine"},
    "tarfile": set(),
    "zipfile": {"data/features", "media"},
    "ssl": set(),
    "urllib": set(),
}

TORCH_FREE = (
    "errors", "schema", "config", "media", "media.load", "media.cache", "media.clip_cache", "media.cache_survey",
    "media.write", "data.manifest", "data.splits", "data.synthetic", "data.leakage", "data.prepare", "data.imports",
    "calibrate", "metrics", "evaluation.bootstrap", "fairness", "evaluation.group_findings", "evaluation.contents",
    "yaml_file", "onnx_file", "bundle", "runtime", "workers", "jobs.inputs", "jobs.journal", "jobs.batches", "predict",
    "report", "evaluation.plots", "evaluation.views", "card", "check", "doctor", "cli",
)  # fmt: skip

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`media/load` for mmtraits/media/load.py, `media` for its __init__."""
    relative = path.relative_to(PACKAGE).with_suffix("")
    return str(relative.parent if relative.name == "__init__" and relative.parent != Path() else relative)


def unit_of(path: Path) -> str:
    """What the table speaks of: a folder, or where it lists those one by one, a file of a folder."""
    name = name_of(path).replace("/", ".")
    return name if name in MAY_IMPORT else name.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write mmtraits.<unit>"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)


def of_ours(path: Path) -> Iterator[tuple[str, ...]]:
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] == "mmtraits" and len(parts) > 1:
            target = PACKAGE / parts[1]
            if target.is_dir() or target.with_suffix(".py").exists():
                yield tuple(parts[1:])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    unit = unit_of(path)
    assert unit in MAY_IMPORT, f"{unit} is missing from the table of who imports whom"
    allowed = MAY_IMPORT[unit]
    for target in of_ours(path):
        fine = allowed is EVERYTHING or target[0] == unit or target[0] in allowed or ".".join(target[:2]) in allowed
        assert fine, f"{name_of(path)} imports {'.'.join(target)}; {unit} may import {sorted(allowed or ())}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_heavy_library_has_one_home(path: Path) -> None:
    for imported in imports(path):
        library = imported.split(".")[0]
        if library in HOMES:
            homes = HOMES[library]
            assert unit_of(path) in homes or name_of(path) in homes, f"{name_of(path)} imports {library}; home: {homes}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno} {node.name} has {lines} lines"


def test_nothing_inherits_from_our_own_classes() -> None:
    classes = [
        (path, node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    ours = {node.name for _, node in classes}
    for path, node in classes:
        if path.stem != "errors":
            bases = {base.id if isinstance(base, ast.Name) else "" for base in node.bases}
            assert not bases & ours, f"{path.name}: {node.name} inherits from {bases & ours}"


def test_table_lists_no_unit_that_is_gone() -> None:
    assert set(MAY_IMPORT) <= {unit_of(path) for path in FILES}


def test_torch_free_modules_import_no_torch() -> None:
    """One import at a time in one interpreter names the culprit; an interpreter for each would take a minute."""
    lines = [f"import mmtraits.{m}; assert 'torch' not in sys.modules, {m!r}" for m in TORCH_FREE]
    script = "import sys; " + "; ".join(lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
