"""`runs: {over: trait}`: members of one trait each, trained on answers to its question, exported side by side."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import config, plant
from small_models import padded

from mmtraits import config as configs
from mmtraits import metrics, run
from mmtraits.compare import compare
from mmtraits.config import RunsConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError
from mmtraits.evaluate import evaluate
from mmtraits.evaluation import scored_run
from mmtraits.export import export
from mmtraits.runtime import Predictor
from mmtraits.schema import Raw
from mmtraits.train import fit

QUESTIONS = {"warm": "q3", "calm": "q4"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Manifest:
    """Each person answers q3 and q4; persons are rated; labels are transformed by a power."""
    folder = tmp_path_factory.mktemp("asked")
    planted = plant(folder, clips=120)
    clips = tuple(replace(clip, question=f"q{3 + n % 2}") for n, clip in enumerate(planted.clips))
    schema = replace(planted.schema, rated="person", transform="yeo_johnson")
    manifest = replace(planted, clips=clips, schema=schema)
    manifests.write(manifest)
    return manifest


@pytest.fixture(scope="module")
def settings(corpus):
    return config(
        corpus.path.parent,
        name="each",
        protocol={"split": "kfold", "folds": 2, "stratify": ("label",)},
        runs={
            "over": "trait",
            "questions": QUESTIONS,
            "fusion": {"calm": {"use": "mean_pool", "width": 16, "dropout": 0.0}},
        },
        trainer__max_epochs=4,
    )


@pytest.fixture(scope="module")
def trained(settings, corpus) -> Path:
    return fit(settings, root=corpus.path.parent / "runs")


def test_members_are_traits_times_folds_on_answers_to_their_question(settings, corpus) -> None:
    members = run.plan(settings, corpus)
    assert [member.name for member in members] == ["warm-fold0", "warm-fold1", "calm-fold0", "calm-fold1"]
    for member in members:
        rows = np.concatenate(list(member.rows.values()))
        assert {corpus.clips[row].question for row in rows} == {QUESTIONS[member.trait]}
        assert len(member.transform.shift) == 1 and member.transform.power is not None
    persons = [{corpus.clips[row].person for row in member.rows["test"]} for member in members]
    assert persons[0] == persons[2] and not persons[0] & persons[1]


def test_without_questions_every_row_is_everybodys(settings, corpus) -> None:
    plain = settings.model_copy(update={"runs": settings.runs.model_copy(update={"questions": {}})})
    members = run.plan(plain, corpus)
    assert sum(map(len, members[0].rows.values())) == len(corpus.clips)


def test_a_member_predicts_its_trait_alone(trained, corpus) -> None:
    with (trained / "calm-fold0" / "predictions.csv").open() as file:
        assert next(csv.reader(file)) == ["clip", "streams", "calm"]
    scores = run.predict(trained / "calm-fold0", corpus, [0, 1])
    assert scores.shape == (2, 1)
    assert run.load_member(trained / "warm-fold0").fusion.width == 32
    assert run.load_member(trained / "calm-fold0").fusion.width == 16


def test_an_evaluation_merges_the_traits(trained, corpus) -> None:
    said = scored_run.score(trained, corpus, "test")
    asked = np.array([corpus.clips[row].question for row in said.rows])
    for k, question in enumerate(QUESTIONS.values()):
        np.testing.assert_array_equal(np.isfinite(said.scores[:, k]), asked == question)
    found = evaluate(trained, corpus)
    table = found.rows[0].systems[0].table
    assert [(row.n, row.unscored) for row in table.traits.values()] == [(60, 0), (n_known(corpus), 0)]
    assert any("question of its own" in note for note in found.notes)


def test_one_graph_holds_all_members(trained, corpus, tmp_path) -> None:
    """Each output is the mean of its trait's members in torch."""
    exported = export(trained, tmp_path / "bundle")
    assert exported.members == 4 and exported.parity < 1e-4
    info = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert [len(one["power"]) for one in info["transform"]] == [2, 2]
    predictor = Predictor(tmp_path / "bundle")
    draw = np.random.default_rng(0)
    one = {s: Raw(draw.normal(size=(2, n)).astype(np.float32), np.ones(2, np.bool_)) for s, n in (("a", 6), ("b", 5))}
    found = predictor.score([one])[0]
    for k, trait in enumerate(QUESTIONS):
        members = [run.load_member(trained / f"{trait}-fold{n}") for n in (0, 1)]
        said = [member.scores(padded([one])).item() for member in members]
        assert found[k] == pytest.approx(np.mean(said), abs=1e-4)


