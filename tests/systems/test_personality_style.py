"""Classical models on few persons: what is planted is found, what is not is chance, and nobody is on both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_texts import errors_of_mean, plant
from tool_scripts import tool

from mmtraits import config, parts
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.errors import MMTraitsError
from mmtraits.media.features import lexicon
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "personality_style.yaml"
classical = tool("classical")


def settings(folder: Path, *changes: str) -> RunConfig:
    where = (f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu")
    return config.load(CONFIG, [*where, "protocol.folds=3", *changes], check=parts.problems)


def best(rows: list[dict], trait: str, score: str) -> float:
    return max(row[score] for row in rows if row["trait"] == trait)


def test_the_config_knows_the_lexicons_width():
    assert config.load(CONFIG).streams["lexicon"].options["size"] == len(lexicon.NAMES)


def test_persons_are_rows_where_persons_are_rated(tmp_path: Path):
    made = plant(tmp_path, texts=30, per_person=2, unknown=6)
    found = classical.collect(settings(tmp_path), made)
    assert len(found.texts) == len(set(found.persons)) == len(found.labels) == 15
    assert made.clips[0].text in found.texts[0] and made.clips[1].text in found.texts[0]
    np.testing.assert_allclose(found.labels[0, 0], made.labels[1, 0])  # of two clips one has no label
    assert found.vectors["lexicon"].shape == (15, len(lexicon.NAMES))
    assert not np.isfinite(found.vectors["voice"]).any()
    assert [name for name, _ in found.families()] == ["words", "lexicon", "all"]


@pytest.mark.parametrize("binary", [True, False])
def test_planted_words_are_found_and_the_test_says_so(tmp_path: Path, binary: bool):
    made = plant(tmp_path, texts=60, binary=binary)
    noise = np.random.default_rng(5).permutation(made.labels[:, 2])
    made = replace(made, labels=np.column_stack([made.labels[:, :2], noise]))
    rows = list(classical.results(settings(tmp_path), made, 0))
    assert {row["family"] for row in rows} == {"words", "lexicon", "all"}
    assert {row["model"] for row in rows} == ({"logistic", "svm"} if binary else {"ridge", "svm"})
    score, found, chance = ("macro_f1", 0.85, 0.75) if binary else ("pearson", 0.75, 0.45)
    assert best(rows, "warm", score) > found
    assert best(rows, "rising", score) < chance
    warm = [row for row in rows if row["trait"] == "warm" and row["family"] == "lexicon"]
    assert all(row["mae"] < 0.7 * row["mae_of_mean"] for row in warm)


def test_p_is_small_for_what_is_planted_and_large_for_chance(tmp_path: Path):
    made = plant(tmp_path, texts=40)
    found = settings(tmp_path)
    samples = classical.collect(found, made)
    model = classical._models(binary=False)["ridge"]
    judge = classical.Nested(samples, ["lexicon"], model, np.arange(40), found, binary=False)
    planted = made.labels[:, 0]
    assert judge.chance(planted, judge(planted)[0], 19) == 1 / 20
    noise = np.random.default_rng(3).uniform(size=40)
    assert judge.chance(noise, judge(noise)[0], 19) > 0.1


def test_no_person_is_on_both_sides(tmp_path: Path):
    made = plant(tmp_path, texts=40, per_person=4, binary=True)
    made = replace(made, schema=replace(made.schema, rated="clip"))
    found = settings(tmp_path)
    samples = classical.collect(found, made)
    judge = classical.Nested(
        samples, ["words"], classical._models(binary=True)["svm"], np.arange(40), found, binary=True
    )
    seen = []
    for train, test in judge._splits(3, made.labels[:, 0], judge.persons):
        assert not set(judge.persons[train]) & set(judge.persons[test])
        seen += test.tolist()
    assert sorted(seen) == list(range(40))


def test_the_command_line_writes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plant(tmp_path, texts=30)
    out = tmp_path / "rows.json"
    changes = [f"data.manifest={tmp_path / 'clips.csv'}", f"data.cache={tmp_path / 'cache'}", "protocol.folds=3"]
    assert classical.main([str(CONFIG), *changes, "--permutations", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == len(capsys.readouterr().out.splitlines()) == 3 * 3 * 2
    assert {row["p"] for row in rows} <= {0.5, 1.0}
    assert classical.main([str(CONFIG), "data.manifest=none.csv"]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_too_few_labels_are_named(tmp_path: Path):
    made = plant(tmp_path, texts=9)
    with pytest.raises(MMTraitsError, match="warm: 9 labels; expected at least 10"):
        list(classical.results(settings(tmp_path), made, 0))


@pytest.mark.slow
def test_the_same_config_trains_a_linear_model_that_learns(tmp_path: Path):
    """Without voice: MAE at most .7 of the mean predictor's for the trait that the lexicon holds."""
    plant(tmp_path, texts=200)
    changes = ("streams.voice=null", "protocol.split=holdout", "runs.over=none", "optimizer.lr=3e-3")
    ratios = errors_of_mean(fit(settings(tmp_path, *changes), root=tmp_path) / "single", manifests.read(tmp_path))
    assert ratios["warm"] < 0.7, ratios
