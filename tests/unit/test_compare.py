"""Systems side by side on a planted corpus: `both` reads both streams, `half` only the one that clips lack."""

from __future__ import annotations

import csv
import html
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from typer.testing import CliRunner

from mmtraits import cli, compare, config, metrics, report, run
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError
from mmtraits.evaluation import side_findings
from mmtraits.evaluation.contents import Difference
from mmtraits.evaluation.side_by_side import Pair, SideBySide, to_text

STREAM_A = {"a": {"use": "precomputed", "size": 6, "width": 16}}


def write_config(work: Path, name: str, **changes: Any) -> Path:
    given = {"protocol": {"split": "kfold", "folds": 3}, "runs": {"over": "fold"}, "trainer__max_epochs": 3} | changes
    path = work / f"{name}.yaml"
    path.write_text(config.dump(planted.config(work / "corpus", name=name, **given)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SideBySide]:
    work = tmp_path_factory.mktemp("compare")
    planted.plant(work / "corpus", 120)
    both = write_config(work, "both", runs={"over": "fold", "seeds": 2})
    half = write_config(work, "half", streams=STREAM_A, modality_dropout=0.0)
    return work, compare.compare([both, half], work / "corpus" / "clips.csv", work / "out")


@pytest.fixture
def work(made: tuple[Path, SideBySide], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made[0], tmp_path / "work"))


def recorded(work: Path, name: str, manifest: Manifest, members: str = "*") -> np.ndarray:
    """(N, K): the mean over members of what predictions.csv says of the largest set of streams of each clip."""
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    total, count = np.zeros(manifest.labels.shape), np.zeros((len(row_of), 1))
    for path in sorted((work / "out" / "runs" / name).glob(f"{members}/predictions.csv")):
        with path.open() as file:
            lines = sorted(csv.DictReader(file), key=lambda line: line["streams"].count("+"))
        for clip, line in {line["clip"]: line for line in lines}.items():  # the last one has the most streams
            total[row_of[clip]] += [float(line["warm"]), float(line["calm"])]
            count[row_of[clip]] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def test_tables_and_differences_are_those_of_the_recorded_scores(made: tuple[Path, SideBySide]) -> None:
    work, found = made
    manifest = manifests.read(work / "corpus" / "clips.csv")
    scores = {name: recorded(work, name, manifest) for name in ("both", "half")}
    rows = np.flatnonzero(np.isfinite(scores["half"]).all(axis=1))
    ids = [manifest.clips[row].id for row in rows]
    assert (found.clips, found.units, found.persons) == (len(rows), 96, len({manifest.clips[r].person for r in rows}))
    expected = {
        name: metrics.table(manifest.labels[rows], some[rows], ids, manifest.schema) for name, some in scores.items()
    }
    for side in found.systems:
        for trait, row in side.table.traits.items():
            for metric in ("mae", "ccc", "pearson", "c_index"):
                assert row.metrics[metric].value == pytest.approx(
                    expected[side.name]["traits"][trait][metric], abs=1e-9
                )
                assert row.metrics[metric].lower < row.metrics[metric].value < row.metrics[metric].upper
    for pair in found.pairs:
        assert (pair.first, pair.second) == ("both", "half")
        means = [expected[name]["mean"][pair.metric] for name in ("both", "half")]
        assert pair.mean.value == pytest.approx(means[0] - means[1], abs=1e-9)
    assert [pair.metric for pair in found.pairs] == ["mae", "ccc"]
    assert [(p.first, p.second) for p in found.floor_pairs[::2]] == [
        (name, floor) for name in ("both", "half") for floor in ("training mean", "training median")
    ]


