"""Let CUDA-built torchvision and torchaudio wheels import beside a CPU build of torch.

Their compiled parts link against CUDA libraries that a CPU torch does not bring. torchvision then stops at
`operator torchvision::nms does not exist`, torchaudio at an OSError, and lightning, timm and transformers, which
import them, fall with them. Their Python parts are all that mmtraits uses, so two modules are mended as they are
imported. Where the compiled parts load, nothing changes; where neither library is imported, nothing happens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


def install() -> None:
    """Put the finder first on `sys.meta_path`, once. Imports nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _mend_torchvision(extension: Any) -> None:
    """Declare the two operators for which torchvision registers shape functions whether or not they were compiled."""
    if extension._has_ops():
        return
    import torch

    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _mend_torchaudio(utils: Any) -> None:
    """Treat a compiled part that cannot be loaded like one that was not built, which torchaudio knows how to do."""
    load = utils._load_lib

    def load_if_possible(lib: str) -> bool:
        try:
            return bool(load(lib))
        except OSError:
            return False

    utils._load_lib = load_if_possible


_MENDS: dict[str, Callable[[Any], None]] = {
    "torchvision.extension": _mend_torchvision,
    "torchaudio._extension.utils": _mend_torchaudio,
}


class _MendingLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _MENDS[module.__name__](module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _MENDS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _MendingLoader(spec.loader.name, spec.loader.path)
        return spec
