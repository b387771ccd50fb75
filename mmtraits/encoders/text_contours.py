"""How a text goes on: measures over a sliding window of sentences, read by a bidirectional LSTM with attention."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import Standardize, hidden, present
from mmtraits.media.features import contours
from mmtraits.schema import VectorSpec
from mmtraits.tokens import Tokens

_SHUT = 1e4  # a gate's input that leaves nothing of what else goes in


class Config(BaseModel):
    """Options of `text_contours`."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(default=64, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)


TINY: tuple[dict[str, Any], ...] = ({"width": 8},)


class Encoder(nn.Module):
    """Contours float32 (B, T, measures) -> standardised with training statistics -> (B, 1, width).

    The recurrent branch of "Pushing on Personality Detection from Verbal Behavior" (WASSA 2022), on open measures.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = VectorSpec(width=len(contours.NAMES), producer="contours")
        self.width = config.width
        self.standardize = Standardize(self.spec.width)
        self.dropout = nn.Dropout(config.dropout)
        self.recurrent = MaskedLSTM(self.spec.width, config.width // 2)
        self.attention = Pooling(config.width)

    def frontend(self, raw: Tokens) -> Tokens:
        """The measures as they are."""
        return raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Measures (B, T, measures) -> one token (B, 1, width)."""
        data = self.dropout(self.standardize(hidden(tokens)))
        pooled: Tokens = self.attention(Tokens(self.recurrent(Tokens(data, tokens.mask)), tokens.mask))
        return pooled

    def forward(self, raw: Tokens) -> Tokens:
        """Measures (B, T, measures) -> one token (B, 1, width)."""
        return self.adapt(raw)


class MaskedLSTM(nn.Module):
    """One bidirectional LSTM layer in which a masked step keeps the cell's state: (B, T, D) -> (B, T, 2 * size).

    A further input column says that a step is masked; its fixed weights shut the input gate and open the forget gate.
    So padding on either side leaves the first state, zero, as it is, and the graph holds one plain LSTM: packed
    sequences do not export.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.lstm = nn.LSTM(width, size, batch_first=True, bidirectional=True)
        self.closing: Tensor
        column = torch.zeros(4 * size, 1)  # torch's order: input, forget, cell, output
        column[:size], column[size : 2 * size] = -_SHUT, _SHUT
        self.register_buffer("closing", column, persistent=False)

    def forward(self, tokens: Tokens) -> Tensor:
        """Steps (B, T, D) -> states (B, T, 2 * size), zeros where the mask is False."""
        absent = (~tokens.mask).unsqueeze(-1).to(tokens.data.dtype)
        inputs = torch.cat([hidden(tokens), absent], -1)
        first = inputs.new_zeros(2, inputs.shape[0], self.size)
        states: Tensor = torch.lstm(inputs, (first, first), self._weights(), True, 1, 0.0, False, True, True)[0]
        return torch.where(tokens.mask.unsqueeze(-1), states, torch.zeros_like(states))

    def _weights(self) -> list[Tensor]:
        found = []
        for direction in ("", "_reverse"):
            of = {n: getattr(self.lstm, f"{n}_l0{direction}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            of["weight_ih"] = torch.cat([of["weight_ih"], self.closing.to(of["weight_ih"])], 1)
            found += list(of.values())
        return found


class Pooling(nn.Module):
    """Attention over steps with a learned query (Bahdanau et al. 2015): (B, T, D) -> (B, 1, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens (B, T, D) -> their weighted mean (B, 1, D), zeros in rows that have none."""
        scores = self.score(tokens.data).squeeze(-1)
        lowest = torch.full_like(scores, torch.finfo(scores.dtype).min / 2)
        weights = torch.where(tokens.mask, scores, lowest).softmax(1)
        pooled = (weights.unsqueeze(-1) * hidden(tokens)).sum(1, keepdim=True)
        return Tokens(pooled, present(tokens).unsqueeze(1))
