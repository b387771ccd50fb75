"""ELIM (Kim and Song, NeurIPS 2022): what sets one person apart is taken out of another's features, labels stay.

Each step one person of the batch is the anchor. Entropic optimal transport matches its clips with those of every other
person; what the match costs a clip is that clip's shift. The features less their shift go through the head again and
must give the same labels. Ours: all persons and all clips of a batch at once, where the release draws five persons and
their 40 strongest labels and loops over them. Batches need several clips of a person (`data.clips_per_person`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits import losses
from mmtraits.data.batch import Batch
from mmtraits.model import TraitModel
from mmtraits.tokens import Tokens

FLOOR = 1e-3  # of a clip's relevance: a clip that is unlike the other person still has some


class Config(BaseModel):
    """`weight` rises from `wait` steps on with steps / `rise` to its whole; `sharpness` is 1 / ε of the transport.

    The release sums 0.5 over its four other persons; here it is their mean, so 2.0.
    """

    model_config = ConfigDict(extra="forbid")
    weight: float = Field(2.0, ge=0)
    wait: int = Field(10, ge=0)
    rise: int = Field(200, ge=1)
    sharpness: float = Field(5.0, gt=0)
    iterations: int = Field(5, ge=1)


class Objective(nn.Module):
    """The labels' losses, and the mean squared error of shifted features."""

    steps: Tensor

    def __init__(self, config: Config, model: TraitModel, loss_weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.loss_weights = dict(loss_weights)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch -> its loss (); logs the shifted features' error and the mean shift."""
        fused, aux = self.model.fuse(features)
        predictions, more = self.model.read(fused)
        targets = self.model.to_target(batch.labels)
        loss = losses.total(self.loss_weights, predictions.float(), targets, batch.known, {**aux, **more})
        shift, moved = self._shift(fused.detach().float(), batch.groups)
        again, _ = self.model.read(F.rms_norm(fused - shift.unsqueeze(1), fused.shape[1:], eps=1e-6))
        known = batch.known & moved.unsqueeze(1)
        error = losses.total({"mse": 1.0}, again.float(), targets, known)
        loss = loss + self.config.weight * self._strength() * error
        if self.training:
            self.steps += 1
        return loss, {"shifted": error, "shift": shift.sum() / moved.sum().clamp_min(1)}

    def _strength(self) -> Tensor:
        return (self.steps / self.config.rise).clamp_max(1) * (self.steps >= self.config.wait)

    def _shift(self, features: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        anchor = groups[torch.randint(len(groups), ())]
        return identity_shift(features, groups, anchor, self.config.sharpness, self.config.iterations)


def identity_shift(
    features: Tensor, groups: Tensor, anchor: Tensor, sharpness: float = 5.0, iterations: int = 5
) -> tuple[Tensor, Tensor]:
    """Features (B, D), persons (B,) and the anchor () among them -> shift (B,), and which rows are not the anchor's.

    Shift of a clip: the cost, 1 - cosine, that its person's transport plan with the anchor's clips spends on it. A
    clip's mass is its inner product with the mean of the other person where that is positive. 0 for the anchor itself.
    """
    here = groups == anchor
    others = torch.unique(groups[~here])
    if not len(others):
        return features.new_zeros(len(groups)), ~here
    theirs = (groups == others.unsqueeze(1)).to(features.dtype)  # (J, B)
    means = theirs @ features / theirs.sum(1, keepdim=True)
    unit = F.normalize(features, dim=1)
    cost = 1 - unit[here] @ unit.T  # (A, B)
    left = F.relu(means @ features[here].T) + FLOOR  # (J, A)
    right = theirs * (F.relu(features @ features[here].mean(0)) + FLOOR)  # (J, B)
    plan = sinkhorn(cost, left / left.sum(1, keepdim=True), right / right.sum(1, keepdim=True), sharpness, iterations)
    return (plan * cost).sum((0, 1)), ~here


def sinkhorn(cost: Tensor, left: Tensor, right: Tensor, sharpness: float, iterations: int) -> Tensor:
    """Entropic transport plans (J, A, B) for one cost (A, B) and J pairs of masses (J, A), (J, B); a mass may be 0.

    Cuturi 2013, in logarithms, a fixed number of rounds that end on the right: those sums are exact.
    """
    kernel = -sharpness * cost
    log_left, log_right = left.log(), right.log()
    v = torch.where(right > 0, torch.zeros_like(right), log_right)  # what has no mass takes no part in the first round
    for _ in range(iterations):
        u = log_left - torch.logsumexp(kernel + v.unsqueeze(1), 2)
        v = log_right - torch.logsumexp(kernel + u.unsqueeze(2), 1)
    return torch.exp(u.unsqueeze(2) + kernel + v.unsqueeze(1))
