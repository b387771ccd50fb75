"""What a language model makes of each clip's words: `prompt_features.py MANIFEST PROMPTS MODEL --stream NAME...`.

MANIFEST, a prepared folder, gets NAME.npz and a column feature_NAME for each NAME (several slots of a fusion may read
one file); everything else in it stays. PROMPTS is a file such as configs/prompts/hexaco_interview.yaml. A clip is asked
about the trait that its question is about, or about --trait. MODEL is a local folder; nothing is downloaded. Vectors
are kept under --cache by model, prompts and words: what was computed is not computed again. Training then needs neither
the model nor this tool:  streams: {NAME: {use: precomputed, size: SIZE}}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Contents, Dropped, finish, run
from mmtraits.data.texts import said
from mmtraits.errors import ManifestError
from mmtraits.llm import prompts as prompt_sets
from mmtraits.llm.prompts import PromptSet
from mmtraits.schema import Clip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, embed, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path, help="the prepared folder: clips.csv with schema.yaml beside it")
    parser.add_argument("prompts", type=Path, help="a file of configs/prompts")
    parser.add_argument("model", help="a local folder of transformers, or package:NAME/PATH")
    parser.add_argument("--stream", required=True, nargs="+", help="names of streams; the columns are feature_<stream>")
    parser.add_argument("--trait", help="ask about this trait, whatever the clip's question")
    parser.add_argument("--pool", choices=("last", "mean"), default="last", help="mean: for models that are not causal")
    parser.add_argument("--max-ids", type=int, default=2048, help="tokens of a prompt; what is over is cut off its end")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="where vectors are kept")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return run(prepare, parser.parse_args(arguments))


def prepare(
    manifest: Path,
    prompts: Path,
    model: str,
    *,
    stream: Sequence[str],
    trait: str | None = None,
    pool: str = "last",
    max_ids: int = 2048,
    cache: Path = Path("cache"),
    device: str = "cpu",
) -> str:
    """Write the streams into the manifest's folder, whole or not at all; return the report. Raises MMTraitsError."""
    for name in stream:
        if not name.isidentifier() or name != name.lower():
            raise ManifestError(f"--stream {name!r}; expected lower-case letters, digits and underscores")
    corpus = manifests.read(manifest)
    if corpus.path.name != "clips.csv":
        raise ManifestError(f"{corpus.path}: expected clips.csv, or the folder that holds one (unpack a clips.csv.gz)")
    wording = prompt_sets.read(prompts)
    dropped = Dropped()
    asked = _asked(corpus.clips, wording, trait, dropped)
    if not asked:
        raise ManifestError("\n".join([f"{corpus.path}: no clip to ask about; nothing was written", *dropped.lines()]))
    from mmtraits.llm.text import Embedder, embed

    embedder = Embedder(model, pool="mean" if pool == "mean" else "last", max_ids=max_ids, device=device)
    vectors, computed, cut = embed(embedder, list(asked.values()), wording.digest, cache)
    file = f"{stream[0]}.npz"
    clips = tuple(_with(clip, stream, f"{file}#{clip.id}" if clip.id in asked else None) for clip in corpus.clips)
    table = {"clip": np.array(list(asked)), "features": vectors}
    about = (
        f"prompts: {wording.name}, version {wording.version}, sha256 {wording.digest}\n"
        f"model: {embedder.name}, sha256 {embedder.identity}\npool: {pool}\n"
    )
    files: list[tuple[str, Contents]] = [(file, table), (f"{stream[0]}.prompts.txt", about)]
    report = finish(replace(corpus, clips=clips), dropped, corpus.folder, files=files)
    lines = [
        f"{len(asked)} prompts, {computed} computed, the others kept from before",
        f"{cut} cut at {embedder.max_ids} ids",
    ]
    config = [f"  {name}: {{use: precomputed, size: {embedder.size}}}" for name in stream]
    return "\n".join([report, *lines, "", "to train on it, in the config:", "streams:", *config])


def _asked(clips: Sequence[Clip], wording: PromptSet, trait: str | None, dropped: Dropped) -> dict[str, str]:
    """The prompt of each clip that has words, by its id. Raises ManifestError and ConfigError."""
    prompts = {}
    for clip in clips:
        about = trait or wording.trait_of(clip.question)
        words = said(clip)
        if about is None and clip.question is None:
            raise ManifestError(f"clip {clip.id}: no question tells which trait to ask about; expected one, or --trait")
        if about is None:
            dropped.add(clip.id, "clips whose question is about no trait")
        elif words is None:
            dropped.add(clip.id, "clips without words")
        else:
            prompts[clip.id] = wording.prompt(about, words, clip.question)
    return prompts


def _with(clip: Clip, streams: Sequence[str], reference: str | None) -> Clip:
    others = {name: other for name, other in clip.features.items() if name not in streams}
    return replace(clip, features={**others, **dict.fromkeys(streams, reference)} if reference else others)


if __name__ == "__main__":
    sys.exit(main())
