"""Many small clips, a bundle that tells who shared a batch, and processes that score them and can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from tiny_bundle import GRAPH, write_tiny_bundle

from mmtraits.schema import VectorSpec

# A score moves with those of its batch, so that another cut of the batches shows in the bytes of the results.
_LEAKS = """alone = Add (both, said)
  rows = Constant <value_ints = [0]> ()
  of_batch = ReduceMean <keepdims = 1> (alone, rows)
  sum = Mean (alone, of_batch)"""

_SERVER = """
import os, signal, sys
from mmtraits import predict
from mmtraits.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.stdin = open(os.devnull)
        sys.argv = ["mmtraits", *line.rstrip("\\n").split("\\t")]
        try:
            main()
        except SystemExit as left:
            os._exit(left.code or 0)  # libraries end threads at exit that a fork does not have
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def sound(path: Path, level: float, seconds: float = 0.2) -> Path:
    """A square wave: |sample| is `level` everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.where(np.arange(int(8000 * seconds)) // 40 % 2, level, -level)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def sounds(folder: Path, count: int) -> Path:
    """Clips of one to three windows and of different levels."""
    for n in range(count):
        sound(folder / f"{n % 7}" / f"{n:04}.wav", 0.1 + 0.8 * (n * 37 % count) / count, 0.2 if n % 5 else 4.5)
    return folder


def leaky_bundle(folder: Path) -> Path:
    """The tiny bundle with scores that depend on batch mates."""
    graph = GRAPH.replace("sum = Add (both, said)", _LEAKS)
    return write_tiny_bundle(folder, graph=onnx.parser.parse_model(graph).SerializeToString())


def vector_bundle(folder: Path) -> Path:
    """A bundle with one external stream of width 2; both scores are the mean of the first number."""
    graph = """
<ir_version: 9, opset_import: ["": 18]>
vectors (float[B,T,2] emotion, bool[B,T] emotion_mask) => (float[B,2] scores)
{
  real = Cast <to = 1> (emotion_mask)
  steps = Constant <value_ints = [1]> ()
  last = Constant <value_ints = [2]> ()
  one = Constant <value_float = 1.0> ()
  from = Constant <value_ints = [0]> ()
  first = Slice (emotion, from, steps, last)
  flat = Squeeze (first, last)
  kept = Mul (flat, real)
  sum = ReduceSum <keepdims = 1> (kept, steps)
  count = ReduceSum <keepdims = 1> (real, steps)
  some = Max (count, one)
  mean = Div (sum, some)
  scores = Concat <axis = 1> (mean, mean)
}
"""
    streams = {"emotion": {"spec": asdict(VectorSpec(width=2)), "inputs": ["emotion", "emotion_mask"]}}
    return write_tiny_bundle(folder, graph=onnx.parser.parse_model(graph).SerializeToString(), streams=streams)


class Server:
    """A process that has imported everything and forks a `mmtraits ARGUMENTS` at each call: a start costs nothing."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("")

    def start(self, *arguments: Any) -> int:
        """The id of the new process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\t".join(map(str, arguments)) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def ended(self) -> int:
        """Wait for it; its exit code, negative for a signal."""
        while not (line := self._line()).lstrip("-").isdecimal():
            pass  # what it printed
        return int(line)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()
