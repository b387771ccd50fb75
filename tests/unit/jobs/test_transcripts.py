"""What was heard, as files beside the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.jobs.transcripts import name_of, written

IDS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("clip", "file"),
    [("a.mp4", "a.mp4.json"), ("sub/a b.mp4", "sub/a b.mp4.json"), ("../../x", "%2E%2E/%2E%2E/x.json"),
     ("/etc/passwd", "%/etc/passwd.json"), ("a\nb", "a%0Ab.json"), ("übung", "%C3%BCbung.json"), ("50%", "50%25.json"),
     ("a\udcff", "a%FF.json"), ("x.json/a", "x%2Ejson/a.json"), ("a//b", "a/%/b.json")],
)  # fmt: skip
def test_a_clips_file(clip: str, file: str) -> None:
    assert name_of(clip) == f"transcripts/{file}"


@given(IDS.filter(lambda clip: not any(0xD800 <= ord(c) < 0xDC80 or 0xDD00 <= ord(c) < 0xE000 for c in clip)))
def test_no_clip_has_a_file_outside(clip: str) -> None:
    parts = name_of(clip).split("/")
    assert parts[0] == "transcripts"
    assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 and part.isprintable() for part in parts)


@given(st.lists(st.text("ab./%A2E\n", min_size=1, max_size=5), unique=True, max_size=20))
def test_no_two_clips_share_a_file_nor_is_one_in_the_way(clips: list[str]) -> None:
    files = [name_of(clip) for clip in clips]
    assert len(set(files)) == len(files)
    above = {str(folder) for file in files for folder in Path(file).parents}
    assert not above & set(files)


def test_long_names_stay_apart(tmp_path: Path) -> None:
    records = [{"clip": "x" * 300 + end, "details": {"transcript": end}} for end in ("1", "2")]
    list(written(tmp_path, records))
    assert sorted(path.read_text() for path in (tmp_path / "transcripts").iterdir()) == ["1", "2"]


def test_words_become_files_and_their_names(tmp_path: Path) -> None:
    records = [
        {"clip": "sub/a.mp4", "details": {"windows": 1, "transcript": '{"segments": []}'}},
        {"clip": "b.mp4", "details": {"windows": 2}},
    ]
    first, second = written(tmp_path, records)
    file = tmp_path / "transcripts/sub/a.mp4.json"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == '{"segments": []}'
    assert first["details"] == {"windows": 1, "transcript": "transcripts/sub/a.mp4.json"}
    assert second == records[1]
    made_ns = file.stat().st_mtime_ns
    list(written(tmp_path, records))
    assert file.stat().st_mtime_ns == made_ns  # left alone
    file.write_text("torn")
    list(written(tmp_path, records))
    assert file.read_text() == '{"segments": []}'
