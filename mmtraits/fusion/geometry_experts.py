"""Experts on three geometries, after CRMF (RecruitView, arXiv 2512.00450): a reconstruction, not the authors' network.

Their abstract names hyperbolic, spherical and Euclidean experts, adaptive routing and tangent-space fusion; no code and
no equations were published. Maps are at a fixed base point, so that an export is elementwise arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.fusion import late_fusion, text_centric
from mmtraits.tokens import Tokens

TINY: tuple[dict[str, Any], ...] = (
    {"width": 8, "hidden": 12, "space": 6},
    {"width": 8, "hidden": 12, "space": 6, "trunk": "text_centric", "turns": 2},
)
BOUNDARY = 1e-5  # points of the ball stay this share of its radius inside
EPS_SQUARED = 1e-12  # under the root of a norm: a finite gradient at 0
POLE_SQUARED = 1e-6  # the same where a division by it must stay bounded: the pole opposite to the base point


class Config(BaseModel):
    """`trunk` makes one vector of all streams; `hidden` and `space`: widths of the experts and of their spaces.

    `curvature`: where the ball's learned curvature starts; `turns`: reflections that make up the sphere's rotation;
    `temperature`: of the router's softmax.
    """

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=1)
    trunk: Literal["late_fusion", "text_centric"] = "late_fusion"
    anchor: str = "text"
    heads: int = Field(4, ge=1)
    hidden: int = Field(128, ge=1)
    space: int = Field(32, ge=1)
    curvature: float = Field(1.0, gt=0)
    turns: int = Field(4, ge=2, multiple_of=2)  # an even number of reflections is a rotation
    temperature: float = Field(1.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


class Hyperbolic(nn.Module):
    """Lift to the Poincaré ball, gyro-linear layer (Ganea et al. 2018), back to the tangent space at 0."""

    def __init__(self, space: int, curvature: float) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(curvature).expm1().log())  # softplus of it is the curvature
        self.linear = nn.Linear(space, space, bias=False)
        self.bias = nn.Parameter(torch.randn(space) * 0.01)  # in the tangent space at 0

    def forward(self, u: Tensor) -> Tensor:
        """Tangent vectors at 0 (B, m) -> (B, m)."""
        c = F.softplus(self.raw)
        turned = exp_ball(self.linear(log_ball(exp_ball(u, c), c)), c)
        return log_ball(add_ball(turned, exp_ball(self.bias, c), c), c)


class Spherical(nn.Module):
    """Lift to the sphere, rotate by Householder reflections, back to the tangent space at the north pole."""

    def __init__(self, space: int, turns: int) -> None:
        super().__init__()
        self.mirrors = nn.Parameter(torch.randn(turns, space + 1))

    def forward(self, u: Tensor) -> Tensor:
        """Tangent vectors at the pole (B, m) -> (B, m)."""
        x = exp_sphere(u)
        for mirror in self.mirrors.unbind():
            x = x - (x @ mirror)[:, None] * (2 * mirror / mirror.square().sum().clamp_min(EPS_SQUARED))
        return log_sphere(x)


class Fusion(nn.Module):
    """Streams -> one vector -> three experts -> router's mean in the common tangent space; `loss_router` balances."""

    aux_losses: ClassVar[tuple[str, ...]] = ("router",)

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width, self.temperature = config.width, config.temperature
        self.trunk = _trunk(config, streams)
        self.norm = nn.LayerNorm(config.width)
        self.lifts = nn.ModuleList(_mlp(config, config.space) for _ in range(3))
        self.hyperbolic = Hyperbolic(config.space, config.curvature)
        self.spherical = Spherical(config.space, config.turns)
        self.common = nn.ModuleList(nn.Linear(config.space, config.width) for _ in range(3))
        self.router = _mlp(config, 3)
        self.finish = nn.LayerNorm(config.width)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D); auxiliary `weights` (B, 3) and `loss_router`, 0 where experts are balanced."""
        z = self.norm(self.trunk(tokens)[0])
        ball, sphere, flat = (lift(z) for lift in self.lifts)
        spaces = (in_fp32(self.hyperbolic, ball), in_fp32(self.spherical, sphere), flat)
        weights = torch.softmax(self.router(z).float() / self.temperature, -1)
        views = torch.stack([layer(y) for layer, y in zip(self.common, spaces, strict=True)], 1)
        balance = 3 * weights.mean(0).square().sum() - 1
        return self.finish((weights.unsqueeze(-1) * views).sum(1)), {"weights": weights, "loss_router": balance}


# ------------------------------------------------------------------------------------------------------ manifolds


def in_fp32(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply without autocast: eight bits of mantissa cannot tell a point near the boundary from the boundary."""
    if not torch.is_autocast_enabled(x.device.type):
        return function(x.float())
    with torch.autocast(x.device.type, enabled=False):
        return function(x.float())


def exp_ball(u: Tensor, c: Tensor) -> Tensor:
    """Tangent vectors at 0 (..., m) -> points of the ball of curvature -c, strictly inside of it."""
    size = c.sqrt() * norm(u)
    return u * (torch.tanh(size).clamp_max(1 - BOUNDARY) / size)


def log_ball(x: Tensor, c: Tensor) -> Tensor:
    """Points of the ball (..., m) -> tangent vectors at 0; the inverse of `exp_ball` up to its clamp."""
    size = c.sqrt() * norm(x)
    inside = size.clamp_max(1 - BOUNDARY)
    return x * (0.5 * (torch.log1p(inside) - torch.log1p(-inside)) / size)


def add_ball(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Möbius addition (..., m), its result kept inside of the ball (Ganea et al. 2018, equation 4)."""
    xy = (x * y).sum(-1, keepdim=True)
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    top = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    moved = top / (1 + 2 * c * xy + c * c * xx * yy).clamp_min(BOUNDARY**2)
    return moved * ((1 - BOUNDARY) / (c.sqrt() * norm(moved))).clamp_max(1.0)


def exp_sphere(u: Tensor) -> Tensor:
    """Tangent vectors at the north pole (..., m) -> unit vectors (..., m + 1), the pole's axis last."""
    size = norm(u)
    return torch.cat([u * (torch.sin(size) / size), torch.cos(size)], -1)


def log_sphere(x: Tensor) -> Tensor:
    """Unit vectors (..., m + 1) -> tangent vectors at the north pole, shorter than pi."""
    size = norm(x[..., :-1], POLE_SQUARED)
    return x[..., :-1] * (torch.atan2(size, x[..., -1:]) / size)


def norm(x: Tensor, eps_squared: float = EPS_SQUARED) -> Tensor:
    """Euclidean norm of the last axis (..., 1), never 0."""
    return (x.square().sum(-1, keepdim=True) + eps_squared).sqrt()


def _trunk(config: Config, streams: tuple[str, ...]) -> nn.Module:
    shared = {"width": config.width, "dropout": config.dropout}
    if config.trunk == "late_fusion":
        return late_fusion.Fusion(late_fusion.Config(**shared, hidden=config.hidden), streams)
    options = text_centric.Config(**shared, heads=config.heads, anchor=config.anchor)
    return text_centric.Fusion(options, streams)


def _mlp(config: Config, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(config.width, config.hidden), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, out)
    )
