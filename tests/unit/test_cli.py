from __future__ import annotations

import csv
import re
import sys

import pytest
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from mmtraits import cli, console


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def words(tmp_path):
    """A manifest of two clips that are text alone, and one that cannot be scored."""
    (tmp_path / "clips.csv").write_text("id,text,audio\none,hello,\ntwo,hello world,\nlost,,none.wav\n")
    return tmp_path / "clips.csv"


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `mmtraits ARGUMENTS` through its entry point."""
    monkeypatch.setattr(sys, "argv", ["mmtraits", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_predict(monkeypatch, capsys, bundle, words, tmp_path):
    code, out, _ = run(
        monkeypatch, capsys, "predict", "--manifest", words, "--model", bundle, "--out", tmp_path / "o", "--workers", 0
    )
    assert code == 0
    assert out.splitlines()[0] == "3 clips: 0 ok, 2 degraded, 1 failed"
    assert out.splitlines()[1:] == [
        str(tmp_path / "o" / name) for name in ("results.csv", "results.jsonl", "report.html")
    ]
    with (tmp_path / "o" / "results.csv").open() as file:
        assert [row["clip"] for row in csv.DictReader(file)] == ["one", "two", "lost"]


def test_strict_exits_with_2_where_a_clip_failed(monkeypatch, capsys, bundle, words, tmp_path):
    arguments = ("predict", "--manifest", words, "--model", bundle, "--out", tmp_path / "o", "--workers", 0, "--strict")
    assert run(monkeypatch, capsys, *arguments)[0] == 2
    assert (tmp_path / "o" / "results.csv").is_file()
    words.write_text("id,text\none,hello\n")
    assert run(monkeypatch, capsys, *arguments, "--fresh")[0] == 0


def test_nothing_to_score_exits_with_1(monkeypatch, capsys, bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run(monkeypatch, capsys, "predict", tmp_path / "empty", "--model", bundle, "--out", tmp_path / "o")
    assert code == 1
    assert "no media files there; nothing was scored" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "none", "--out", "o"], "none: no such file or folder"),
        (["predict", "--out", "o"], "expected either media files and folders, or --manifest"),
        (
            ["predict", "x", "--model", "none"],
            "none/bundle.json: no such file; expected a folder written by `mmtraits export`",
        ),
        (["predict", "--manifest", "none.csv"], "none.csv: no such file"),
        (["train"], "expected either a config or --resume RUN"),
        (["train", "none.yaml"], "none.yaml: no such file; give the path of a .yaml config"),
        (["train", "--resume", "none"], "none/config.yaml: no such file"),
        (["extract", "none.yaml"], "none.yaml: no such file"),
        (["evaluate", "none"], "none: no run, whose config names a manifest; name one with --manifest"),
        (["evaluate", "none", "--manifest", "none.csv"], "none.csv: no such file"),
        (["export", "none", "--out", "bundle"], "none/config.yaml: no such file"),
    ],
)
def test_an_error_is_one_message_and_exit_2(monkeypatch, capsys, bundle, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "--model" not in arguments and arguments[0] == "predict":
        arguments = [*arguments, "--model", str(bundle)]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.startswith("mmtraits: ") and message in err
    assert "Traceback" not in err and out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["predict", "--tea"], ["predict", ".", "--device", "tpu"], ["predict", ".", "--batch", "0"]],
)
def test_wrong_usage_exits_with_2(monkeypatch, capsys, arguments):
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "Usage" in err


def test_interrupt_exits_with_130(monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmtraits.predict.run", interrupted)
    assert run(monkeypatch, capsys, "predict", "x")[0] == 130


def test_version(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", out)


def test_only_what_works_is_listed():
    listed = CliRunner().invoke(cli.app, ["--help"]).output
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert all(f" {command} " in listed for command in commands)
    assert {"demo", "predict", "train", "evaluate", "export"} <= commands


def test_shown_scores():
    row = {"x": 0.5, "x_lower": 0.25, "x_upper": 0.75, "y": None, "y_lower": None, "y_upper": None}
    assert console.shown_score(row, "x") == "0.50\n0.25–0.75"
    assert console.shown_score(row, "y") == "-"
    assert console.shown_score(row | {"x_lower": None}, "x") == "0.50"


def test_the_cache_is_filled_listed_checked_and_emptied(monkeypatch, capsys, bundle, words, tmp_path):
    cache = tmp_path / "cache"
    for out in ("cold", "warm"):
        given = ("--manifest", words, "--model", bundle, "--out", tmp_path / out, "--workers", 0, "--cache", cache)
        assert run(monkeypatch, capsys, "predict", *given)[0] == 0
    assert (tmp_path / "cold" / "results.csv").read_bytes() == (tmp_path / "warm" / "results.csv").read_bytes()
    code, out, _ = run(monkeypatch, capsys, "cache", "ls", cache)
    assert code == 0
    assert {tuple(line.split()[:3]) for line in out.splitlines()[1:]} == {("clips", "3", "3"), ("rows", "3", "3")}
    assert run(monkeypatch, capsys, "cache", "verify", cache)[:2] == (0, "")
    damaged = next(cache.glob("rows/*/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert run(monkeypatch, capsys, "cache", "verify", cache)[:2] == (2, f"{damaged}: damaged; delete it\n")
    code, out, _ = run(monkeypatch, capsys, "cache", "prune", cache, "--max-mb", 0)
    assert code == 0 and out.startswith("6 files removed, 0.0 MB")
    assert run(monkeypatch, capsys, "cache", "ls", cache)[1] == "nothing\n"
    code, _, err = run(monkeypatch, capsys, "cache", "ls", tmp_path / "absent")
    assert code == 2 and "no such folder" in err
