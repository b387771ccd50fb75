"""Configs, tables and weights by somebody who means harm: refused in words, quickly; nothing that they ask for runs."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from planted import config as planted_config
from planted import plant
from safetensors.torch import load_file, save_file

from mmtraits import config, run, weights
from mmtraits.data import tables
from mmtraits.data.features import read_features
from mmtraits.data.manifest import read_clips
from mmtraits.data.schema_file import read_schema
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.train import fit

BASE = "name: x\nstreams: {voice: {use: conv_mel}}\nfusion: {use: mean_pool}\nhead: {use: linear}\nloss: {mse: 1}\n"


def bomb(levels: int = 30) -> str:
    """Ten to the power of `levels` values in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "python_object": ("seed: !!python/object/apply:os.system ['touch ran']", "the tag 'python/object/apply:os.system'"),
    "python_name": ("data: {manifest: !!python/name:os.system }", "the tag 'python/name:os.system'"),
    "python_module": ("x: !!python/module:os", "the tag 'python/module:os'"),
    "own_tag": ("x: !run [touch, ran]", "the tag '!run'"),
    "binary": ("x: !!binary aGVsbG8=", "the tag 'binary'"),
    "alias_bomb": (bomb(), "aliases stand for 1[01]+ values; expected at most 100000"),
    "merge_bomb": (
        "\n".join(["a0: &a0 {k: v}", *(f"a{n}: &a{n} {{<<: *a{n - 1}, y{n}: *a{n - 1}}}" for n in range(1, 40))]),
        "aliases stand for",
    ),
    "holds_itself": ("a: &a [*a]", "an alias inside of what it stands for"),
    "deep": ("x: " + "[" * 1000, "nested too deeply"),
    "long": ("x: " + "y" * 5_000_000, r"\d+ characters; expected at most 1000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_yaml_that_asks_for_more_than_data(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = HOSTILE[name]
    (tmp_path / "c.yaml").write_text(text + "\n")
    started = time.process_time()
    with pytest.raises(ConfigError, match=rf"c\.yaml(:\d+)?: {message}"):
        config.load(tmp_path / "c.yaml")
    with pytest.raises(ManifestError, match=f"c.yaml: not readable as YAML: .*{message}"):
        read_schema(tmp_path / "c.yaml")
    assert time.process_time() - started < 12  # two readings
    assert not (tmp_path / "ran").exists()


def test_aliases_of_a_reasonable_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(BASE + "optimizer: {groups: &g {a: 0.1}}\ndata: {manifest: a.csv}\n")
    assert config.load(tmp_path / "c.yaml").optimizer.groups == {"a": 0.1}
    text = BASE.replace("{voice: {use: conv_mel}}", "{voice: &v {use: conv_mel}, other: *v, third: {<<: *v}}")
    (tmp_path / "c.yaml").write_text(text)
    assert {part.use for part in config.load(tmp_path / "c.yaml").streams.values()} == {"conv_mel"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("class_path: os.system\ninit_args: {command: touch ran}", "class_path: unknown key"),
        ("trainer: {class_path: subprocess.Popen}", "trainer.class_path: unknown key"),
        ("sed: 1", "sed: unknown key; did you mean 'seed'"),
        ("seed: ${oc.env:HOME}", r"seed: found '\$\{oc.env:HOME\}'"),
        ("name: ../../outside", "name: found '../../outside'"),
        ("trainer: {precision: '__import__(os)'}", "trainer.precision: found"),
    ],
)
def test_a_config_names_parts_and_numbers_and_no_code(tmp_path: Path, monkeypatch, change: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    key = change.partition(":")[0]
    kept = "".join(line + "\n" for line in BASE.splitlines() if not line.startswith(f"{key}:"))
    (tmp_path / "c.yaml").write_text(kept + change + "\n")
    with pytest.raises(ConfigError, match=message):
        config.load(tmp_path / "c.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("use", ["os", "../errors", "os.path", "__init__", "conv_mel.py", "/etc/passwd", ""])
def test_a_part_is_a_file_of_its_folder(tmp_path: Path, use: str) -> None:
    from mmtraits.parts import problems

    (tmp_path / "c.yaml").write_text(BASE.replace("use: conv_mel", f"use: '{use}'"))
    with pytest.raises(ConfigError, match=f"streams.voice.*: found {use!r}, no file in encoders/"):
        config.load(tmp_path / "c.yaml", check=problems)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch ran']", "&a [*a]", "[" * 1000])
def test_an_override_is_plain_too(tmp_path: Path, monkeypatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(BASE)
    with pytest.raises(ConfigError, match="is no YAML value"):
        config.load(tmp_path / "c.yaml", [f"seed={text}"])
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------------- packed tables


def test_a_manifest_that_unpacks_without_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "MOST_BYTES", 10 << 20)
    (tmp_path / "schema.yaml").write_text(
        "name: x\nconstruct: apparent\njudged_by: x\ntraits: [{name: calm, low: 0, high: 1}]\n"
    )
    (tmp_path / "clips.csv.gz").write_bytes(gzip.compress(b"id,text\n" + b"a" * (11 << 20)))
    with pytest.raises(ManifestError, match=r"clips.csv.gz:1: not a whole gzip file \(more than 10 MB in it\)"):
        read_clips(tmp_path / "clips.csv.gz")


def test_features_that_unpack_without_end(tmp_path: Path) -> None:
    head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (200000000,), }"
    with zipfile.ZipFile(tmp_path / "f.npz", "w", zipfile.ZIP_DEFLATED) as packed, packed.open("a.npy", "w") as member:
        member.write(head + shape.ljust(117) + b"\n")
        for _ in range(150):
            member.write(bytes(1_000_000))
    assert (tmp_path / "f.npz").stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ManifestError, match=r"f.npz: .*a.npy unpacks to 143 MB, nearly all alike"):
        read_features(tmp_path, ["f.npz#a"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# ---------------------------------------------------------------------------------------------------- weights


class Runs:
    """What unpickling this does is a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_state_that_asks_for_code(tmp_path: Path, monkeypatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(2), "more": Runs()}, tmp_path / "w.pth", pickle_protocol=protocol)
    with pytest.raises(
        ConfigError, match=r"w.pth: refused: (it asks for posix.system|it is no plain state); expected"
    ) as error:
        weights.read(str(tmp_path / "w.pth"))
    assert "weights_only" not in str(error.value)  # torch's own text tells how to run it all the same
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, "NaN or infinity in w"),
        ({"w": torch.tensor([1.0, float("inf")]).half()}, "NaN or infinity in w"),
        ([torch.zeros(1)], "holds a list; expected names with a tensor each"),
        ({"w": 1.0}, "holds a dict; expected names with a tensor each"),
    ],
)
def test_a_state_that_is_none(tmp_path: Path, state: Any, message: str) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=message):
        weights.read(str(tmp_path / "w.pth"))


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def entry(begin: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"PK\x03\x04 a zip",
        (101 << 20).to_bytes(8, "little") + b"{}",
        (1 << 62).to_bytes(8, "little"),
        (101 << 20).to_bytes(8, "little") + b" " * (101 << 20),
        header(w=entry(0, 8)),
        header(w=entry(0, 8)) + bytes(7),
        header(w=entry(0, 8)) + bytes(9),
        header(a=entry(0, 8), b=entry(4, 12)) + bytes(12),
        header(a=entry(0, 8), b=entry(12, 20)) + bytes(20),
        header(a=entry(8, 0)) + bytes(8),
        header(a=entry(0, 8, (1 << 40, 1 << 40))) + bytes(8),
        header(a=entry(0, 8, (3,))) + bytes(8),
        header(a=entry(0, 8, dtype="F7")) + bytes(8),
        b"\x05\x00\x00\x00\x00\x00\x00\x00{" + b"[" * 100,
    ],
    ids=range(16),
)  # fmt: skip
def test_safetensors_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=r"w.safetensors: cannot be read \(\w+: .*\); expected a whole .safetensors"):
        weights.read(str(path))
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * len(content) / 1024 + 30_000  # kB


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of one epoch on given vectors."""
    folder = tmp_path_factory.mktemp("run")
    plant(folder, clips=60)
    return fit(planted_config(folder, trainer__max_epochs=1, trainer__accelerator="cpu"), root=folder / "runs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, state: state.update({name: state[name] * float("nan")}), "NaN or infinity in"),
        (lambda name, state: state.update({name: state[name].double()}), "do not fit the model"),
        (lambda name, state: state.update({name: state[name][..., :1].contiguous()}), "do not fit the model"),
        (lambda name, state: state.pop(name), "do not fit the model"),
        (lambda name, state: state.update(extra=torch.zeros(1)), "tensors extra do not fit the model"),
    ],
)
def test_a_member_whose_weights_are_not_its_own(trained: Path, change: Any, message: str) -> None:
    path = trained / "single" / "best.safetensors"
    whole = path.read_bytes()
    state = load_file(path)
    name = next(name for name, tensor in state.items() if tensor.ndim == 2 and tensor.is_floating_point())
    change(name, state)
    save_file(state, path)
    try:
        with pytest.raises(ConfigError, match=rf"best.safetensors: .*{message}"):
            run.load_member(trained / "single")
    finally:
        path.write_bytes(whole)
    assert run.load_member(trained / "single")


def _reduce(checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"] = {"x": Runs()}


def _instantiator(checkpoint: dict[str, Any]) -> None:
    """Lightning before 2.6.6 imported and called what this names (CVE of issue 21822)."""
    checkpoint["hyper_parameters"] = {"_instantiator": "harm.make"}
    checkpoint["hparams_name"] = "kwargs"


@pytest.mark.slow
@pytest.mark.parametrize("harm", [_reduce, _instantiator])
def test_a_checkpoint_runs_nothing_when_training_goes_on(tmp_path: Path, harm: Any) -> None:
    plant(tmp_path, clips=60)
    settings = planted_config(tmp_path, trainer__max_epochs=1, trainer__accelerator="cpu")
    folder = fit(settings, root=tmp_path / "runs")
    member = folder / "single"
    (member / "metrics.json").unlink()
    (member / "best.safetensors").unlink()
    checkpoint = torch.load(member / "last.ckpt", weights_only=True)
    harm(checkpoint)
    torch.save(checkpoint, member / "last.ckpt")
    (tmp_path / "harm.py").write_text("import os\nos.system('touch ran')\ndef make(*a, **k): os.system('touch ran')\n")
    code = "import sys; from mmtraits.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--resume", str(folder)], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert not (tmp_path / "ran").exists()
    assert "Traceback" not in done.stderr
    if harm is _reduce:
        assert done.returncode == 2
        assert "last.ckpt: refused: it asks for posix.system" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_the_lightning_that_is_installed_has_the_fix() -> None:
    version = tuple(int(part) for part in lightning.__version__.split(".")[:3])
    assert version >= (2, 6, 6)


def test_a_table_of_features_is_never_unpickled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "f.npy", np.array([Runs()], dtype=object), allow_pickle=True)
    with pytest.raises(ManifestError, match="f.npy: not readable as .npz or .npy without pickle"):
        read_features(tmp_path, ["f.npy"])
    assert not (tmp_path / "ran").exists()