def test_systems_stand_in_the_order_given_with_what_differs(made: tuple[Path, SideBySide]) -> None:
    _, found = made
    both, half = found.systems
    assert (both.name, both.streams, both.members, both.unscored) == ("both", ["a", "b"], 6, 0)
    assert (half.name, half.streams, half.members, half.unscored) == ("half", ["a"], 3, 24)
    assert both.settings["runs.seeds"] == "2" and half.settings["runs.seeds"] == "1"
    assert half.settings["streams.b.use"] == "–"
    assert not {"name", "protocol.folds", "data.manifest", "optimizer.lr"} & set(both.settings)
    assert "pearson" not in found.floors[0].table.mean and "c_index" not in found.floors[1].table.traits["warm"].metrics


def test_floors_are_constants_of_training_rows(made: tuple[Path, SideBySide]) -> None:
    work, found = made
    manifest = manifests.read(work / "corpus" / "clips.csv")
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    constant = np.full((2, *manifest.labels.shape), np.nan)
    for member in run.read_run(work / "out" / "runs" / "half")["members"].values():
        train = [row_of[clip] for split in ("train", "val") for clip in member["splits"][split]]
        test = [row_of[clip] for clip in member["splits"]["test"]]
        constant[0, test] = np.nanmean(manifest.labels[train], axis=0)
        constant[1, test] = np.nanmedian(manifest.labels[train], axis=0)
    rows = np.flatnonzero(np.isfinite(recorded(work, "half", manifest)).all(axis=1))
    for floor, values in zip(found.floors, constant, strict=True):
        for k, trait in enumerate(("warm", "calm")):
            known = rows[np.isfinite(manifest.labels[rows, k])]
            wanted = metrics.mae(manifest.labels[known, k], values[known, k])
            assert floor.table.traits[trait].metrics["mae"].value == pytest.approx(wanted, abs=1e-9)
            median = metrics.mae(manifest.labels[known, k], constant[1][known, k])
            assert floor.table.traits[trait].metrics["skill"].value == pytest.approx(1 - wanted / median, abs=1e-9)


def test_seeds_are_judged_alone(made: tuple[Path, SideBySide]) -> None:
    work, found = made
    manifest = manifests.read(work / "corpus" / "clips.csv")
    rows = np.flatnonzero(np.isfinite(recorded(work, "half", manifest)).all(axis=1))
    ids = [manifest.clips[row].id for row in rows]
    alone = [
        metrics.table(
            manifest.labels[rows], recorded(work, "both", manifest, f"*-seed{n}")[rows], ids, manifest.schema
        )["mean"]
        for n in range(2)
    ]
    both, half = found.systems
    assert half.seeds == {} and set(both.seeds) == {"one_minus_mae", "pearson", "ccc"}
    for metric, spread in both.seeds.items():
        values = [one[metric] for one in alone]
        assert list(spread.values.values()) == pytest.approx(values, abs=1e-9)
        assert spread.mean == pytest.approx(sum(values) / 2, abs=1e-9)
        assert spread.sd == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=1e-9)


# ---------------------------------------------------------------------------------------------------- runs


def weights(work: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted((work / "out" / "runs").glob("*/*/best.safetensors"))}


def again(work: Path, *sources: Path, **changes: Any) -> SideBySide:
    given = sources or (work / "both.yaml", work / "half.yaml")
    return compare.compare(given, work / "corpus" / "clips.csv", work / "out", **changes)


def test_finished_runs_are_taken_as_they_are_and_unfinished_ones_resumed(work: Path) -> None:
    found, before = again(work), weights(work)
    text = (work / "out" / "comparison.json").read_text()
    assert len(before) == 9 and weights(work) == before
    hidden = (work / "corpus" / "a.npz").rename(work / "hidden.npz")  # nothing is extracted again
    shutil.rmtree(work / "corpus" / "cache", ignore_errors=True)
    assert again(work) == found
    hidden.rename(work / "corpus" / "a.npz")
    lost = work / "out" / "runs" / "half" / "fold1"
    shutil.rmtree(lost)
    assert again(work) == found
    assert (work / "out" / "comparison.json").read_text() == text
    assert [path for path, when in weights(work).items() if when != before[path]] == [str(lost / "best.safetensors")]


