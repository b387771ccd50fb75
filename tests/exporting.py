"""One module as an ONNX graph, opened with ONNX Runtime: for tests that compare it with torch."""

from __future__ import annotations

import warnings

import onnxruntime
import torch
from torch import Tensor, nn

from mmtraits.tokens import Tokens

DYNAMIC = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}


class Flat(nn.Module):
    """Two tensors in, two tensors out, as an exported graph wants it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, data: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.part(Tokens(data, mask)))


class Exported:
    """A part that takes and gives Tokens, run by ONNX Runtime on one thread; batch and time are free."""

    def __init__(self, part: nn.Module, example: Tokens) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 calls a deprecated function of its own
            program = torch.onnx.export(
                Flat(part).eval(),
                tuple(example),
                input_names=["data", "mask"],
                output_names=["out", "out_mask"],
                dynamic_shapes=(DYNAMIC, DYNAMIC),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        self.model = program.model_proto.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.model, options)

    def __call__(self, tokens: Tokens) -> Tokens:
        feed = {"data": tokens.data.numpy(), "mask": tokens.mask.numpy()}
        return Tokens(*(torch.from_numpy(array) for array in self.session.run(None, feed)))
