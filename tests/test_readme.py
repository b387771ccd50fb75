"""Every block of the README runs, in order, in one folder, as a reader would. Those marked `ci` are run by .ci/run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmtraits.data import manifest, synthetic
from mmtraits.schema import REASONS

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:<!-- (?P<kind>run|ci): (?P<name>\w+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL
)
BLOCKS = [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: some clips, a small labelled corpus and the project's configs."""
    folder = tmp_path_factory.mktemp("readme")
    synthetic.demo_clips(folder / "my_clips", count=4)
    synthetic.write_corpus(folder / "my_corpus", clips=24, seconds=2.0)
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def run(code: str, language: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_every_block_is_marked_and_the_two_commands_are_what_ci_runs() -> None:
    assert all(block["kind"] for block in BLOCKS), "a README block without a `run` or `ci` marker is never executed"
    assert [block["name"] for block in BLOCKS if block["kind"] == "ci"] == ["main", "tests"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "command_after main" in ci
    assert "command_after tests" in ci


def test_the_corpus_shown_is_one(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for language, name in (("csv", "clips.csv"), ("yaml", "schema.yaml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        (tmp_path / name).write_text(block, encoding="utf-8")
    found = manifest.read(tmp_path / "clips.csv")
    assert found.schema.trait_names == ("openness", "extraversion")
    assert found.labels.tolist() == [[0.61, 0.48], [0.35, 0.71]]
    assert found.splits == ("train", "test")


def test_the_table_of_reasons_is_the_list_of_reasons() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"\| reason \|.*?\n\n", text, re.DOTALL)
    assert table is not None
    assert tuple(re.findall(r"^\| `(\w+)` \|", table[0], re.MULTILINE)) == REASONS


def test_blocks_run_in_order(folder: Path) -> None:
    ran = [block for block in BLOCKS if block["kind"] == "run"]
    assert [block["name"] for block in ran] == ["predict", "check", "train", "embed", "predictor"]
    printed = {block["name"]: run(block["code"], block["language"], folder) for block in ran}

    rows = (folder / "scores" / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 4
    assert (folder / "scores" / "report.html").stat().st_size > 1000
    assert printed["check"].startswith("manifest my_corpus/clips.csv: 0 problems")
    assert (folder / "checkpoints" / "mine" / "MODEL_CARD.md").exists()
    assert (folder / "my_bundle" / "MODEL_CARD.md").exists()
    assert len((folder / "my_scores" / "results.csv").read_text(encoding="utf-8").splitlines()) == len(rows)
    assert re.search(r"\{'\w+': .*\d\.\d+", printed["embed"])
    assert "extraversion" in printed["predictor"]
