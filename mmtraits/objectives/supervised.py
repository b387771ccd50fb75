"""Labels: the weighted losses of the config between predictions and targets, and those that the parts give."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmtraits import losses
from mmtraits.data.batch import Batch
from mmtraits.model import TraitModel
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(extra="forbid")


class Objective(nn.Module):
    """Loss in target space on known labels."""

    def __init__(self, config: Config, model: TraitModel, loss_weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.loss_weights = dict(loss_weights)

    def forward(self, batch: Batch, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch -> its loss (), nothing else to log."""
        predictions, aux = self.model(features)
        targets = self.model.to_target(batch.labels)
        return losses.total(self.loss_weights, predictions.float(), targets, batch.known, aux), {}
