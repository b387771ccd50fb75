"""From what was said, by a questionnaire about it, to scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_language_model
from tool_scripts import checksums_hold, tool

from mmtraits import config, parts
from mmtraits.data import manifest as manifests
from mmtraits.data.features import read_features
from mmtraits.data.manifest import Manifest, read, write
from mmtraits.llm import questionnaire
from mmtraits.schema import Clip, Trait, TraitSchema
from mmtraits.train import fit

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "systems" / "questionnaire.yaml"
IPIP50 = questionnaire.read(ROOT / "configs" / "questionnaires" / "ipip50.yaml")
TRAITS = ("outgoing", "calm")
SAID = {
    ("outgoing", 1): ("I love big parties.", "I talk to every stranger I meet.", "I am happy on a stage."),
    ("outgoing", 0): ("I keep quiet in a group.", "I stay in a corner at parties.", "I rarely speak to strangers."),
    ("calm", 1): ("I hardly ever worry.", "I stay relaxed in a crisis.", "Little upsets me."),
    ("calm", 0): ("I panic before every exam.", "I get upset over small things.", "My mood swings all day."),
}
SCHEMA = TraitSchema(
    name="planted words",
    traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in TRAITS),
    construct="self_reported",
    judged_by="a formula",
)
ask_questionnaire = tool("ask_questionnaire")


def plant(folder: Path, clips: int) -> Manifest:
    """Texts of ten sentences; a label is the share of those about it that speak for it. The first clip says nothing."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 6, size=(clips, 2)) / 5
    rows = []
    for number, row in enumerate(labels):
        ends = [(name, int(n < round(5 * label))) for name, label in zip(TRAITS, row, strict=True) for n in range(5)]
        said = [str(draw.choice(SAID[end])) for end in ends]
        text = " ".join(draw.permutation(said)) if number else None
        video = None if number else Path("c000.mp4")
        rows.append(Clip(id=f"c{number:03d}", person=f"p{number}", text=text, video=video))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c000.mp4").write_bytes(b"")
    path = folder / "clips.csv"
    made = Manifest(path=path, schema=SCHEMA, clips=tuple(rows), labels=labels, splits=(None,) * clips)
    write(made)
    return made


def test_the_config_takes_what_the_tool_writes():
    found = config.load(CONFIG, check=parts.problems)
    assert list(found.streams) == ["ipip"]
    assert parts.encoder(found.streams["ipip"]).spec.width == len(IPIP50.columns)


@pytest.mark.parametrize(("kind", "shape"), [("answers", (1, 55)), ("states", (50, 32)), ("poles", (1, 55))])
def test_the_tool_writes_a_stream_beside_a_manifest(tmp_path: Path, capsys, kind, shape):
    made = plant(tmp_path / "corpus", 3)
    words = {word for text in (IPIP50.template, *IPIP50.statements()) for word in text.replace(".", " . ").split()}
    model = tiny_language_model.make(tmp_path / "lm", words | set("12345"))
    given = [] if kind == "poles" else ["--model", model]
    arguments = [str(made.folder), "--stream", "ipip", "--kind", kind, *given, "--cache", str(tmp_path / "cache")]
    assert ask_questionnaire.main(arguments) == 0
    found = read(made.folder, check_files=True)
    assert [sorted(clip.features) for clip in found.clips] == [[], ["ipip"], ["ipip"]]
    arrays = read_features(found.folder, [clip.features["ipip"] for clip in found.clips[1:]])
    assert {array.shape for array in arrays} == {shape}
    assert np.ptp(np.stack(arrays), axis=0).max() > 0
    assert "ipip.npz" in checksums_hold(made.folder)
    out = capsys.readouterr().out
    assert f"ipip: {{use: precomputed, size: {shape[1]}}}" in out
    assert "left out: 1, clips without words: c000" in out


def test_the_tool_needs_a_model_to_answer(tmp_path: Path, capsys):
    made = plant(tmp_path, 2)
    assert ask_questionnaire.main([str(made.folder), "--stream", "ipip"]) == 2
    assert "--kind answers without --model; expected a local folder" in capsys.readouterr().err


@pytest.mark.slow
def test_it_learns_what_people_say_of_themselves(tmp_path: Path):
    """MAE at most .65 of the mean predictor's on each planted trait, from MiniLM's similarities to the items."""
    made = plant(tmp_path / "corpus", 240)
    assert ask_questionnaire.prepare(made.folder, stream="ipip", kind="poles", cache=tmp_path / "cache")
    where = (f"data.manifest={made.path}", f"data.cache={tmp_path / 'cache'}", "trainer.accelerator=cpu")
    few = ("protocol.split=holdout", "runs.over=none", "trainer.max_epochs=60", "optimizer.lr=4e-3")
    found = config.load(CONFIG, [*where, *few, "streams.ipip.dropout=0.05"], check=parts.problems)
    member = fit(found, root=tmp_path / "runs") / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    labels = manifests.read(made.path).labels
    blind = np.abs(labels - labels.mean(0)).mean(0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(TRAITS)}
    assert max(ratios.values()) < 0.65, ratios
