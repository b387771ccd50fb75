"""Fixtures shared by all tests. mmtraits is imported first: its import hook must precede lightning and timm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mmtraits  # noqa: F401  (installs the import hook)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with `clips/` and `data/`, named by MMTRAITS_REAL_DATA; a test without it is skipped or made to fail."""
    folder = os.environ.get("MMTRAITS_REAL_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("MMTRAITS_REQUIRE_REAL") == "1":
        pytest.fail(f"MMTRAITS_REAL_DATA: {folder!r} is no folder; MMTRAITS_REQUIRE_REAL=1 demands one")
    pytest.skip("real data: MMTRAITS_REAL_DATA names no folder")