def n_known(corpus: Manifest) -> int:
    """Persons with a label of the second trait."""
    return len({clip.person for clip, label in zip(corpus.clips, corpus.labels[:, 1], strict=True) if label == label})


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ({"questions": {"warm": "q9"}}, "runs.questions: no clip answers q9; .* has the questions q3, q4"),
        ({"questions": {"wram": "q3"}}, "runs.questions: no trait wram; .* has warm, calm"),
        ({"fusion": {"cold": {"use": "mean_pool"}}}, "runs.fusion: no trait cold; .* has warm, calm"),
    ],
)
def test_names_that_nothing_has_are_told(corpus, runs, told) -> None:
    with pytest.raises(ConfigError, match=told):
        run.plan(config(corpus.path.parent, runs={"over": "trait", **runs}), corpus)


def test_questions_without_members_by_trait_are_refused(corpus) -> None:
    with pytest.raises(ConfigError, match="questions and fusion are by trait; expected over: trait, found none"):
        config(corpus.path.parent, runs={"questions": {"warm": "q3"}})


def test_a_trait_without_a_label_in_training_is_told(corpus) -> None:
    labels = corpus.labels.copy()
    labels[:, 1] = np.nan
    with pytest.raises(ConfigError, match="no training row with a label of 'calm'"):
        run.plan(config(corpus.path.parent, runs={"over": "trait"}), replace(corpus, labels=labels))


def test_a_run_that_lacks_a_trait_is_not_exported(trained, corpus, tmp_path) -> None:
    shutil.copytree(trained, tmp_path / "half")
    for fold in (0, 1):
        (tmp_path / "half" / f"calm-fold{fold}" / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="the members say warm; expected warm, calm"):
        export(tmp_path / "half", tmp_path / "bundle")


# ---------------------------------------------------------------------------------------------------- side by side


def test_runs_with_questions_stand_beside_each_other_and_beside_one_of_all_answers(
    trained, settings, corpus, tmp_path
) -> None:
    """Every trait is judged on the answers that all of them scored it on."""
    every = settings.model_copy(update={"name": "every", "runs": RunsConfig(over="fold")})
    (tmp_path / "every.yaml").write_text(configs.dump(every))
    other = settings.model_copy(update={"name": "other"})
    (tmp_path / "other.yaml").write_text(configs.dump(other))
    found = compare([trained, tmp_path / "every.yaml", tmp_path / "other.yaml"], corpus.path, tmp_path / "out")
    assert [(side.name, side.members, side.unscored) for side in found.systems] == [
        ("each", 4, 0), ("every", 2, 0), ("other", 4, 0)
    ]  # fmt: skip
    assert (found.clips, found.units, found.notes[-1][:6]) == (120, 60, "Floors")
    counts = [(row.n, row.unscored) for side in found.systems for row in side.table.traits.values()]
    assert counts == 3 * [(60, 0), (n_answered(corpus), 0)]
    said = scored_run.score(tmp_path / "out" / "runs" / "every", corpus, "test")
    warm = [n for n, clip in enumerate(corpus.clips) if clip.question == "q3"]  # one clip of each person
    expected = metrics.mae(corpus.labels[warm, 0], said.scores[warm, 0])
    assert found.systems[1].table.traits["warm"].metrics["mae"].value == pytest.approx(expected)
    again = compare([trained, tmp_path / "every.yaml", tmp_path / "other.yaml"], corpus.path, tmp_path / "out")
    assert again.systems == found.systems


def test_a_trait_that_not_all_scored_on_any_clip_is_named(trained, settings, corpus, tmp_path) -> None:
    turned = settings.runs.model_copy(update={"questions": {**QUESTIONS, "calm": "q3"}})
    (tmp_path / "turned.yaml").write_text(configs.dump(settings.model_copy(update={"name": "turned", "runs": turned})))
    found = compare([trained, tmp_path / "turned.yaml"], corpus.path, tmp_path / "out")
    assert [row.n for row in found.systems[0].table.traits.values()] == [60, 0]
    assert found.notes[-1] == "calm: no clip was scored by all systems; left out of every mean."


def n_answered(corpus: Manifest) -> int:
    """Persons with a label of the second trait on the answer to its question."""
    return sum(
        clip.question == QUESTIONS["calm"] and label == label
        for clip, label in zip(corpus.clips, corpus.labels[:, 1], strict=True)
    )