def test_a_finished_run_folder_stands_beside_a_config(work: Path) -> None:
    shutil.move(work / "out" / "runs" / "half", work / "elsewhere")
    found = again(work, work / "elsewhere", work / "both.yaml", overrides=["data.batch_size=32"])
    assert [side.name for side in found.systems] == ["half", "both"]
    assert not (work / "out" / "runs" / "half").exists()
    assert found.notes[-1] == f"data.batch_size=32: not applied to {work / 'elsewhere'}, trained before."


def test_persons_on_both_sides_are_refused_or_told(work: Path) -> None:
    """Every person has two clips, which a split by clip divides."""
    sources = [write_config(work, name, protocol={"split": "kfold", "folds": 3, "by": "id"}) for name in ("one", "two")]
    refused(work, *sources, match="persons of .* both in training and in validation or test")
    found = again(work, *sources, overrides=["protocol.allow_leakage=true", "trainer.max_epochs=1"])
    (told,) = [one for one in found.findings if one.kind == "persons_shared"]
    shared = run.read_run(work / "out" / "runs" / "one")["leakage"]["persons_shared"]
    assert shared > 0 and told.text.startswith(f"{shared} persons are in training and outside of it")


def test_overrides_are_for_all(work: Path) -> None:
    found = compare.compare(
        [work / "both.yaml", work / "half.yaml"],
        work / "corpus",
        work / "new",
        ["trainer.max_epochs=1", "runs.seeds=1"],
    )
    assert [side.members for side in found.systems] == [3, 3]
    assert not {"trainer.max_epochs", "runs.seeds"} & set(found.systems[0].settings)
    assert config.load(work / "new" / "runs" / "half" / "config.yaml").trainer.max_epochs == 1


# ---------------------------------------------------------------------------------------------------- refusals


def refused(work: Path, *sources: Path, match: str, **changes: Any) -> None:
    before = weights(work)
    with pytest.raises(ConfigError, match=match):
        again(work, *sources, **changes)
    assert weights(work) == before


def test_every_problem_is_told_before_anything_is_trained(work: Path) -> None:
    folds = write_config(work, "folds", protocol={"split": "kfold", "folds": 4, "seed": 2})
    single = write_config(work, "single", runs={"over": "none"})
    twin = work / "twin.yaml"
    twin.write_text((work / "both.yaml").read_text())
    with pytest.raises(ConfigError) as error:
        again(work, work / "both.yaml", folds, single, twin, work / "none.yaml")
    lines = str(error.value).splitlines()
    assert lines == [
        f"{work / 'none.yaml'}: no such file; give the path of a .yaml config",
        f"{folds}: protocol.folds 4, 3 in {work / 'both.yaml'}; protocol.seed 2, 0 in {work / 'both.yaml'}; "
        "expected one protocol for all systems",
        f"{single}: runs.over fold False, True in {work / 'both.yaml'}; expected one protocol for all systems",
        f"{twin}: name 'both' is also that of {work / 'both.yaml'}; expected different names",
    ]
    assert not (work / "out" / "runs" / "folds").exists()


def test_one_system_is_no_comparison(work: Path) -> None:
    refused(work, work / "both.yaml", match="found 1 system; expected two or more")


def test_a_folder_that_is_no_run(work: Path) -> None:
    refused(work, work / "both.yaml", work / "corpus", match=r"corpus/run\.json: cannot be read")


def test_a_run_of_another_config_is_not_taken_for_this_one(work: Path) -> None:
    refused(
        work, overrides=["trainer.max_epochs=2"], match=r"runs/both is a run with another trainer; choose another --out"
    )


