"""Hosts that are not Python: the README's Node program scores as the Predictor does, native and in WebAssembly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from mmtraits.bundle import default_bundle
from mmtraits.data import synthetic
from mmtraits.runtime import Predictor

pytestmark = pytest.mark.slow
README = Path(__file__).parents[2] / "README.md"
VERSION = "1.30.0"
IDS = [101, 1045, 2428, 5959, 3116, 2047, 2111, 1012, 102]  # as the program has them


def missing(what: str) -> None:
    if os.environ.get("MMTRAITS_REQUIRE_NODE") == "1":
        pytest.fail(f"{what}; MMTRAITS_REQUIRE_NODE=1 demands it")
    pytest.skip(what)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's program and both packages."""
    folder = tmp_path_factory.mktemp("host")
    if not (shutil.which("node") and shutil.which("npm")):
        missing("node and npm are not installed")
    (program,) = re.findall(r"```javascript\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "score.js").write_text(program)
    (folder / "package.json").write_text('{"name": "host", "version": "1.0.0", "private": true}')
    packages = [f"{name}@{VERSION}" for name in ("onnxruntime-node", "onnxruntime-web")]
    done = subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode:
        missing(f"npm installs nothing here: {done.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(threads=1)


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_a_node_program_scores_as_python_does(host: Path, predictor: Predictor, package: str) -> None:
    answers = [
        subprocess.run(
            ["node", "score.js", str(default_bundle())], cwd=host, env={**os.environ, "ORT": package},
            capture_output=True, text=True, check=True, timeout=300,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert answers[0] == answers[1]
    found = json.loads(answers[0])
    wave = (0.1 * np.sin(2 * np.pi * 220 * np.arange(3 * 22050) / 22050)).astype(np.float32)
    expected = predictor.predict([{"voice": wave, "text": np.array(IDS)}])
    assert tuple(found) == predictor.schema.trait_names
    np.testing.assert_allclose(list(found.values()), expected.values[0], atol=1e-5)
    print(f"\n{package}: {np.abs(list(found.values()) - expected.values[0]).max():.1e} from Python", end="")


def test_the_programs_ids_are_the_tokenizers(predictor: Predictor) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(default_bundle() / "tokenizer.json"))
    assert tokenizer.encode("I really enjoy meeting new people.").ids == IDS


def test_four_threads_decode_and_score_films_as_one_does(predictor: Predictor, tmp_path: Path) -> None:
    """The whole chain of the default bundle: decoder, face finder, tokenizer and session shared by threads."""
    films = synthetic.demo_clips(tmp_path, count=2)
    expected = predictor.predict(films)
    wrong: list[object] = []

    def work() -> None:
        try:
            for _ in range(3):
                found = predictor.predict(films)
                if found.values.tobytes() != expected.values.tobytes() or found.reasons != expected.reasons:
                    wrong.append(found)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert np.isfinite(expected.values).all()
