"""Residual networks learned from nothing, in one dimension (waves) or two (frames), that never read padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a network's first convolution, and of its pooling and blocks.

    input_rms: root mean square of a plausible input, from which the first running variance starts: an untrained
    network then works at unit scale whatever its input's.
    """

    dims: int
    first_kernel: int
    first_stride: int
    kernel: int
    stride: int
    inputs: int
    input_rms: float


FRAMES = Plan(dims=2, first_kernel=7, first_stride=2, kernel=3, stride=2, inputs=3, input_rms=147.0)  # of uniform 0-255
WAVE = Plan(dims=1, first_kernel=49, first_stride=4, kernel=9, stride=4, inputs=1, input_rms=0.1)  # of −20 dBFS


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) of the real positions alone; the others come out as zeros.

    Fewer than two real positions have no variance: then the running statistics serve, and stay as they are.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, variance: float = 1.0, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.full((width,), variance))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Maps (N, C, ...), mask (N, ...) with the same axes or ones of length 1 -> (N, C, ...)."""
        real = mask.unsqueeze(1)
        if self.training:
            shape = (1, -1, *[1] * (x.ndim - 2))
            weight, bias = (tensor.reshape(shape) for tensor in (self.weight, self.bias))
            mean, variance = (tensor.reshape(shape) for tensor in self._statistics(x.float(), real))
            normed = ((x - mean) * torch.rsqrt(variance + self.eps) * weight + bias).to(x.dtype)
        else:
            normed = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return torch.where(real, normed, torch.zeros_like(normed))

    def _statistics(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = real.expand(-1, -1, *x.shape[2:]).sum()
        mean = torch.where(real, x, 0.0).sum(axes) / count.clamp_min(1)
        centred = torch.where(real, x - mean.reshape(1, -1, *[1] * (x.ndim - 2)), 0.0)
        variance = centred.square().sum(axes) / count.clamp_min(1)
        enough = count > 1
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp_min(1)
            self.running_mean.lerp_(mean, enough * self.momentum)
            self.running_var.lerp_(unbiased, enough * self.momentum)
        return torch.where(enough, mean, self.running_mean), torch.where(enough, variance, self.running_var)


class Convolution(nn.Module):
    """Convolution without bias, normalised over its real positions; a position is real when its centre was."""

    def __init__(
        self, dims: int, inner: int, outer: int, kernel: int, stride: int = 1, *, input_square: float = 0.5
    ) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
        self.stride = stride
        self.convolve = kind(inner, outer, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.convolve.weight, nonlinearity="relu")
        self.norm = BatchNorm(outer, variance=2 * input_square)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, inner, ...), mask (N, ...) -> (N, outer, ...), mask, each axis divided by the stride, rounded up."""
        mask = _strided(mask, self.stride)
        return self.norm(self.convolve(x), mask), mask


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution of one where the shape changes (He et al. 2016)."""

    def __init__(self, dims: int, inner: int, outer: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = Convolution(dims, inner, outer, kernel, stride)
        self.second = Convolution(dims, outer, outer, kernel)
        self.shortcut = Convolution(dims, inner, outer, 1, stride) if (inner, 1) != (outer, stride) else None

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, inner, ...), mask (N, ...) -> (N, outer, ...), mask."""
        way, kept = self.first(x, mask)
        way, kept = self.second(F.relu(way), kept)
        straight = self.shortcut(x, mask)[0] if self.shortcut else x
        return F.relu(way + straight), kept


class Residual(nn.Module):
    """One convolution, max pooling, then stages of blocks, each but the first beginning with a stride.

    With two blocks in each of four stages, 17 convolutions lie one behind the other: the networks of Deep Impression
    (Güçlütürk et al. 2016). With 3, 4, 6 and 3 blocks it is ResNet-34 without its classifier (He et al. 2016).
    """

    def __init__(self, plan: Plan, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.plan = plan
        self.width = channels[-1]
        first = (plan.inputs, channels[0], plan.first_kernel, plan.first_stride)
        self.first = Convolution(plan.dims, *first, input_square=plan.input_rms**2)
        self.blocks = nn.ModuleList()
        inner = channels[0]
        for stage, (outer, count) in enumerate(zip(channels, blocks, strict=True)):
            for number in range(count):
                stride = plan.stride if stage and not number else 1
                self.blocks.append(Block(plan.dims, inner, outer, plan.kernel, stride))
                inner = outer

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Input (N, inputs, ...), zeros where mask (N, ...) is False -> (N, width, ...), mask."""
        x, mask = self.first(x, mask)
        pool = (F.max_pool1d, F.max_pool2d)[self.plan.dims - 1]
        # Masked zeros are as good as no value: after ReLU nothing is less. A masked place must not see its neighbours.
        x = pool(F.relu(x), self.plan.kernel, self.plan.stride, self.plan.kernel // 2)
        mask = _strided(mask, self.plan.stride)
        x = torch.where(mask.unsqueeze(1), x, torch.zeros_like(x))
        for block in self.blocks:
            x, mask = block(x, mask)
        return x, mask


def _strided(mask: Tensor, stride: int) -> Tensor:
    return mask[(slice(None), *[slice(None, None, stride)] * (mask.ndim - 1))]
