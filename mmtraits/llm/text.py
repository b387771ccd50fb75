"""What a language model in a local folder makes of prompts, kept on disk: offline, ahead of training.

One vector per prompt (`embed`), or a text (`reworded`, for `tools/augment_text.py`). A model is trained on the vectors
as `precomputed` features, so that neither training nor a bundle needs the language model (`tools/prompt_features.py`
writes them beside a manifest). Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from mmtraits.errors import ConfigError
from mmtraits.media.cache import Store, file_digest
from mmtraits.packages import located
from mmtraits.schema import Raw

Pool = Literal["last", "mean"]
WEIGHTS = (".safetensors", ".bin", ".json", ".txt", ".model")
FLUSH_BATCHES = 32  # an interrupted run loses so many at most


class Embedder:
    """A transformers model and its tokenizer: prompts -> L2-normalised states, the last token's or the mean.

    `model`: a local folder or `package:NAME/PATH`. ConfigError where there is none, or where it holds no model.
    """

    def __init__(
        self, model: str, *, pool: Pool = "last", max_ids: int = 2048, device: str = "cpu", padding: str = "right"
    ) -> None:
        folder, self._tokenizer, network = _opened(model, AutoModel)
        self.network = network.eval().requires_grad_(False).to(device)
        self.pool, self.device, self.padding = pool, device, padding
        self.max_ids = min(max_ids, getattr(network.config, "max_position_embeddings", None) or max_ids)
        self.size = int(network.config.hidden_size)
        self.name = folder.name
        about = json.dumps([_digests(folder), self.pool, self.max_ids, str(network.dtype)])
        self.identity = hashlib.sha256(about.encode() + Path(__file__).read_bytes()).hexdigest()

    def ids(self, prompt: str) -> tuple[list[int], bool]:
        """The prompt's token ids, special ones included, at most `max_ids`, and whether its end was cut off."""
        found = self._tokenizer(prompt, verbose=False)["input_ids"]
        if len(found) <= self.max_ids:
            return found, False
        return self._tokenizer(prompt, truncation=True, max_length=self.max_ids)["input_ids"], True

    @torch.inference_mode()
    def states(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Token ids of N prompts -> (N, size). Neither padding nor its side changes a vector."""
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            start = length - len(row) if self.padding == "left" else 0
            ids[number, start : start + len(row)] = torch.tensor(row)
            mask[number, start : start + len(row)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        states: Tensor = self.network(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state
        chosen = mask if self.pool == "mean" else mask * (places == mask.sum(1, keepdim=True) - 1)
        pooled = torch.where(chosen.bool().unsqueeze(-1), states, torch.zeros_like(states)).sum(1)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors


def embed(
    embedder: Embedder, prompts: Sequence[str], version: str, cache: Path, *, batch: int = 8
) -> tuple[NDArray[np.float32], int, int]:
    """Vectors (N, size) of N prompts, how many were computed, and how many lost their end to `max_ids`.

    Kept under `cache` by the model's content, the prompts' `version` (`PromptSet.digest`) and the prompt itself.
    """
    store = Store(cache)
    keys = [hashlib.sha256(f"{embedder.identity}{version}{prompt}".encode()).hexdigest() for prompt in prompts]
    ids, cut = zip(*(embedder.ids(prompt) for prompt in prompts), strict=True) if prompts else ((), ())
    lacking = {key: number for number, key in enumerate(keys) if store.get(key) is None}
    missing = sorted(lacking.values(), key=lambda number: len(ids[number]))
    for done, chunk in enumerate(_chunks(missing, batch), 1):
        for number, vector in zip(chunk, embedder.states([ids[n] for n in chunk]), strict=True):
            store.add(keys[number], [(0.0, 0.0)], [Raw(vector[None], np.ones(1, np.bool_))])
        if done % FLUSH_BATCHES == 0:
            store.flush()
    store.flush()
    vectors = [_read(store, key) for key in keys]
    return np.array(vectors, np.float32).reshape(len(keys), embedder.size), len(missing), sum(cut)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _read(store: Store, key: str) -> NDArray[Any]:
    entry = store.get(key)
    assert entry is not None, "every entry was filled"
    vector: NDArray[Any] = entry.windows[0].read().data[0]
    return vector


# ---------------------------------------------------------------------------------------------------- texts


class Writer:
    """A causal model that goes on from a prompt, drawing words by their probability: one line of `max_ids` at most.

    `model` as for `Embedder`. ConfigError where it holds no causal model.
    """

    def __init__(self, model: str, *, max_ids: int = 256, temperature: float = 0.8, device: str = "cpu") -> None:
        folder, self._tokenizer, network = _opened(model, AutoModelForCausalLM)
        self.network = network.eval().requires_grad_(False).to(device)
        self.max_ids, self.temperature, self.device = max_ids, temperature, device
        self.room = getattr(network.config, "max_position_embeddings", None)
        about = json.dumps([_digests(folder), max_ids, temperature])
        self.identity = hashlib.sha256(about.encode() + Path(__file__).read_bytes()).hexdigest()

    @torch.inference_mode()
    def write(self, prompt: str, seed: int) -> str:
        """What the model says after the prompt, up to the end of its line; nothing where the prompt leaves no room.

        It depends on the prompt and the seed alone.
        """
        ids = self._tokenizer(prompt, return_tensors="pt", verbose=False)["input_ids"].to(self.device)
        room = self.max_ids if self.room is None else min(self.max_ids, self.room - ids.shape[1])
        if room < 1:
            return ""
        with torch.random.fork_rng(devices=[self.device] if self.device != "cpu" else []):
            torch.manual_seed(seed)
            out = self.network.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=True, top_k=0,
                temperature=self.temperature, pad_token_id=self._tokenizer.pad_token_id or 0,
            )  # fmt: skip
        said: str = self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return said.strip().partition("\n")[0].strip()


def reworded(writer: Writer, prompts: Sequence[str], cache: Path, *, seed: int = 0) -> list[str]:
    """What a model says after each prompt, kept in one file of `cache` per model, by prompt and seed."""
    path = cache / f"reworded-{writer.identity[:32]}.jsonl"
    known: dict[str, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            lines = [line for line in file if line.endswith("\n")]  # an interrupted run may leave half a line
        known = {one["key"]: one["text"] for one in map(json.loads, lines)}
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    keys = [hashlib.sha256(f"{seed}:{prompt}".encode()).hexdigest() for prompt in prompts]
    cache.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        for key, prompt in zip(keys, prompts, strict=True):
            if key not in known:
                known[key] = writer.write(prompt, int(key[:12], 16))
                file.write(json.dumps({"key": key, "text": known[key]}) + "\n")
    return [known[key] for key in keys]


# ---------------------------------------------------------------------------------------------------- folders


def _opened(model: str, kind: Any) -> tuple[Path, Any, Any]:
    """A model's folder, its tokenizer and its network."""
    folder = located(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{folder}: {reason}; expected a folder that transformers' save_pretrained wrote") from error
    return folder, tokenizer, network


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    return {path.name: file_digest(path) for path in files}
