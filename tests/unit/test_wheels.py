"""The import hook: libraries import beside any torch build, and nothing heavy is imported by installing it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmtraits import _wheels


def run(code: str) -> str:
    """What a fresh interpreter that treats warnings as errors prints."""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_libraries_import_and_work_behind_the_hook():
    code = """
import mmtraits
import torch, torchaudio, torchvision, lightning, timm, transformers.models.bert
from transformers import BertModel
print(len(torchvision.models.resnet18().eval()(torch.zeros(1, 3, 64, 64))[0]))
print(tuple(torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 40, 16000).shape))
"""
    assert run(code).splitlines() == ["1000", "(201, 40)"]


def test_importing_mmtraits_imports_nothing_heavy():
    code = """
import sys, mmtraits
heavy = {"torch", "torchvision", "torchaudio", "lightning", "cv2", "av", "pydantic", "onnxruntime"}
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    assert run(code) == ""


def test_install_is_idempotent_and_first():
    _wheels.install()
    _wheels.install()
    ours = [finder for finder in sys.meta_path if isinstance(finder, _wheels._Finder)]
    assert len(ours) == 1


def test_other_modules_are_left_to_the_ordinary_finders():
    finder = _wheels._Finder()
    assert finder.find_spec("json", None) is None
    assert finder.find_spec("torchvision", None) is None


def test_compiled_torchvision_is_left_alone():
    extension = SimpleNamespace(_has_ops=lambda: True)
    _wheels._mend_torchvision(extension)
    assert vars(extension).keys() == {"_has_ops"}


def test_torchaudio_parts_that_load_still_load_and_others_count_as_not_built():
    def load(lib: str) -> bool:
        if lib == "broken":
            raise OSError("libtorch_cuda.so: cannot open shared object file")
        return lib == "native"

    utils = SimpleNamespace(_load_lib=load)
    _wheels._mend_torchaudio(utils)
    assert [utils._load_lib(lib) for lib in ("native", "absent", "broken")] == [True, False, False]


def test_torchaudio_errors_of_other_kinds_are_not_hidden():
    def load(lib: str) -> bool:
        raise RuntimeError(f"{lib} is for another CUDA")

    utils = SimpleNamespace(_load_lib=load)
    _wheels._mend_torchaudio(utils)
    with pytest.raises(RuntimeError, match="_torchaudio is for another CUDA"):
        utils._load_lib("_torchaudio")
