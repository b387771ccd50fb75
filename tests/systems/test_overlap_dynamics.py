"""From turns beside media, or in a transcript, to scores of one speaker of a session."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mmtraits import config, parts
from mmtraits.config import RunConfig
from mmtraits.data.manifest import Manifest, write
from mmtraits.extract import extract
from mmtraits.media.features import overlap
from mmtraits.media.load import load
from mmtraits.media.turns import turns_of
from mmtraits.schema import Clip, Trait, TraitSchema, VectorSpec, Windowing
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "overlap_dynamics.yaml"
SPECS = {"overlap": VectorSpec(width=overlap.WIDTH, producer="overlap")}
TRAITS = ("eager", "firm")
SCHEMA = TraitSchema(
    name="planted turns",
    traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in TRAITS),
    construct="self_reported",
    judged_by="a formula",
)


def settings(folder: Path, *changes: str) -> RunConfig:
    where = (f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu")
    return config.load(CONFIG, [*where, *changes], check=parts.problems)


def session(draw: np.random.Generator, eager: float, firm: float) -> list[tuple[float, float, str]]:
    """Thirty turns in exchange: A speaks into B's turn as often as eager, and outlasts B there as often as firm."""
    now, spoken = 0.0, []
    for _ in range(30):
        until = now + draw.uniform(2, 5)
        spoken.append((now, until, "B"))
        lead = draw.uniform(0.4, 1.5) if draw.uniform() < eager else -draw.uniform(0.1, 0.8)
        begin = until - lead
        lost = lead > 0 and draw.uniform() > firm
        end = begin + 0.8 * lead if lost else until + draw.uniform(1, 4)
        spoken.append((begin, end, "A"))
        now = max(end, until) + draw.uniform(0.1, 0.8)
    return spoken


def plant(folder: Path, sessions: int) -> Manifest:
    draw = np.random.default_rng(0)
    labels = draw.uniform(0.1, 1, size=(sessions, 2))
    clips = []
    for number, row in enumerate(labels):
        path = folder / f"s{number:03d}.json"
        folder.mkdir(parents=True, exist_ok=True)
        said = [{"start": s, "end": e, "speaker": who, "text": "so"} for s, e, who in session(draw, *map(float, row))]
        path.write_text(json.dumps({"segments": said}))
        clips.append(Clip(id=path.stem, transcript=path, speaker="A", person=path.stem))
    splits = (None,) * sessions
    made = Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=tuple(clips), labels=labels, splits=splits)
    write(made)
    return made


def test_the_config_reads_turns_and_nothing_else():
    found = config.load(CONFIG, check=parts.problems)
    assert list(found.streams) == ["overlap"]
    assert parts.encoder(found.streams["overlap"]).spec == SPECS["overlap"]


def test_a_clip_alone_is_missing_and_its_reason_is_told(tmp_path: Path):
    alone = tmp_path / "a.json"
    alone.write_text(json.dumps({"segments": [{"start": 0, "end": 3, "speaker": "A", "text": "so"}]}))
    loaded = load(Clip(id="a", transcript=alone, speaker="A"), SPECS, Windowing())
    assert loaded.windows[0].streams["overlap"].data.shape == (0, overlap.WIDTH)
    assert loaded.reasons == ("no_speech",)


def test_a_broken_file_of_turns_is_absence_and_a_line_in_the_log(tmp_path: Path, caplog):
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 zero 1 <NA> <NA> A")
    with caplog.at_level(logging.WARNING):
        loaded = load(Clip(id="a", audio=tmp_path / "a.wav", speaker="A"), SPECS, Windowing())
    assert "a.rttm:1: start is 'zero'; expected seconds" in caplog.text
    assert not loaded.windows[0].streams["overlap"].mask.any()


def test_training_reads_the_turns_and_reads_them_again_when_they_change(tmp_path: Path):
    made = plant(tmp_path, 3)
    found = settings(tmp_path)
    (first, *_) = (window.streams["overlap"].read().data for window in extract(found, made).windows)
    expected = overlap.overlap_features(turns_of(session_of(made.clips[0].transcript)), "A")
    np.testing.assert_allclose(first[0], expected, rtol=1e-6)
    (tmp_path / "s000.rttm").write_text("SPEAKER s 1 0 4 <NA> <NA> A\nSPEAKER s 1 3 2 <NA> <NA> B\n")
    (changed, *_) = (window.streams["overlap"].read().data for window in extract(found, made).windows)
    names = dict(zip(overlap.NAMES, changed[0].tolist(), strict=True))
    assert names["received_count"] == 1
    assert names["overlap_max"] == 1


def session_of(path: Path | None) -> list[tuple[float, float, str]]:
    assert path is not None
    return [(s["start"], s["end"], s["speaker"]) for s in json.loads(path.read_text())["segments"]]


@pytest.mark.slow
def test_it_learns_who_speaks_into_turns_and_who_stays(tmp_path: Path):
    """MAE at most .6 of the mean predictor's on each planted trait."""
    made = plant(tmp_path, 300)
    found = settings(tmp_path, "protocol.split=holdout", "runs.over=none", "trainer.max_epochs=40", "optimizer.lr=4e-3")
    member = fit(found, root=tmp_path / "runs") / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    blind = np.abs(made.labels - made.labels.mean(0)).mean(0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(TRAITS)}
    assert max(ratios.values()) < 0.6, ratios
