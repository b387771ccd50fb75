"""Fault case 9: what is no regular file, links that leave the folder, and names that tables and decoders trip over."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import clock
import pytest
import scoring
from scoring import cause
from tiny_bundle import write_tiny_bundle

from mmtraits import predict

NAMES = (
    b"-i.mp4", b"a\nb.mp4", b"a\r\nb.mp4", b"tab\t.mp4", b"quote'\".mp4", b"comma,semi;.mp4", b" blank .mp4", b"%d.mp4",
    b"caf\xe9.mp4", b"\xff\xfe.mp4", "ü☺漢.mp4".encode(), "\u202ereversed.mp4".encode(), b"=cmd|'calc'!A0.mp4",
    b"+1.mp4", b"@x.mp4", b"http:x.mp4", b"concat:a|b.mp4", b"<script>.mp4", b"back\\slash.mp4", b".mp4.mp4",
    b"x" * 251 + b".mp4",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return scoring.with_neighbours(tmp_path / "media")


@pytest.mark.parametrize("workers", [0, 1])
def test_names_survive_into_both_tables_and_formulas_are_escaped(folder: Path, workers: int) -> None:
    sound = clock.write(folder.parent / "sound.mp4", seconds=0.5, times_s=[]).read_bytes()
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(sound)
    rows = scoring.scored(folder, workers=workers)
    assert {os.fsencode(name) for name in rows} == {*NAMES, *(name.encode() for name in scoring.GOOD)}
    assert all(rows[os.fsdecode(name)]["voice_present"] for name in NAMES)
    out = folder.parent / "out"
    table = (out / "results.csv").read_bytes().decode("utf-8", "surrogateescape")
    found = {os.fsencode(row["clip"]) for row in csv.DictReader(table.splitlines(keepends=True))}
    assert {b"'" + name if name.startswith((b"=", b"+", b"-", b"@")) else name for name in NAMES} <= found
    page = (out / "report.html").read_bytes()
    assert b"<script>.mp4" not in page and b"&lt;script&gt;.mp4" in page


def test_names_that_look_like_addresses_are_names_from_inside_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["-i.mp4", "concat:a|b.mp4", "http:x.mp4", "pipe:0.mp4", "subfile,,start,0,end,9,,:x.mp4"]
    for name in names:
        clock.write(folder / "a.mp4", seconds=0.5, times_s=[]).rename(folder / name)
    monkeypatch.chdir(folder)
    outcome = predict.run(["."], "../out", bundle=write_tiny_bundle(folder.parent / "tiny"))
    found = {row["clip"]: row["voice_present"] for row in outcome.records}
    assert found == dict.fromkeys([*names, *scoring.GOOD], True)


@pytest.fixture
def odd(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A pipe that nobody writes to, a socket, a folder and links, all named like media."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    shutil.copy(folder / scoring.GOOD[0], tmp_path / "secret.mp4")
    (folder / "leaves.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "to_pipe.mp4").symlink_to(folder / "pipe.mp4")
    (folder / "broken.mp4").symlink_to(tmp_path / "none.mp4")
    (folder / "itself.mp4").symlink_to(folder / "itself.mp4")
    (folder / "loop").symlink_to(folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket.mp4"))
    yield folder
    listener.close()


def scored(folder: Path, out: Path, **options: object) -> list[dict[str, object]]:
    bundle = write_tiny_bundle(out.parent / "tiny")
    predict.run([folder], out, bundle=bundle, **options)
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_only_regular_files_of_the_folder_are_clips(odd: Path, tmp_path: Path) -> None:
    rows = scored(odd, tmp_path / "out")
    assert [(row["clip"], row["status"]) for row in rows] == [(name, "ok") for name in scoring.GOOD]


def test_links_that_leave_the_folder_are_followed_when_asked_and_a_loop_ends(odd: Path, tmp_path: Path) -> None:
    rows = scored(odd, tmp_path / "out", follow=True)
    assert [row["clip"] for row in rows] == ["a_good.mp4", "leaves.mp4", "z_good.mp4"]


def test_a_manifest_that_names_no_regular_files_has_a_row_for_each(odd: Path, tmp_path: Path) -> None:
    named = ["pipe.mp4", "socket.mp4", "folder.mp4", "device.mp4", "to_pipe.mp4", "broken.mp4", "itself.mp4"]
    named += ["/dev/zero", "/dev/stdin", "/proc/self/mem", "x" * 300 + ".mp4", "none/none.mp4"]
    lines = ["id,video", *(f"c{n:02},{name}" for n, name in enumerate(named)), "good,a_good.mp4"]
    (odd / "clips.csv").write_text("\n".join(lines))
    outcome = predict.run([], tmp_path / "out", manifest=odd / "clips.csv", bundle=write_tiny_bundle(tmp_path / "tiny"))
    *bad, good = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert outcome.counts["failed"] == len(named)
    assert {(row["status"], cause(row)) for row in bad} == {("failed", "unreadable_container")}
    assert good["face_present"]
