from __future__ import annotations

from pathlib import Path

import pytest

from mmtraits import config, parts
from mmtraits.errors import ConfigError

BASE = """\
name: base
streams:
  text: {use: text}
  voice: {use: voice}
fusion: {use: mean_pool}
head: {use: linear}
loss: {mse: 1.0}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def child(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "child.yaml"
    path.write_text("extends: base.yaml\n" + text)
    return path


def test_child_merges_mappings_and_replaces_the_rest(base: Path, tmp_path: Path) -> None:
    found = config.load(child(tmp_path, "name: child\noptimizer: {lr: 3e-4}\nloss: {ccc: 0.5}\n"))
    assert found.name == "child"
    assert found.optimizer.lr == pytest.approx(3e-4)
    assert found.loss == {"mse": 1.0, "ccc": 0.5}
    assert set(found.streams) == {"text", "voice"}


def test_null_takes_a_stream_out_and_stays_null_elsewhere(base: Path, tmp_path: Path) -> None:
    found = config.load(child(tmp_path, "streams: {voice: null}\ntrainer: {patience: null}\n"))
    assert set(found.streams) == {"text"}
    assert found.trainer.patience is None


def test_part_with_another_use_replaces_the_options_of_the_parent(base: Path, tmp_path: Path) -> None:
    base.write_text(BASE.replace("{use: mean_pool}", "{use: text_centric, width: 7}"))
    assert config.load(child(tmp_path, "fusion: {width: 9}\n")).fusion.options == {"width": 9}
    assert config.load(child(tmp_path, "fusion: {use: mean_pool}\n")).fusion.options == {}


def test_override_reads_yaml_values(base: Path) -> None:
    found = config.load(base, ["optimizer.lr=3e-4", "modality_dropout.voice=0.25", "trainer.patience=null"])
    assert found.optimizer.lr == pytest.approx(3e-4)
    assert (found.dropout_of("voice"), found.dropout_of("text")) == (0.25, 0.0)
    assert found.trainer.patience is None


def test_override_of_a_part_drops_the_options_of_the_one_before(base: Path) -> None:
    base.write_text(BASE.replace("{use: linear}", "{use: ensemble, members: 32}"))
    assert config.load(base, ["head.members=8"]).head.options == {"members": 8}
    assert config.load(base, ["head.use=mlp", "head.hidden=8"]).head.options == {"hidden": 8}


@pytest.mark.parametrize("override", ["optimizer.lr", "=3", "a..b=1"])
def test_override_without_key_or_value_is_named(base: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="expected key.sub=value"):
        config.load(base, [override])


def test_override_below_a_value_is_named(base: Path) -> None:
    with pytest.raises(ConfigError, match="'name' holds 'base'"):
        config.load(base, ["name.sub=1"])


def test_every_problem_at_once_with_its_line(base: Path, tmp_path: Path) -> None:
    path = child(tmp_path, "los: {mse: 1}\noptimizer: {lrr: 1}\ntrainer: {precision: bf17}\n")
    with pytest.raises(ConfigError) as error:
        config.load(path, ["data.batch_size=0", "x.y=1"])
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert any("override 'x.y=1': x: unknown key" in line for line in lines)
    assert any("child.yaml:2: los: unknown key; did you mean 'loss'?" in line for line in lines)
    assert any("child.yaml:3: optimizer.lrr: unknown key; did you mean 'lr'?" in line for line in lines)
    assert any("child.yaml:4: trainer.precision: found 'bf17'" in line for line in lines)
    assert any("override 'data.batch_size=0': data.batch_size: found 0" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "bad.yaml:1: .*expected valid YAML"),
        ("name: a\nname: b\n", "bad.yaml:2: .*duplicate key"),
        ("- 1\n", "found CommentedSeq; expected a mapping"),
        ("name: !!python/object:os.system {}\n", "bad.yaml"),
        ("extends: bad.yaml\n", "extends itself"),
        ("extends: 3\n", "expected the path of one parent"),
        ("extends: nowhere.yaml\n", "nowhere.yaml: no such file"),
    ],
)
def test_unreadable_config_says_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(path)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone.yaml: no such file"):
        config.load(tmp_path / "gone.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="binary.yaml: cannot be read"):
        config.load(tmp_path / "binary.yaml")


def test_dump_round_trips(base: Path, tmp_path: Path) -> None:
    found = config.load(base, ["fusion.width=48", "trainer.patience=null"])
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(found))
    assert config.load(again) == found


def test_part_problems_are_located_with_suggestions(base: Path, tmp_path: Path) -> None:
    path = child(tmp_path, "streams: {voice: {use: voise}, text: {widht: 3}}\nhead: {use: linear, hidden: x}\n")
    with pytest.raises(ConfigError) as error:
        config.load(path, check=parts.problems)
    message = str(error.value)
    assert "streams.voice: use: found 'voise', no file in encoders/; did you mean 'voice'?" in message
    assert "child.yaml:2: streams.text.widht: unknown key; did you mean 'width'?" in message
    assert "head.hidden: unknown key" in message


def test_unknown_losses_are_located_with_suggestions(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="child.yaml:2: loss.cccc: no loss of that name; did you mean 'ccc'"):
        config.load(child(tmp_path, "loss: {cccc: 1.0}\n"), check=parts.problems)
    with pytest.raises(ConfigError) as error:
        config.load(child(tmp_path, "loss: {zzz: 1.0}\nhead: {use: nothing}\n"), check=parts.problems)
    assert "loss.zzz: no loss of that name; there are mse, l1, huber, ccc" in str(error.value)
    assert "head: use: found 'nothing'" in str(error.value)


def test_json_schema_names_every_key() -> None:
    assert {"extends", "streams", "fusion", "head", "loss", "trainer"} <= set(config.json_schema()["properties"])


def test_shipped_configs_load() -> None:
    folder = Path(__file__).parents[2] / "configs"
    found = sorted(folder.glob("*.yaml"))
    assert len(found) >= 3
    for path in found:
        if path.stem != "base":
            assert config.load(path, check=parts.problems).streams, path


def test_stratify_balance_and_leakage_are_off_unless_asked_for(base: Path) -> None:
    plain = config.load(base)
    assert (plain.protocol.stratify, plain.protocol.allow_leakage, plain.data.balance) == ((), False, "none")
    asked = ["protocol.stratify=[label, gender]", "protocol.allow_leakage=true", "data.balance=person"]
    found = config.load(base, asked)
    assert (found.protocol.stratify, found.protocol.allow_leakage, found.data.balance) == (
        ("label", "gender"),
        True,
        "person",
    )
    with pytest.raises(ConfigError, match="data.balance: found 'gender'; input should be 'none' or 'person'"):
        config.load(base, ["data.balance=gender"])


def test_a_config_of_before_gives_the_same_run_and_one_of_now_round_trips(base: Path, tmp_path: Path) -> None:
    found = config.load(base, ["protocol.stratify=[label]", "protocol.split=kfold"])
    (tmp_path / "dumped.yaml").write_text(config.dump(found))
    assert config.load(tmp_path / "dumped.yaml") == found
    before = config.dump(config.load(base)).splitlines()
    new = ("  stratify:", "  allow_leakage:", "  balance:", "objective:", "  use: supervised", "  mixup:", "  clips_")
    old = "\n".join(line for line in before if not line.startswith(new))
    (tmp_path / "old.yaml").write_text(old)
    assert len(old.splitlines()) == len(before) - len(new)
    assert config.load(tmp_path / "old.yaml") == config.load(base)
