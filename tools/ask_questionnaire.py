"""A questionnaire filled in about the speaker of each clip: `ask_questionnaire.py MANIFEST --stream NAME`.

--kind answers (a causal model's expected score of each item), states (its hidden state after each item) or poles (no
causal model: how similar what was said is to each item). MANIFEST, a prepared folder, gets NAME.npz and the column
feature_NAME; everything else in it stays. --model is a local folder; nothing is downloaded. What was computed is kept
under --cache by model, questionnaire and words. A clip without words has no features.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Contents, Dropped, finish, run
from mmtraits.data.texts import said
from mmtraits.errors import ManifestError
from mmtraits.llm import questionnaire as questionnaires

IPIP50 = Path(__file__).resolve().parents[1] / "configs" / "questionnaires" / "ipip50.yaml"
KINDS = ("answers", "states", "poles")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, ask, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path, help="the prepared folder: clips.csv with schema.yaml beside it")
    parser.add_argument("--stream", required=True, help="name of the stream; the column is feature_<stream>")
    parser.add_argument("--kind", choices=KINDS, default="answers")
    parser.add_argument("--model", help="a local folder of transformers, or package:NAME/PATH; poles: MiniLM without")
    parser.add_argument("--questionnaire", type=Path, default=IPIP50, help="a file of configs/questionnaires")
    parser.add_argument("--max-ids", type=int, default=4096, help="of a prompt; what was said is cut for it")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="where answers are kept")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return run(prepare, parser.parse_args(arguments))


def prepare(
    manifest: Path,
    *,
    stream: str,
    kind: str = "answers",
    model: str | None = None,
    questionnaire: Path = IPIP50,
    max_ids: int = 4096,
    cache: Path = Path("cache"),
    device: str = "cpu",
) -> str:
    """Write the stream into the manifest's folder, whole or not at all; return the report. Raises MMTraitsError."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", stream):
        raise ManifestError(f"--stream {stream!r}; expected lower-case letters, digits and underscores")
    if model is None and kind != "poles":
        raise ManifestError(f"--kind {kind} without --model; expected a local folder with a causal model")
    corpus = manifests.read(manifest)
    if corpus.path.name != "clips.csv":
        raise ManifestError(f"{corpus.path}: expected clips.csv, or the folder that holds one (unpack a clips.csv.gz)")
    asked = questionnaires.read(questionnaire)
    texts = {clip.id: text for clip in corpus.clips if (text := said(clip)) is not None}
    if not texts:
        raise ManifestError(f"{corpus.path}: no clip has words; nothing was written")
    from mmtraits.llm.answers import SENTENCES, Kind, ask

    options = {"max_ids": max_ids, "device": device}
    made = ask(cast(Kind, kind), asked, list(texts.values()), model or SENTENCES, cache, **options)
    dropped = Dropped()
    for clip in corpus.clips:
        if clip.id not in texts:
            dropped.add(clip.id, "clips without words")
    clips = []
    for clip in corpus.clips:
        others = {name: other for name, other in clip.features.items() if name != stream}
        own = {stream: f"{stream}.npz#{clip.id}"} if clip.id in texts else {}
        clips.append(replace(clip, features={**others, **own}))
    files = _files(stream, kind, list(texts), made, asked, model or SENTENCES)
    report = finish(replace(corpus, clips=tuple(clips)), dropped, corpus.folder, files=files)
    lines = [
        "to train on it, in the config:",
        "streams:",
        f"  {stream}: {{use: precomputed, size: {made[0].shape[1]}}}",
    ]
    return "\n".join([report, f"{len(texts)} clips, {len(asked.items)} items each", "", *lines])


def _files(
    stream: str,
    kind: str,
    ids: Sequence[str],
    made: Sequence[NDArray[np.float32]],
    asked: questionnaires.Questionnaire,
    model: str,
) -> list[tuple[str, Contents]]:
    about = f"{asked.name} version {asked.version}, sha256 {asked.digest}\nkind: {kind}\nmodel: {Path(model).name}\n"
    files: list[tuple[str, Contents]] = [(f"{stream}.npz", {"clip": np.array(ids), "features": np.stack(made)})]
    files.append((f"{stream}.questionnaire.txt", about))
    if kind != "states":
        files.append((f"{stream}.columns.txt", "".join(f"{name}\n" for name in asked.columns)))
    return files


if __name__ == "__main__":
    sys.exit(main())
