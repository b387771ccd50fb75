"""Pre-training without labels: hide three quarters of all patches, restore them, and tell whose voice is whose face.

Social-MAE (Bohy et al. 2024), section 3, after CAV-MAE (Gong et al. 2023), and the released code of both. Targets come
in the order of the tokens, which the release confuses for video.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.data.batch import Batch
from mmtraits.layers import concat, hidden, masked_mean, present
from mmtraits.model import TraitModel
from mmtraits.networks import vit
from mmtraits.tokens import Tokens


class Size(NamedTuple):
    """Of the decoder."""

    width: int
    layers: int
    heads: int


SIZES = {"full": Size(512, 8, 16), "tiny": Size(32, 1, 2)}


class Config(BaseModel):
    """mask: share of patches that is hidden. contrast: weight of the contrastive loss, of this temperature.

    `directions: one` picks, for each clip, the partner of its later stream among all clips' earlier streams (the
    release: for each video the sound, with the stream of the sound named first); `both` averages both ways.
    """

    model_config = ConfigDict(extra="forbid")
    size: Literal["full", "tiny"] = "full"
    mask: float = Field(default=0.75, gt=0, lt=1)
    contrast: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    directions: Literal["one", "both"] = "one"


class Seen(NamedTuple):
    """What of a stream is not hidden: encoded tokens (B, n, D), their places (B, n), and the whole stream's patches."""

    tokens: Tokens
    places: Tensor
    patches: Tokens


class Objective(nn.Module):
    """Squared error of hidden patches, summed over streams, plus the weighted contrastive loss. Reads no labels."""

    own_validation = True

    def __init__(self, config: Config, model: TraitModel, loss_weights: Mapping[str, float]) -> None:
        super().__init__()
        for stream, encoder in model.encoders.items():
            if not hasattr(encoder, "trunk") or not hasattr(model.fusion, "states"):
                raise ValueError(
                    f"objective masked_autoencoder: stream {stream!r} is encoded by {type(encoder).__module__} and "
                    f"fused by {type(model.fusion).__module__}; expected mae_face or mae_audio, and shared_block"
                )
        self.config, self.model = config, model
        width, layers, heads = SIZES[config.size]
        trunks = {stream: encoder.trunk for stream, encoder in _encoders(model).items()}
        self.narrow = nn.Linear(_fusion(model).width, width)
        self.gap = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.ParameterDict({s: vit.positions(trunk.grid, width) for s, trunk in trunks.items()})
        self.modality = nn.ParameterDict({s: torch.randn(width) * 0.02 for s in trunks})
        self.blocks = nn.ModuleList(vit.Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.restore = nn.ModuleDict({s: nn.Linear(width, trunk.values) for s, trunk in trunks.items()})
        for part in (self.narrow, self.blocks, self.restore):
            vit.initialize(part)

    def forward(self, batch: Batch, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch -> its loss (), and its terms: `<stream>_error`, `contrast`."""
        seen = {stream: self._seen(stream, tokens) for stream, tokens in features.items()}
        restored = self._restored(seen)
        logged = {f"{stream}_error": _error(restored[stream], seen[stream]) for stream in seen}
        loss = torch.stack(list(logged.values())).sum()
        if self.config.contrast and len(seen) > 1:
            logged["contrast"] = self._contrast(seen)
            loss = loss + self.config.contrast * logged["contrast"]
        return loss, {name: value.detach() for name, value in logged.items()}

    def _seen(self, stream: str, features: Tokens) -> Seen:
        encoder = _encoders(self.model)[stream]
        patches = encoder.patches(features)
        places, real = drawn(patches.mask, 1 - self.config.mask)
        embedded = encoder.trunk.embed(patches)
        tokens = encoder.trunk.encode(Tokens(_at(embedded.data, places), real))
        return Seen(Tokens(self.model.projections[stream](tokens.data), real), places, patches)

    def _restored(self, seen: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Every patch of every stream (B, N, values), from the states of those that were seen."""
        states = self.narrow(_fusion(self.model).states({s: one.tokens for s, one in seen.items()}).data)
        parts = states.split([one.places.shape[1] for one in seen.values()], 1)
        filled = [self._filled(stream, seen[stream], part) for stream, part in zip(seen, parts, strict=True)]
        tokens = concat(filled)
        for block in self.blocks:
            tokens = block(tokens)
        split = self.norm(tokens.data).split([part.mask.shape[1] for part in filled], 1)
        return {stream: self.restore[stream](part) for stream, part in zip(seen, split, strict=True)}

    def _filled(self, stream: str, seen: Seen, states: Tensor) -> Tokens:
        """The seen states at their places and one learned vector at all others, all with their position."""
        gap = self.gap.to(states.dtype)
        whole = gap.expand(*seen.patches.mask.shape, -1)
        states = torch.where(seen.tokens.mask[..., None], states, gap)
        whole = whole.scatter(1, _index(seen.places, states), states)
        return Tokens(whole + self.positions[stream] + self.modality[stream], seen.patches.mask)

    def _contrast(self, seen: Mapping[str, Seen]) -> Tensor:
        """Whose streams belong together, by passes of each stream alone; mean over pairs of streams."""
        alone = {s: masked_mean(_fusion(self.model).states({s: one.tokens})) for s, one in seen.items()}
        there = {s: present(one.tokens) for s, one in seen.items()}
        terms = []
        for one, other in combinations(seen, 2):
            ways = [(one, other), (other, one)][: 1 if self.config.directions == "one" else 2]
            both = there[one] & there[other]
            terms += [info_nce(alone[a], alone[b], both, self.config.temperature) for a, b in ways]
        return torch.stack(terms).mean()


def drawn(mask: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Places (B, n) of a random `share` of each row's real tokens, mask (B, T), and which are meant (B, n).

    A row with fewer real tokens than others has fewer places, never none.
    """
    chance = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, 2.0)
    kept = max(1, round(share * mask.shape[1]))
    places = chance.argsort(1)[:, :kept]
    counts = (share * mask.sum(1)).round().clamp_min(1) * mask.any(1)
    return places, torch.arange(kept, device=mask.device) < counts[:, None]


def info_nce(keys: Tensor, queries: Tensor, both: Tensor, temperature: float) -> Tensor:
    """For each query (B, D) the negative log share of its own key (B, D) among all keys; mean over rows with both."""
    likeness = F.normalize(keys.float(), dim=1) @ F.normalize(queries.float(), dim=1).T / temperature
    among = likeness.masked_fill(~both[:, None], torch.finfo(likeness.dtype).min)
    own = torch.where(both, F.log_softmax(among, 0).diagonal(), 0)
    return -own.sum() / both.sum().clamp_min(1)


def _error(restored: Tensor, seen: Seen) -> Tensor:
    """Mean squared error of the real patches that were hidden; each patch counts the same."""
    index = torch.where(seen.tokens.mask, seen.places, -1)
    shown = (torch.arange(seen.patches.mask.shape[1], device=index.device)[:, None] == index[:, None]).any(2)
    wanted = seen.patches.mask & ~shown
    squared = (restored.float() - hidden(seen.patches).float()).square().mean(2)
    return torch.where(wanted, squared, 0).sum() / wanted.sum().clamp_min(1)


def _at(data: Tensor, places: Tensor) -> Tensor:
    return data.gather(1, _index(places, data))


def _index(places: Tensor, data: Tensor) -> Tensor:
    return places[..., None].expand(-1, -1, data.shape[2])


def _encoders(model: TraitModel) -> dict[str, Any]:
    return dict(model.encoders.items())


def _fusion(model: TraitModel) -> Any:
    return model.fusion
