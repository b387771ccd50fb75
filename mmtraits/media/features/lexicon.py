"""Shares of word categories in what is said: a small open word list of our own, English.

The list holds closed classes (pronouns, articles, prepositions, auxiliaries, conjunctions, negations, quantifiers)
whole and a few frequent members of open ones. It was written for this file: it is no copy of LIWC or of another
dictionary, and its shares are not comparable with theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmtraits.media.features import Source
from mmtraits.schema import Raw

_LISTS = {
    "pronoun_i": "i me my mine myself i'm i've i'd i'll",
    "pronoun_we": "we us our ours ourselves we're we've we'd we'll let's",
    "pronoun_you": "you your yours yourself yourselves you're you've you'd you'll y'all",
    "pronoun_he_she": "he him his himself she her hers herself he's she's he'd she'd he'll she'll",
    "pronoun_they": "they them their theirs themselves they're they've they'd they'll",
    "pronoun_impersonal": "it its itself it's it'd it'll this that these those that's there's one who which what "
    "something anything nothing everything someone anyone everyone somebody anybody nobody everybody",
    "article": "a an the",
    "preposition": "about above across after against along among around at before behind below beneath beside between "
    "beyond by down during for from in inside into like near of off on onto out outside over past since through "
    "throughout to toward towards under until up upon via with within without",
    "auxiliary": "am is are was were be been being isn't aren't wasn't weren't have has had having haven't hasn't "
    "hadn't do does did don't doesn't didn't can could can't couldn't may might must shall should shouldn't will would "
    "won't wouldn't",
    "conjunction": "and but or nor so yet either neither both",
    "subordinator": "although as because if once provided since than though unless until when whenever where whereas "
    "wherever whether while",
    "negation": "no not never none nobody nothing nowhere neither nor cannot can't don't doesn't didn't won't wouldn't "
    "isn't aren't wasn't weren't haven't hasn't hadn't couldn't shouldn't ain't without",
    "quantifier": "all any both each enough every few fewer less little lot lots many more most much none several some",
    "filler": "um uh er erm hmm mm mhm well anyway basically actually literally whatever okay ok yeah yep",
    "tentative": "maybe perhaps probably possibly might could seem seems seemed guess suppose sort kind somewhat "
    "almost fairly quite apparently likely unlikely depends unsure hopefully",
    "certain": "always never definitely certainly absolutely surely obviously clearly completely totally exactly "
    "entirely must truly sure indeed undoubtedly every",
    "cognitive": "think thinks thinking thought know knows knowing knew believe believes believed understand "
    "understands understood consider considered realize realized reason reasons because why how mean means decide "
    "decided learn learned remember remembered idea ideas wonder",
    "social": "friend friends family mother mom father dad brother sister people person child children team partner "
    "colleague colleagues neighbor talk talks talked talking tell tells told say says said share shared help helps "
    "helped helping meet meets met meeting together party everyone",
    "positive": "good great nice happy love loves loved lovely like enjoy enjoys enjoyed enjoying fun best better "
    "beautiful wonderful excellent amazing glad excited exciting kind pleasant proud thank thanks grateful hope "
    "perfect success successful fantastic joy delighted calm warm",
    "negative": "bad worse worst sad hate hates hated angry anger upset afraid fear scared worry worries worried "
    "anxious nervous stress stressed stressful difficult hard problem problems wrong hurt pain painful awful terrible "
    "horrible boring tired lonely annoyed annoying fail failed failure sorry lost cry guilty ashamed",
    "achievement": "work works worked working goal goals achieve achieved plan plans planned planning finish finished "
    "organize organized win won success successful effort improve improved try tried best complete completed project "
    "deadline responsible careful detail details",
    "past": "was were had did went said got made came took saw knew thought told gave found felt left kept "
    "yesterday ago",
    "future": "will shall going gonna tomorrow soon later next won't i'll we'll you'll they'll he'll she'll it'll",
}
CATEGORIES: dict[str, frozenset[str]] = {name: frozenset(listed.split()) for name, listed in _LISTS.items()}
_OF_WORD: dict[str, list[int]] = {}
for _place, _members in enumerate(CATEGORIES.values()):
    for _word in _members:
        _OF_WORD.setdefault(_word, []).append(_place)

NAMES = (*(f"{name}_share" for name in CATEGORIES), "log_words")
REASON = "no_transcript"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, apostrophes kept and made straight; digits are no words."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def shares(said: Sequence[str]) -> NDArray[np.float32]:
    """Share of each category among words in lower case, (categories,); a word may be in several. Zeros without any."""
    counts = np.zeros(len(CATEGORIES), np.float32)
    for word in said:
        for place in _OF_WORD.get(word, ()):
            counts[place] += 1
    return counts / np.float32(max(1, len(said)))


def vectors(source: Source) -> Raw:
    """One vector (1, len(NAMES)) for what the scored person says in the window: shares, log(1 + number of words)."""
    said = words(source.text)
    if not said:
        return Raw(np.zeros((0, len(NAMES)), np.float32), np.zeros(0, np.bool_))
    row = np.append(shares(said), np.float32(np.log1p(len(said))))
    return Raw(row[None].astype(np.float32), np.ones(1, np.bool_))