def test_a_run_of_other_rows(work: Path) -> None:
    shutil.move(work / "out" / "runs" / "half", work / "given")
    planted.plant(work / "corpus", 100)
    refused(work, work / "given", work / "both.yaml", match=r"given: 20 of its clips are not in .*, such as c100")
    planted.plant(work / "corpus", 140)
    refused(work, work / "both.yaml", work / "half.yaml", match="runs/both was trained on other rows")
    shutil.rmtree(work / "out" / "runs" / "both")
    refused(work, work / "given", work / "both.yaml", match=r"other rows in train, val or test than .*given, though")


def test_a_run_that_is_not_finished(work: Path) -> None:
    folder = shutil.move(work / "out" / "runs" / "half", work / "given")
    (work / "given" / "fold0" / "metrics.json").unlink()
    refused(work, work / "both.yaml", Path(folder), match=r"given: 1 of 3 members are not trained .*--resume")


def test_a_run_of_another_schema(work: Path) -> None:
    folder = Path(shutil.move(work / "out" / "runs" / "half", work / "given"))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"judged_by": "a formula"', '"judged_by": "others"'))
    refused(work, work / "both.yaml", folder, match=r"given: its schema has another judged_by than .*clips\.csv")


# ---------------------------------------------------------------------------------------------------- correction


def difference(p: float | None, value: float = -0.1) -> Difference:
    return Difference(value=value, lower=value - 0.05, upper=value + 0.05, p=p)


def test_holm_is_over_pairs_and_traits_within_a_metric() -> None:
    def pair(second: str, metric: str, one: float | None, other: float | None, mean: float) -> Pair:
        traits = {"warm": difference(one), "calm": difference(other)}
        return Pair(first="x", second=second, metric=metric, traits=traits, mean=difference(mean))

    pairs = [pair("y", "mae", 0.01, 0.04, 0.02), pair("y", "ccc", 0.5, 0.03, 0.04), pair("z", "mae", 0.015, None, 0.03)]
    found = compare.corrected(pairs)
    assert [[one.p_holm for one in pair.traits.values()] for pair in found] == [
        [pytest.approx(0.03), pytest.approx(0.04)],  # 3 × .01, 1 × .04
        [pytest.approx(0.5), pytest.approx(0.06)],
        [pytest.approx(0.03), None],  # 2 × .015
    ]
    assert [pair.mean.p_holm for pair in found] == pytest.approx([0.04, 0.04, 0.04])
    assert compare.corrected([]) == []


# ---------------------------------------------------------------------------------------------------- findings, page


def findings(found: SideBySide, persons: int | None = 0) -> dict[str, list[str]]:
    every = side_findings.of(found, persons)
    return {kind: [one.text for one in every if one.kind == kind] for kind in dict.fromkeys(one.kind for one in every)}


def with_means(found: SideBySide, mae: Difference, ccc: Difference) -> SideBySide:
    pairs = [p.model_copy(update={"mean": mae if p.metric == "mae" else ccc}) for p in found.pairs]
    unclear = dict.fromkeys(("warm", "calm"), difference(0.9).model_copy(update={"p_holm": 0.9}))
    return found.model_copy(update={"pairs": [p.model_copy(update={"traits": unclear}) for p in pairs]})


def test_differences_are_told_in_words(made: tuple[Path, SideBySide]) -> None:
    clear, chance = ({"p": p, "p_holm": p} for p in (0.01, 0.2))
    lower = difference(None, -0.1).model_copy(update=clear)
    same = difference(None, 0.01).model_copy(update=chance)
    told = findings(with_means(made[1], lower, same))
    assert told["clear_difference"] == [
        "both is better than half on average (both minus half: MAE −0.1000, 95 % −0.1500 to −0.0500, p = 0.010)."
    ]
    assert told["no_clear_difference"] == [
        "both and half: no clear difference on average (CCC 0.0100, 95 % −0.0400 to 0.0600, p = 0.200)."
    ]
    told = findings(with_means(made[1], same, lower))
    assert told["clear_difference"][0].startswith("half is better than both on average (both minus half: CCC −0.1000")
    told = findings(with_means(made[1], same, same))
    assert "clear_difference" not in told and len(told["no_clear_difference"]) == 1


