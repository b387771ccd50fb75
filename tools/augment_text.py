"""More texts to train on: `augment_text.py SOURCE OUT` writes SOURCE's clips and altered copies of their words.

Without --model words are left out and neighbours change places, a share --rate of each. --model, a local causal model
of transformers, says each text in other words (--prompt); nothing is downloaded, and what was said is kept under
--cache by model, prompt and text. The same --seed gives the same copies in any order of rows.

A copy has its clip's person, question and labels, words alone (it was never spoken or seen), and `attr_made`,
`attr_made_from`: however a run divides clips, such a row is only ever trained on, and never where its clip's person is
validated or tested. Clips of val and test get no copies. Anything that alters words alters labels a little: compare
with a run without copies. After EmoPerso (arXiv 2509.02450), whose own prompts were not published.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.data.prepare import Dropped, finish, run
from mmtraits.data.splits import MADE, MADE_FROM
from mmtraits.data.texts import said
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip

PROMPT = "Text: {text}\nThe same in other words, by the same speaker in the same mood:"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, write, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a prepared folder: clips.csv with schema.yaml beside it")
    parser.add_argument("out", type=Path, help="another folder, for the clips and their copies")
    parser.add_argument("--copies", type=int, default=1, help="of each text")
    parser.add_argument("--rate", type=float, default=0.1, help="share of words left out, and of neighbours swapped")
    parser.add_argument("--model", help="a local folder of transformers, or package:NAME/PATH, that rewords instead")
    parser.add_argument("--prompt", default=PROMPT, help="what it is asked; {text} stands for the words")
    parser.add_argument("--max-ids", type=int, default=256, help="tokens that it may answer with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="where rewordings are kept")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return run(prepare, parser.parse_args(arguments))


def prepare(
    source: Path,
    out: Path,
    *,
    copies: int = 1,
    rate: float = 0.1,
    model: str | None = None,
    prompt: str = PROMPT,
    max_ids: int = 256,
    seed: int = 0,
    cache: Path = Path("cache"),
    device: str = "cpu",
) -> str:
    """Write OUT, whole or not at all; return the report. Raises MMTraitsError."""
    if copies < 1 or not 0 < rate < 1:
        raise ManifestError(f"--copies {copies} --rate {rate}; expected 1 or more copies and a rate between 0 and 1")
    if model and "{text}" not in prompt:
        raise ManifestError(f"--prompt {prompt!r}; expected {{text}} in it, where the words go")
    corpus, dropped = manifests.read(source), Dropped()
    rows = list(_rows(corpus, dropped))
    if not rows:
        raise ManifestError("\n".join([f"{corpus.path}: no clip to alter; nothing was written", *dropped.lines()]))
    texts = [str(said(corpus.clips[row])) for row in rows]
    altered = [
        [_shaken(text, rate, np.random.default_rng([seed, n, *text.encode()])) for text in texts] for n in range(copies)
    ]
    if model:
        from mmtraits.llm.text import Writer, reworded

        writer = Writer(model, max_ids=max_ids, device=device)
        prompts = [prompt.replace("{text}", text) for text in texts]
        altered = [reworded(writer, prompts, cache, seed=seed + n) for n in range(copies)]
    made = [
        (row, _copy(corpus.clips[row], new, n))
        for n, several in enumerate(altered, 1)
        for row, old, new in zip(rows, texts, several, strict=True)
        if _new(corpus.clips[row], old, new, dropped)
    ]
    manifest = _with(corpus, out, made)
    told = f"{len(made)} copies of {len(rows)} texts, " + (f"by {Path(model).name}" if model else f"rate {rate:g}")
    return "\n".join([finish(manifest, dropped, corpus.folder), told])


def _rows(corpus: Manifest, dropped: Dropped) -> Iterator[int]:
    """Rows that may be trained on and have words."""
    for row, (clip, split) in enumerate(zip(corpus.clips, corpus.splits, strict=True)):
        if MADE in clip.attributes:
            dropped.add(clip.id, "not copied: copies themselves, or labelled by a model")
        elif split in ("val", "test") or (split is None and any(corpus.splits)):
            dropped.add(clip.id, "not copied: clips outside the split train")
        elif said(clip) is None:
            dropped.add(clip.id, "not copied: clips without words")
        else:
            yield row


def _shaken(text: str, rate: float, draw: np.random.Generator) -> str:
    """The text with a share of its words left out, never all, and a share of neighbours in each other's place."""
    words = text.split()
    kept = [word for word, lot in zip(words, draw.random(len(words)), strict=True) if lot >= rate] or words[:1]
    for place in np.flatnonzero(draw.random(max(len(kept) - 1, 0)) < rate):
        kept[place], kept[place + 1] = kept[place + 1], kept[place]
    return " ".join(kept)


def _new(clip: Clip, old: str, new: str, dropped: Dropped) -> bool:
    """Whether a copy says anything else than its clip."""
    if not new.strip():
        dropped.add(clip.id, "copies: the model said nothing")
    elif new.split() == old.split():
        dropped.add(clip.id, "copies: nothing was altered")
    else:
        return True
    return False


def _copy(clip: Clip, text: str, number: int) -> Clip:
    attributes = {**clip.attributes, MADE: "augmented", MADE_FROM: clip.id}
    bare = replace(clip, video=None, audio=None, transcript=None, start_s=0.0, end_s=None, features={})
    return replace(bare, id=f"{clip.id}~{number}", text=text, attributes=attributes)


def _with(corpus: Manifest, out: Path, made: Sequence[tuple[int, Clip]]) -> Manifest:
    """The corpus, as a manifest in OUT, and the copies behind it."""
    own = [
        replace(clip, features={s: str((corpus.folder / one).resolve()) for s, one in clip.features.items()})
        for clip in corpus.clips
    ]
    rows = [row for row, _ in made]
    return replace(
        corpus,
        path=out / "clips.csv",
        clips=(*own, *(clip for _, clip in made)),
        labels=np.concatenate([corpus.labels, corpus.labels[rows]]),
        splits=(*corpus.splits, *(corpus.splits[row] for row in rows)),
        lines=(),
    )


if __name__ == "__main__":
    sys.exit(main())
