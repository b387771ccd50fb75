from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from planted import config as settings
from planted import plant
from tiny_bundle import write_tiny_bundle

from mmtraits import cli, config
from mmtraits.check import _MADE_OF, check, check_all
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.media import features
from mmtraits.media.write import write_video
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="two",
    traits=(Trait(name="warm", low=0.0, high=1.0), Trait(name="calm", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="us",
)
SPLITS = ("train",) * 80 + ("val",) * 16 + ("test",) * 24


def corpus(folder: Path, count: int = 120, **changes) -> Manifest:
    """Two clips of a person, words of their own, labels that go together; written to `folder`."""
    draw = np.random.default_rng(0)
    shared = draw.normal(0.6, 0.1, (count, 1))
    clips = tuple(
        Clip(
            id=f"c{n:03d}",
            text=" ".join(map(str, draw.integers(0, 10_000, 12))),
            person=f"p{n // 2}",
            attributes={"tongue": "de" if n % 4 < 2 else "fr"},
        )
        for n in range(count)
    )
    made = Manifest(
        path=folder / "clips.csv",
        schema=SCHEMA,
        clips=clips,
        labels=np.clip(shared + draw.normal(0, 0.05, (count, 2)), 0, 1),
        splits=SPLITS if count == len(SPLITS) else (None,) * count,
    )
    made = replace(made, **changes)
    manifests.write(made)
    return made


def rewrite(folder: Path, made: Manifest) -> None:
    manifests.write(replace(made, path=folder / "clips.csv"))


# ---------------------------------------------------------------------------------------------------- manifest


def test_a_manifest_in_order(tmp_path) -> None:
    corpus(tmp_path)
    report = check(tmp_path)
    assert (report.kind, report.problems, report.warnings) == ("manifest", (), ())
    assert report.path == str(tmp_path / "clips.csv")
    assert report.facts["rows"][0] == {"": "clips", "all": 120, "train": 80, "val": 16, "test": 24}
    assert [row["trait"] for row in report.facts["labels"]] == ["warm", "calm"]
    assert [row["persons of train"] for row in report.facts["leakage: what is shared with train"]] == [0, 0]
    assert json.loads(json.dumps(report.to_dict()))["facts"]["rows"][1]["all"] == 60


def test_the_text_fits_a_terminal_and_aligns(tmp_path) -> None:
    corpus(tmp_path)
    text = check(tmp_path / "clips.csv").to_text()
    lines = text.splitlines()
    assert lines[0] == f"manifest {tmp_path / 'clips.csv'}: 0 problems, 0 warnings"
    start = lines.index("rows") + 1
    assert lines[start : start + 3] == [
        "               all  train  val  test",
        "  clips        120     80   16    24",
        "  persons       60     40    8    12",
    ]
    (warm,) = (line for line in lines if line.startswith("  warm   "))
    assert sum(warm.count(bar) for bar in "▁▂▃▄▅▆▇█") >= 4
    assert "█" in warm
    assert max(map(len, lines[1:])) <= 110


def test_a_packed_manifest_is_the_same(tmp_path) -> None:
    made = corpus(tmp_path)
    packed = tmp_path / "packed"
    manifests.write(replace(made, path=packed / "clips.csv.gz"))
    found = [check(path) for path in (tmp_path, packed, packed / "clips.csv.gz")]
    assert found[0].facts == found[1].facts == found[2].facts
    assert found[1].path == str(packed / "clips.csv.gz")


def test_rows_in_another_order_hold_the_same(tmp_path) -> None:
    made = corpus(tmp_path)
    order = np.random.default_rng(1).permutation(len(made.clips))
    rewrite(
        tmp_path / "b",
        replace(
            made,
            clips=tuple(made.clips[n] for n in order),
            labels=made.labels[order],
            splits=tuple(made.splits[n] for n in order),
        ),
    )
    rows, labels, leak = check(tmp_path).facts.values()
    other_rows, other_labels, other_leak = check(tmp_path / "b").facts.values()
    assert (rows, leak) == (other_rows, other_leak)
    assert [row["histogram"] for row in labels] == [row["histogram"] for row in other_labels]


def test_wrong_labels_are_named_row_by_row_and_summed_up(tmp_path) -> None:
    made = corpus(tmp_path)
    made.labels[:, 0] *= 100
    rewrite(tmp_path, made)
    report = check(tmp_path)
    assert len(report.problems) == 121
    assert "outside the scale 0 to 1; that looks like 0 to 100 (percent)" in report.problems[0]
    assert report.problems[1].startswith(f"{tmp_path / 'clips.csv'}:2: warm ")
    text = report.to_text()
    assert "... and 117 more like these" in text
    assert text.count("is outside the scale [0, 1]") == 3


def test_everything_wrong_is_told_at_once_with_its_line(tmp_path) -> None:
    made = corpus(tmp_path)
    made.labels[80:, 1] = np.nan  # traits missing in splits
    clips = [replace(clip, attributes={"tongue": "de"}) for clip in made.clips]
    clips[100] = replace(clips[100], person="p0")  # one person in two splits
    clips[101] = replace(clips[101], text=clips[0].text)
    clips[5] = replace(clips[5], video=tmp_path / "gone.mp4")
    clips[6] = replace(clips[6], text=None, transcript=tmp_path / "bad.srt.json")
    (tmp_path / "bad.srt.json").write_text("{}")
    rewrite(tmp_path, replace(made, clips=tuple(clips)))
    report = check(tmp_path)
    problems, warnings = "\n".join(report.problems), "\n".join(report.warnings)
    table = tmp_path / "clips.csv"
    assert f"{table}:7: video '{tmp_path / 'gone.mp4'}': no such file" in problems
    assert f"{table}:8: {tmp_path / 'bad.srt.json'}: " in problems
    assert len(report.problems) == 2
    assert f"{table}: calm has no label in val" in warnings and f"{table}: calm has no label in test" in warnings
    assert f"{table}: 1 person of train also in val or test, with 1 of the 40 clips there" in warnings
    assert f"{table}:103: 'c101' says the same words as 'c000', with other labels" in warnings
    assert "1 clip of val or test nearly in the words of a training clip: 'c101' and 'c000'" in warnings
    assert "2 clips nearly in the words of another person's clip" in warnings
    assert f"{table}: attr_tongue is 'de' wherever it is known" in warnings


def test_ten_clips_in_all(tmp_path) -> None:
    corpus(tmp_path, 10)
    (warning,) = [line for line in check(tmp_path).warnings if "10 clips" in line]
    assert "10 clips of 5 persons: one fold of 5 tests about 1 of them" in warning
    assert "leakage" not in check(tmp_path).to_text()


def test_a_manifest_that_cannot_be_read_says_all_that_is_wrong(tmp_path) -> None:
    (tmp_path / "clips.csv").write_text("id,text\na,x\na,y\n")
    report = check(tmp_path)
    assert report.kind == "manifest" and not report.facts
    assert any("schema.yaml: no such file" in line for line in report.problems)
    assert any("clips.csv:3: id 'a' is already on line 2" in line for line in report.problems)
    assert check(tmp_path / "other.csv").problems[0].startswith(f"{tmp_path / 'other.csv'}: no such file")
    (tmp_path / "clips.csv").write_text("")
    assert check(tmp_path).problems


def test_media_of_a_manifest_are_probed(tmp_path) -> None:
    frames = [np.full((32, 48, 3), shade, np.uint8) for shade in range(0, 160, 20)]
    write_video(tmp_path / "a.mp4", frames, 4)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    made = corpus(tmp_path)
    files = {0: "a.mp4", 1: "b.mp4"}
    rewrite(
        tmp_path,
        replace(
            made,
            clips=tuple(
                replace(clip, video=tmp_path / files[n]) if n in files else clip for n, clip in enumerate(made.clips)
            ),
        ),
    )
    heard = []
    report = check(tmp_path, progress=lambda done, total: heard.append((done, total)))
    (problem,) = report.problems
    assert problem.startswith(f"{tmp_path / 'clips.csv'}:3: unreadable_container: {tmp_path / 'b.mp4'}")
    assert report.facts["media"][0]["unreadable"] == 1
    assert heard == [(1, 2), (2, 2)]


# ---------------------------------------------------------------------------------------------------- media


def test_a_folder_of_media(tmp_path) -> None:
    frames = [np.full((32, 48, 3), shade, np.uint8) for shade in range(0, 160, 20)]
    (tmp_path / "deep").mkdir()
    write_video(tmp_path / "deep" / "a.mp4", frames, 4)
    report = check(tmp_path)
    assert (report.kind, report.problems) == ("media", ())
    assert "no file has a transcript beside it" in report.warnings[0]
    shutil.copy(tmp_path / "deep" / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "b.txt").write_text("words")
    (tmp_path / "c.mp4").write_bytes(b"no video")
    report = check(tmp_path)
    assert report.problems[0].startswith(f"unreadable_container: {tmp_path / 'c.mp4'}")
    assert report.warnings[0].endswith("it will be scored twice")
    assert (report.facts["media"][0]["files"], report.facts["media"][0]["with transcript"]) == (3, 1)
    assert check(tmp_path / "b.mp4").facts["media"][0]["files"] == 1


def test_what_is_nothing_of_ours(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (problem,) = check(tmp_path).problems
    assert "no media among 1 file; expected media files, a config (.yaml), a manifest" in problem
    assert check(tmp_path / "gone").problems == (f"{tmp_path / 'gone'}: no such file or folder",)
    assert check(tmp_path / "notes.txt").problems


# ---------------------------------------------------------------------------------------------------- bundle, run


def test_bundles(tmp_path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny")
    (problem,) = check(folder).problems
    assert problem == f"{folder / 'MODEL_CARD.md'}: no such file; export the bundle again"
    (folder / "MODEL_CARD.md").write_text("x")
    report = check(folder)
    assert (report.kind, report.problems) == ("bundle", ())
    assert report.facts["bundle"][0]["streams"] == "face, voice, text"
    assert "brightness" in report.to_text()
    (folder / "model.onnx").write_bytes(b"altered")
    assert "sha256" in check(folder).problems[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two folds of one epoch; the second is not trained to its end."""
    from mmtraits.train import fit

    folder = tmp_path_factory.mktemp("planted")
    plant(folder, clips=40)
    over = {"protocol": {"split": "kfold", "folds": 2}, "runs": {"over": "fold"}, "trainer__max_epochs": 1}
    made = fit(settings(folder, **over), root=folder / "runs")
    (made / "fold1" / "metrics.json").unlink()
    return made


def test_runs(run, tmp_path) -> None:
    report = check(run)
    assert (report.kind, report.problems) == ("run", ())
    assert report.warnings == (f"{run / 'fold1'}: not trained to its end; go on with mmtraits train --resume {run}",)
    assert [row["finished"] for row in report.facts["members"]] == ["yes", "no"]
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "fold0" / "best.safetensors").unlink()
    assert "best.safetensors: no such file; the member cannot be used" in check(broken).problems[0]
    (broken / "run.json").write_text("{}")
    assert "run.json: cannot be read (KeyError('members'))" in check(broken).problems[0]
    (broken / "config.yaml").write_text("name: [")
    assert "config.yaml:1: " in check(broken).problems[0]


def test_a_run_away_from_its_manifest(run, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    found = config.load(other / "config.yaml")
    plant(tmp_path / "fewer", clips=30)
    for manifest in ("gone.csv", str(tmp_path / "fewer" / "clips.csv")):
        data = found.model_copy(update={"data": found.data.model_copy(update={"manifest": Path(manifest)})})
        (other / "config.yaml").write_text(config.dump(data))
        report = check(other)
        if manifest == "gone.csv":
            assert any("gone.csv: no such manifest" in line for line in report.warnings)
        else:
            assert "without 10 clips of the run, such as 'c030'" in report.problems[0]


def test_a_run_that_was_allowed_to_leak_says_so(run, tmp_path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    about = json.loads((other / "run.json").read_text())
    about["leakage"] = {"persons_shared": 7, "clips_shared": 9, "allowed": True}
    (other / "run.json").write_text(json.dumps(about))
    assert f"{other}: trained with 7 persons both in training and outside" in check(other).warnings
    del about["leakage"]
    (other / "run.json").write_text(json.dumps(about))  # of before it was recorded
    assert len(check(other).warnings) == 1


# ---------------------------------------------------------------------------------------------------- config

CONFIG = """\
name: words
data: {{manifest: {folder}/clips.csv}}
streams:
  a: {{use: precomputed, size: 6}}
  b: {{use: precomputed, size: 5}}
fusion: {{use: mean_pool}}
head: {{use: linear}}
loss: {{mse: 1.0}}
protocol: {{split: holdout}}
"""


@pytest.fixture
def words(tmp_path) -> Path:
    plant(tmp_path, clips=60)
    (tmp_path / "words.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "words.yaml"


def test_a_config_in_order(words) -> None:
    report = check(words)
    assert (report.kind, report.problems, report.warnings) == ("config", (), ())
    assert report.facts["streams"][0] == {"stream": "a", "use": "precomputed", "clips": 48, "of": 60}
    assert report.facts["members"] == [{"member": 0, "train": 42, "val": 6, "test": 12}]
    assert report.also == words.parent / "clips.csv"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("optimizer.lr=no", "optimizer.lr: found 'no'"),
        ("head.use=liner", "head: use: found 'liner', no file in heads/; did you mean 'linear'?"),
        ("data.manifest=gone.csv", "data.manifest: gone.csv: no such file"),
        ("protocol.split=official", "protocol: .*no row has split `train`"),
        ("protocol.folds=31", "protocol: .*30 groups; 31 folds need at least 31"),
        ("protocol.stratify=[age]", "protocol: .*no row has attr_age to stratify by"),
        ("runs.over=fold", "runs.over: found 'fold' with protocol.split 'holdout'; expected 'kfold'"),
        ("protocol.by=id", "protocol.by: [0-9]+ persons of .* both in training and in validation or test"),
        (
            "streams.c={use: precomputed, size: 3}",
            "streams.c: no clip of .*clips.csv has feature_c; take the stream out",
        ),
        ("streams.c={use: conv_mel}", "streams.c: no clip of .*clips.csv has video or audio or feature_c"),
        (
            "streams.c={use: precomputed, producer: lexicon, size: 24}",
            "streams.c: no clip of .*clips.csv has transcript or text or feature_c",
        ),
        (
            "streams.c={use: precomputed, producer: lexikon, size: 24}",
            "streams.c: .*found 'lexikon', no file in media/features/; did you mean 'lexicon'?",
        ),
    ],
)
def test_wrong_configs_are_placed(words, override, problem) -> None:
    child = words.parent / "child.yaml"
    keys, _, value = override.partition("=")
    outer, inner = keys.split(".")
    child.write_text(f"extends: words.yaml\n{outer}: {{{inner}: {value}}}\n")
    for report in (check(words, [override]), check(child)):
        (line,) = report.problems
        assert re.search(problem, line)
    assert line.startswith(f"{child}:2: ")


def test_names_in_runs_are_looked_up_in_the_manifest(words) -> None:
    """As training would, and all at once."""
    runs = "runs={over: trait, questions: {wram: q1, calm: q2}, fusion: {cold: {use: mean_pool}}}"
    assert [
        re.sub(r"\S*clips.csv", "clips.csv", line.partition("runs.")[2]) for line in check(words, [runs]).problems
    ] == [
        "questions: no trait wram; clips.csv has warm, calm",
        "fusion: no trait cold; clips.csv has warm, calm",
        "questions: no clip answers q1, q2; clips.csv has the questions none: fill the column",
    ]


def test_what_a_producer_reads_is_counted(words) -> None:
    """A stream that is made of words needs words and no media."""
    lines = (words.parent / "clips.csv").read_text().splitlines()
    table = [f"{line},{'text' if n == 0 else 'I like it.' if n < 11 else ''}" for n, line in enumerate(lines)]
    (words.parent / "clips.csv").write_text("\n".join(table) + "\n")
    report = check(words, ["streams.c={use: precomputed, producer: lexicon, size: 24}"])
    assert report.problems == ()
    assert report.facts["streams"][2] == {"stream": "c", "use": "precomputed", "clips": 10, "of": 60}


def test_columns_are_known_for_every_producer() -> None:
    reasons = {import_module(f"mmtraits.media.features.{name}").REASON for name in features.names()}
    assert reasons <= _MADE_OF.keys()


def test_leakage_that_is_allowed_is_a_warning(words) -> None:
    report = check(words, ["protocol.by=id", "protocol.allow_leakage=true"])
    assert report.problems == ()
    assert "persons in training and outside, as allowed" in report.warnings[0]


def test_a_config_of_a_broken_manifest_leaves_the_rest_unjudged(words) -> None:
    with (words.parent / "clips.csv").open("a") as file:
        file.write("c000,,0.5,0.5,,\n")
    (problem,) = check(words).problems
    told = f"{words}:2: data.manifest: [0-9]+ problems? in {words.parent / 'clips.csv'}; nothing else was judged"
    assert re.fullmatch(told, problem)
    reports = check_all([words])
    assert [report.kind for report in reports] == ["config", "manifest"]
    assert any("is already on line 2" in line for line in reports[1].problems)


def test_a_config_brings_its_manifest_and_nothing_is_looked_at_twice(words) -> None:
    both = check_all([words, words.parent, words])
    assert [report.kind for report in both] == ["config", "manifest"]


def test_without_torch_a_config_is_checked_as_far_as_can_be(words) -> None:
    script = f"""
import sys
sys.modules["torch"] = None
from mmtraits.check import check
report = check({str(words)!r}, ["protocol.by=id"])
print(report.to_text())
assert len(report.problems) == 1 and "both in training" in report.problems[0]
(warning,) = report.warnings
assert warning.startswith("torch: not installed; the options of streams, fusion and head were not looked at")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------- command line


def mmtraits(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["mmtraits", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_the_command_prints_and_exits_with_2_where_there_are_problems(monkeypatch, capsys, words, tmp_path) -> None:
    code, out, _ = mmtraits(monkeypatch, capsys, words, "--workers", 0, "--json", tmp_path / "found.json")
    assert code == 0
    assert out.startswith(f"config {words}: 0 problems, 0 warnings\n")
    assert f"\n\nmanifest {tmp_path / 'clips.csv'}: 0 problems, 1 warning\n" in out
    told = json.loads((tmp_path / "found.json").read_text())
    assert [one["kind"] for one in told] == ["config", "manifest"]
    assert told[1]["facts"]["rows"][0]["all"] == 60
    code, out, _ = mmtraits(monkeypatch, capsys, words, "protocol.by=id", "--workers", 0)
    assert code == 2
    assert "override 'protocol.by=id': protocol.by: " in out


def test_the_command_wants_a_path(monkeypatch, capsys) -> None:
    code, _, err = mmtraits(monkeypatch, capsys, "a=b")
    assert code == 2
    assert "check: expected a config, manifest, bundle, run or media folder" in err


def test_the_schema_for_editors(monkeypatch, capsys) -> None:
    code, out, _ = mmtraits(monkeypatch, capsys, "--schema")
    assert code == 0
    schema = json.loads(out)
    assert "allow_leakage" in schema["$defs"]["ProtocolConfig"]["properties"]
    assert schema["properties"]["extends"]["type"] == "string"