def test_what_is_not_alike_is_told(made: tuple[Path, SideBySide]) -> None:
    told = findings(made[1])
    assert told["members_differ"] == [
        "Not alike in members (both 6, half 3): an average over more seeds is better by that alone."
    ]
    assert told["unscored"] == ["Clips without a score: 24 by half. They are left out for every system."]
    assert not {"persons_shared", "persons_unknown", "few_units"} & set(told)
    assert findings(made[1], 3)["persons_shared"][0].startswith("3 persons are in training and outside of it")
    assert len(findings(made[1], None)["persons_unknown"]) == 1
    few = made[1].model_copy(update={"units": 49})
    assert findings(few)["few_units"][0].startswith("49 clips of ")


def test_a_floor_that_is_not_beaten_is_told(made: tuple[Path, SideBySide]) -> None:
    found = made[1]
    worse = difference(0.9, 0.2).model_copy(update={"p_holm": 0.9})
    better = difference(0.001).model_copy(update={"p_holm": 0.001})
    pairs = [p.model_copy(update={"mean": worse if p.first == "half" else better}) for p in found.floor_pairs]
    told = findings(found.model_copy(update={"floor_pairs": pairs}))["floor_not_beaten"]
    assert [text.split(" (")[0] for text in told] == [
        f"half: not clearly better than the {floor}" for floor in ("training mean", "training median")
    ]
    clearly = difference(0.001, 0.2).model_copy(update={"p_holm": 0.001})
    clear = [p.model_copy(update={"mean": clearly}) for p in pairs]
    told = findings(found.model_copy(update={"floor_pairs": clear}))["floor_not_beaten"]
    assert told and all(": worse than the training " in text for text in told)


def test_the_page_holds_every_number_and_loads_nothing(made: tuple[Path, SideBySide]) -> None:
    work, found = made
    page = (work / "out" / "report.html").read_text()
    assert report.STATEMENT in page and "No person is ranked" in page
    for side in found.systems:
        assert f"{side.table.mean['ccc'].value:.3f}".replace("-", "−") in page
    spread = found.systems[0].seeds["one_minus_mae"]
    assert f"{spread.mean:.4f} ± {spread.sd:.4f}" in page
    for pair in [*found.pairs, *found.floor_pairs]:
        assert f"{pair.first} − {pair.second}" in page
    for finding in found.findings:
        assert finding.text in html.unescape(page)
    assert not any(word in page for word in ("<script", "<link", "<img", "http:", "https:"))
    read = SideBySide.model_validate_json((work / "out" / "comparison.json").read_text())
    assert read.model_dump(mode="json") == found.model_dump(mode="json")


def test_names_are_escaped(made: tuple[Path, SideBySide], tmp_path: Path) -> None:
    found = made[1].model_copy(update={"manifest": "<b>clips</b>.csv"})
    report.write_comparison(tmp_path / "report.html", found)
    page = (tmp_path / "report.html").read_text()
    assert "<b>clips" not in page and "&lt;b&gt;clips" in page


def test_the_command(work: Path) -> None:
    arguments = [str(work / "both.yaml"), str(work / "half.yaml"), "data.batch_size=32"]
    done = CliRunner().invoke(
        cli.app, ["compare", *arguments, "--manifest", str(work / "corpus"), "--out", str(work / "out")]
    )
    assert done.exit_code == 0, done.output
    found = SideBySide.model_validate_json((work / "out" / "comparison.json").read_text())
    assert done.output.splitlines() == [*to_text(found).splitlines(), str(work / "out" / "report.html")]
    lines = [line.split()[0] for line in done.output.splitlines() if line.startswith("  ")]
    assert lines == ["both", "half", "training", "training"]
