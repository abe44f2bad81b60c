"""config.py: the command line, and settings that cannot work."""

import dataclasses
import json

import pytest

from config import SMOKE, Config, check_config, parse_config


def refused(capsys, *argv) -> str:
    """What the command line says where it ends with code 2."""
    with pytest.raises(SystemExit) as ended:
        parse_config(list(argv))
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_help_explains_every_setting_in_one_line(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    lines = capsys.readouterr().out.split("options:")[1].splitlines()
    for f in dataclasses.fields(Config):
        [line] = [line for line in lines if line.strip().split(" ")[0].rstrip(",") == "--" + f.name.replace("_", "-")]
        assert f.metadata["help"] in line
    assert len([line for line in lines if line.strip()]) == len(dataclasses.fields(Config)) + 1  # and --help itself


def test_defaults_and_given_values():
    assert parse_config([]) == Config()
    cfg = parse_config(
        ["--method", "rl", "--tasks", "strings", "strings", "--lr", "0.1", "--eval-every", "3", "--no-prune"]
    )
    changed = {"method": "rl", "tasks": ["strings", "strings"], "lr": 0.1, "eval_every": 3, "prune": False}
    assert cfg == dataclasses.replace(Config(), **changed)
    check_config(cfg)


@pytest.mark.parametrize(
    "argv, right",
    [
        ("--method sft", "choose from fst, rl, gepa"),
        ("--device tpu", "choose from auto"),
        ("--steps many", "invalid int value"),
        ("--lr", "expected one argument"),
        ("--learning 3", "unrecognized arguments"),
    ],
)
def test_unknown_words_on_the_command_line(capsys, argv, right):
    assert right in refused(capsys, *argv.split()).replace("'", "")  # which quotes depends on the Python version


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Config) if f.metadata["low"] is not None])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 2**63, "3", None])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number from"):
        check_config(dataclasses.replace(Config(), **{name: value}))


@pytest.mark.parametrize(
    "changed, right",
    [
        ({"tasks": ["strings", "sums"]}, "unknown task 'sums': known tasks are .*strings"),
        ({"population": 3}, r"population \(3\) must divide group \(8\)"),
        ({"group": 1, "population": 1}, "group must be a number from 2 on, not 1 .*judged against each other"),
        ({"batch": 0}, "batch must be a number from 1 on, not 0"),
        ({"temperature": 0.0}, "temperature must be a number from 0.01 on"),
        ({"method": "sft"}, "method must be one of fst, rl, gepa"),
    ],
)
def test_settings_that_cannot_work(changed, right):
    with pytest.raises(ValueError, match=right) as error:
        check_config(dataclasses.replace(Config(), **changed))
    assert "\n" not in str(error.value)


def test_the_population_is_no_matter_where_prompts_do_not_evolve_beside_rollouts():
    for method in ("rl", "gepa"):
        check_config(Config(method=method, population=3))


def test_smoke_is_small_but_what_is_given_counts():
    cfg = parse_config(["--smoke", "--steps", "2", "--method", "rl"])
    assert (cfg.steps, cfg.method, cfg.batch) == (2, "rl", SMOKE["batch"])
    assert cfg.base.startswith(cfg.out) and cfg.base != Config.base  # it never touches the real base
    check_config(cfg)


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(Config(lr=0.5, seed=3)) | {"out": "elsewhere"}))
    return tmp_path


def test_a_resumed_run_keeps_its_settings_but_for_those_that_may_change(saved):
    cfg = parse_config(["--resume", str(saved)])
    assert cfg == dataclasses.replace(Config(), lr=0.5, seed=3, tasks=["strings"], out=str(saved), resume=str(saved))
    cfg = parse_config(["--resume", str(saved), "--steps", "99", "--lr", "0.1", "--eval-every", "2", "--seed", "3"])
    assert (cfg.steps, cfg.lr, cfg.eval_every, cfg.seed) == (99, 0.1, 2, 3)


@pytest.mark.parametrize("argv", ["--seed 4", "--batch 9", "--method rl", "--tasks strings strings", "--out other"])
def test_what_cannot_change_when_resuming(saved, argv):
    with pytest.raises(ValueError, match=f"^{argv.split()[0][2:]} is .*only steps, lr, eval_every, base, device may"):
        parse_config(["--resume", str(saved), *argv.split()])


@pytest.mark.parametrize("damage", [None, "", '{"steps": 3', "[1]", '{"steps": 3, "stps": 4}', "\x00\x80"])
def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path, damage):
    if damage is not None:
        (tmp_path / "config.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(ValueError, match="no run to go on with"):
        parse_config(["--resume", str(tmp_path)])


def test_a_config_of_wrong_types_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": "many"}')
    with pytest.raises(ValueError, match="steps must be a number from 0 on, not many"):
        check_config(parse_config(["--resume", str(tmp_path)]))
