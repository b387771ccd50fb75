import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mmtraits.media.text import Tokenizer
from mmtraits.schema import TextSpec
from mmtraits.unlike import FEWEST, Ranges, Vocabulary, of_media, said


def training(n: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "duration": draw.normal(15, 0.5, n),
        "face_share": draw.uniform(0.8, 1, n),
        "loudness": draw.normal(-20, 2, n),
        "voice_distance": draw.normal(1, 0.1, n),
    }


ORDINARY = {"duration": 15.0, "face_share": 0.9, "loudness": -20.0, "voice_distance": 1.0}


@pytest.fixture(scope="module")
def ranges() -> Ranges:
    found = Ranges.fit(training())
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------------------- ranges


def test_a_clip_like_training_is_like_training(ranges) -> None:
    assert ranges.unlike(ORDINARY) == ""


@pytest.mark.parametrize(
    ("check", "value"),
    [
        ("duration", 3.0), ("duration", 60.0), ("face_share", 0.2), ("loudness", -50.0), ("loudness", -3.0),
        ("voice_distance", 2.5),
    ],
)  # fmt: skip
def test_an_outlier_is_named(ranges, check, value) -> None:
    assert ranges.unlike(ORDINARY | {check: value}) == check


def test_several_are_joined_in_the_order_of_the_checks(ranges) -> None:
    assert (
        ranges.unlike({"voice_distance": 9.0, "loudness": 0.0, "duration": 1.0}) == "duration;loudness;voice_distance"
    )


def test_a_distance_cannot_be_too_small(ranges) -> None:
    assert ranges.unlike(ORDINARY | {"voice_distance": 0.0}) == ""


def test_what_is_unknown_is_not_judged(ranges) -> None:
    assert ranges.unlike({"duration": float("nan"), "smell": 9.0}) is None
    assert ranges.unlike({"duration": 15.0, "loudness": float("nan")}) == ""


def test_limits_are_training_percentiles_moved_outwards() -> None:
    found = Ranges.fit({"duration": np.arange(1001.0), "loudness": -np.arange(1001.0)})
    assert found is not None
    np.testing.assert_allclose(found.limits["duration"], (5 * 0.95, 995 * 1.05))
    np.testing.assert_allclose(found.limits["loudness"], (-995 * 1.05, -5 * 0.95))
    assert found.rows == {"duration": 1001, "loudness": 1001}


def test_new_clips_of_the_same_kind_are_rarely_flagged(ranges) -> None:
    new = training(5000, seed=1)
    for check in new:
        flagged = np.mean([bool(ranges.unlike({check: value})) for value in new[check]])
        assert flagged <= 0.02, check


def test_clips_that_are_all_equal_leave_room() -> None:
    found = Ranges.fit({"duration": np.full(60, 15.0), "face_share": np.full(60, 1.0)})
    assert found is not None
    assert found.unlike({"duration": 14.6, "face_share": 0.97}) == ""
    assert found.unlike({"duration": 17.0, "face_share": 0.9}) == "duration;face_share"


def test_a_check_without_enough_clips_is_left_out() -> None:
    few = np.full(FEWEST, 15.0)
    few[0] = np.nan
    found = Ranges.fit({"duration": few, "loudness": np.full(FEWEST, -20.0)})
    assert found is not None and list(found.limits) == ["loudness"]
    assert Ranges.fit({"duration": few}) is None
    assert Ranges.fit({}) is None


def test_json_round_trip() -> None:
    vocabulary, familiarity = Vocabulary.fit(texts(80))
    found = Ranges.fit(training() | {"language": familiarity}, vocabulary)
    assert found is not None
    again = Ranges.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()
    assert again.limits["voice_distance"][0] == -np.inf and again.limits["language"][1] == np.inf
    outlier = ORDINARY | {"language": -99.0, "duration": 1.0}
    assert again.unlike(outlier) == found.unlike(outlier) == "duration;language"


# ---------------------------------------------------------------------------------------------------- language

START, END = 101, 102


def texts(n: int, low: int = 1000, seed: int = 0) -> list[np.ndarray]:
    """Texts of a language: its 300 ids by Zipf's law, between two special ids, 5 to 60 long."""
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 301)
    made = []
    for _ in range(n):
        words = low + draw.choice(300, draw.integers(5, 61), p=weights / weights.sum())
        made.append(np.concatenate([[START], words, [END]]).astype(np.int64))
    return made


@pytest.fixture(scope="module")
def language() -> tuple[Vocabulary, Ranges]:
    vocabulary, familiarity = Vocabulary.fit(texts(500))
    found = Ranges.fit({"language": familiarity}, vocabulary)
    assert found is not None
    return vocabulary, found


def test_another_language_is_told_apart(language) -> None:
    vocabulary, ranges = language
    flagged = {}
    for low in (1000, 1250):  # the same ids; a sixth of them, and the rare ones
        new = texts(500, low, seed=1)
        flagged[low] = np.mean([bool(ranges.unlike({"language": vocabulary.familiarity(ids)})) for ids in new])
    assert flagged[1000] <= 0.02 and flagged[1250] > 0.95


