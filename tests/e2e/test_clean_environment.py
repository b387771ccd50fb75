"""What a user of the plain install meets: quick start-up and no torch. Each case is a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from tiny_bundle import write_tiny_bundle

LIMIT_S = 0.5
NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "lightning", "timm", "transformers", "onnx"):
            raise ImportError(f"{name} is not part of the plain install")
sys.meta_path.insert(0, Refuse())
"""
HELP = """
import sys
from mmtraits.cli import app
sys.argv = ["mmtraits", "--help"]
try:
    app()
except SystemExit as left:
    assert not left.code
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def seconds(code: str) -> float:
    """CPU seconds of the whole interpreter beyond those of an empty one; the best of three, for a busy machine."""
    timed = f"import time\n{code}\nprint('CPU', time.process_time())"
    best = []
    for program in (timed, "import time\nprint('CPU', time.process_time())"):
        runs = [python(program) for _ in range(3)]
        assert all(run.returncode == 0 for run in runs), runs[0].stderr
        best.append(min(float(run.stdout.rsplit("CPU", 1)[1]) for run in runs))
    return best[0] - best[1]


@pytest.mark.parametrize(
    "code",
    [
        "import mmtraits",
        HELP,
    ],
    ids=["import", "help"],
)
def test_start_up_is_quick_and_torch_free(code):
    found = python(f"{NO_TORCH}\n{code}\nassert 'torch' not in sys.modules")
    assert found.returncode == 0, found.stderr
    spent = seconds(code)
    print(f"{spent:.3f} s CPU: {code}")
    assert spent < LIMIT_S


def test_help_of_every_command_needs_no_torch():
    code = "from mmtraits.cli import main\nmain()"
    for command in ("demo", "predict", "train", "evaluate", "export"):
        found = python(NO_TORCH + code, command, "--help")
        assert found.returncode == 0, found.stderr


def test_a_bundle_predicts_without_torch(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "clips.csv").write_text("id,text,video\nsaid,hello world,\nlost,,media/broken.mp4\n")
    code = f"{NO_TORCH}\nfrom mmtraits.cli import main\nmain()"
    started = time.perf_counter()
    found = python(
        code,
        "predict",
        "--manifest",
        tmp_path / "clips.csv",
        "--model",
        bundle,
        "--out",
        tmp_path / "out",
        "--workers",
        0,
    )
    print(f"predict: {time.perf_counter() - started:.2f} s")
    assert found.returncode == 0, found.stderr
    said, lost = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert (said["status"], said["brightness"]) == ("degraded", 0.02)
    assert (lost["status"], lost["brightness"]) == ("failed", None)