def test_ids_that_stand_in_every_text_tell_nothing(language) -> None:
    vocabulary, _ = language
    assert vocabulary.everywhere.tolist() == [START, END]
    assert np.isnan(vocabulary.familiarity(np.array([START, END])))
    assert np.isnan(vocabulary.familiarity(np.zeros(0, np.int64)))
    foreign = np.array([START, 5000, END])
    assert vocabulary.familiarity(foreign) == vocabulary.familiarity(foreign[1:2])


def test_familiarity_by_hand() -> None:
    """Half of the ids known where training knows .9: ten ids, standard error √(.9 · .1 / 10)."""
    vocabulary = Vocabulary(known=np.array([1, 2]), everywhere=np.array([0]), share=0.9)
    ids = np.array([0, 1, 1, 1, 2, 2, 7, 7, 8, 9, 9])
    assert vocabulary.familiarity(ids) == pytest.approx((0.5 - 0.9) / np.sqrt(0.009))


def test_a_text_of_known_ids_is_familiar_whatever_its_length(language) -> None:
    vocabulary, ranges = language
    for count in (1, 4, 100):
        assert vocabulary.familiarity(np.full(count, 1000)) == 0
    assert ranges.unlike({"language": 0.0}) == ""
    closed, familiarity = Vocabulary.fit([np.array([0, 1, 2])] * 50 + [np.array([0, 3])] * 50)  # every id is known
    found = Ranges.fit({"language": familiarity}, closed)
    assert found is not None
    assert found.unlike({"language": closed.familiarity(np.array([3]))}) == ""
    assert found.unlike({"language": closed.familiarity(np.array([4]))}) == "language"


def test_a_short_text_is_judged_mildly(language) -> None:
    vocabulary, _ = language
    scores = [vocabulary.familiarity(np.full(n, 9999)) for n in (1, 4, 40)]
    assert scores[0] > scores[1] > scores[2]


def test_a_training_text_is_judged_by_the_others() -> None:
    """An id that three texts hold is known to a fourth, not to themselves: each has only two others."""
    common = [np.array([0, 1]) for _ in range(100)]
    for text in range(3):
        common[text] = np.array([0, 1, 7])
    common[50] = np.array([0, 2])
    vocabulary, familiarity = Vocabulary.fit(common)
    assert 7 in vocabulary.known and 2 not in vocabulary.known and 0 in vocabulary.everywhere
    # 0 is everywhere; 1 is known from 98 others; of 103 ids left, 99 are known
    assert vocabulary.share == pytest.approx(100 / 105)
    np.testing.assert_allclose(familiarity[:3], familiarity[0])
    assert familiarity[0] == pytest.approx((0.5 - 100 / 105) / np.sqrt(100 / 105 * 5 / 105 / 2))


def test_ids_beyond_those_of_training_are_unknown(language) -> None:
    vocabulary, _ = language
    assert np.isfinite(vocabulary.familiarity(np.array([10**6])))


FOREIGN = (
    "ich heiße Anna und ich erzähle heute etwas über meine Arbeit und warum ich sie gerne mache",
    "also ich finde es sehr wichtig, dass man im Team zusammenarbeitet und offen miteinander spricht",
    "hola me llamo Ana y hoy quiero hablar de mi trabajo y de por qué me gusta tanto",
    "hoy fue un día muy bonito y nos reímos mucho",
    "je pense que c'est très important de travailler ensemble et de parler avec les gens",
)
ENGLISH = (
    "bin blue at f two now",  # of shared/clips: six scripted words
    "lay white by s zero again",
    "place white in j three please",
    "I think my greatest strength is that I listen to people before I decide anything, and then I stick with it.",
    "thank you very much",
)


def test_real_transcripts_tell_languages_apart(real_data) -> None:
    with gzip.open(
        real_data / "data" / "first_impressions" / "clips.csv.gz", "rt", encoding="utf-8", newline=""
    ) as file:
        said_ = [row["transcript"] for row in csv.DictReader(file) if row["transcript"].strip()]
    root = Path(__file__).parents[2] / "checkpoints" / "default"
    tokenizer = Tokenizer(TextSpec(tokenizer="tokenizer.json", max_ids=256), root)
    vocabulary, familiarity = Vocabulary.fit([tokenizer.encode(text)[0] for text in said_[::2]])
    found = Ranges.fit({"language": familiarity}, vocabulary)
    assert found is not None

    def flagged(text: str) -> bool:
        return bool(found.unlike({"language": vocabulary.familiarity(tokenizer.encode(text)[0])}))

    assert [text for text in FOREIGN if not flagged(text)] == []
    assert [text for text in ENGLISH if flagged(text)] == []
    assert np.mean([flagged(text) for text in said_[1::2]]) <= 0.02  # of other clips of the corpus


def test_what_is_said_in_every_window_counts_once() -> None:
    whole, part = np.array([1, 2, 3]), np.array([4])
    assert sorted(said([whole, whole, part]).tolist()) == [1, 2, 3, 4]
    assert said([]).dtype == np.int64


def test_of_media() -> None:
    found = of_media(3.0, {"face_coverage": 0.5, "loudness_dbfs": -20, "format": "mp4"})
    assert found == {"duration": 3.0, "face_share": 0.5, "loudness": -20.0}
    assert np.isnan(of_media(3.0, {})["loudness"])
