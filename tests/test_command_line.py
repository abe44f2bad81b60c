"""plumbing/command_line.py: the command line, settings that cannot work, and how runs end."""

import dataclasses
import io
import json
import os
import re
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train
from base.prepare import SMOKE
from plumbing import command_line
from plumbing.command_line import StopOnCtrlC, failures_in_one_line
from plumbing.console import resume_command
from plumbing.files import load_checkpoint
from tasks import domains, formats
from tests import toy
from train import Config


def parse_config(argv: list[str]) -> Config:
    """The settings that train.py makes of its command line, not checked yet."""
    return command_line.parse(Config, argv)


def check_config(cfg: Config) -> None:
    """All that train.py checks before it begins."""
    command_line.check(cfg)
    train.check_settings(cfg)


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
        option = "--" + f.name.replace("_", "-")
        [line] = [line for line in lines if line.strip().split(" ")[0].rstrip(",") == option]
        assert f.metadata["help"] in line

    # And --help itself.
    assert len([line for line in lines if line.strip()]) == len(dataclasses.fields(Config)) + 1


def test_defaults_and_given_values():
    assert parse_config([]) == Config()
    assert Config.steps == 120  # a stage for each of the four tasks
    assert set(parse_config(["--pretrain"]).tasks) == set(domains())  # a base is for all of them
    argv = "--method rl --tasks strings strings --lr 0.1 --eval-every 3 --skills"
    cfg = parse_config(argv.split())
    changed = {
        "method": "rl",
        "tasks": ["strings", "strings"],
        "lr": 0.1,
        "eval_every": 3,
        "skills": True,
        "steps": 60,
    }
    assert cfg == dataclasses.replace(Config(), **changed)
    assert not parse_config(["--skills", "--no-skills"]).skills
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
    said = refused(capsys, *argv.split())
    assert right in said.replace("'", "")  # where there are quotes depends on the Python version


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Config) if f.metadata["low"] is not None]
)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 2**63, "3", None])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a (whole )?number from"):
        check_config(dataclasses.replace(Config(), **{name: value}))


@pytest.mark.parametrize(
    "changed, right",
    [
        ({"tasks": ["strings", "sums"]}, "unknown task 'sums': known tasks are .*strings"),
        ({"population": 3}, r"population \(3\) must divide group \(8\)"),
        (
            {"group": 1, "population": 1},
            "group must be a whole number from 2 on, not 1 .*judged against each other",
        ),
        ({"batch": 0}, "batch must be a whole number from 1 on, not 0"),
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


def test_smoke_is_small_but_what_is_given_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cfg = parse_config(["--smoke", "--steps", "2", "--method", "rl"])
    assert (cfg.steps, cfg.method, cfg.batch) == (2, "rl", SMOKE["batch"])
    # They count more than those of a pretrained model.
    assert parse_config(["--smoke", "--llm", "smollm2"]).batch == SMOKE["batch"]
    # It never touches the real base.
    assert cfg.base.startswith(cfg.out) and cfg.base != Config.base
    check_config(cfg)

    # This base is made where it is missing.
    out = os.path.realpath("mine")
    cfg = parse_config(["--smoke", "--out", "mine"])
    assert (cfg.out, cfg.base) == (out, f"{out}/base.pt")


@pytest.fixture
def saved(tmp_path):
    saved = dataclasses.asdict(Config(lr=0.5, seed=3)) | {"out": "elsewhere"}
    (tmp_path / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    return tmp_path


def test_a_resumed_run_keeps_its_settings_but_for_those_that_may_change(saved):
    cfg = parse_config(["--resume", str(saved)])
    assert cfg == dataclasses.replace(
        Config(), lr=0.5, seed=3, tasks=[*Config.tasks], out=str(saved), resume=str(saved)
    )
    changed = "--steps 99 --lr 0.1 --eval-every 2 --seed 3"
    cfg = parse_config(["--resume", str(saved), *changed.split()])
    assert (cfg.steps, cfg.lr, cfg.eval_every, cfg.seed) == (99, 0.1, 2, 3)


@pytest.mark.parametrize(
    "argv", ["--seed 4", "--batch 9", "--method rl", "--tasks strings strings", "--out other"]
)
def test_what_cannot_change_when_resuming(saved, argv):
    name = argv.split()[0][2:]
    right = f"^{name} is .*only base, steps, device, compile, lr, eval_every may change"
    with pytest.raises(ValueError, match=right):
        parse_config(["--resume", str(saved), *argv.split()])


@pytest.mark.parametrize(
    "damage", [None, "", '{"steps": 3', "[1]", '{"steps": 3, "stps": 4}', "\x00\x80"]
)
def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path, damage):
    if damage is not None:
        (tmp_path / "config.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(ValueError, match="no run of this version to go on with"):
        parse_config(["--resume", str(tmp_path)])


def test_a_config_of_wrong_types_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": "many"}', encoding="utf-8")
    with pytest.raises(ValueError, match="steps must be a whole number from 0 on, not many"):
        check_config(parse_config(["--resume", str(tmp_path)]))


# --- prompts that people write ---


def write(tmp_path, data: bytes) -> list[str]:
    (tmp_path / "prompt.txt").write_bytes(data)
    return ["--prompt", str(tmp_path / "prompt.txt")]


@pytest.mark.parametrize(
    "data",
    [
        b"red: sort\nblue: reverse raise",
        b"\xef\xbb\xbfrules\r\n\r\n blue: reverse raise \r\nred: sort",
    ],
)
def test_a_prompt_is_read_from_a_file_once(tmp_path, data):
    cfg = parse_config([*write(tmp_path, data)])
    check_config(cfg)
    assert formats.parse_prompt(cfg.prompt) == {"red": "sort", "blue": "reverse raise"}
    assert dataclasses.replace(cfg, prompt="") == Config()


@pytest.mark.parametrize(
    "data, right",
    [
        (b"", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"\x80\x00\xff", "can't decode"),
        ("red: sort".encode("utf-16"), "can't decode"),
        (b"red: sort\n" * 1001, "longer than 10000 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, data, right):
    argv = write(tmp_path, data)
    with pytest.raises(
        ValueError, match=f"^--prompt {re.escape(argv[1])}: .*{re.escape(right)}"
    ) as error:
        parse_config(argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data, right",
    [
        (b"rules\n\n", "the prompt names no instruction"),
        (b"\x7fELF\0\0", "line 1 of the prompt"),
        (b"red: sort\nsort it", "line 2 of the prompt, 'sort it', must be a topic"),
        (
            b"red: sort\nred: left",
            "line 2 of the prompt, 'red: left', must be a topic that no other line has",
        ),
        (b"red: sort then left, please", "an instruction of one to three lower-case words"),
        (b"red: sort<eos>", "line 1"),
        (b"red: sort\x1b[2J", r"'red: sort\x1b[2J'"),
    ],
)
def test_a_text_that_is_no_prompt_is_refused(tmp_path, data, right):
    with pytest.raises(ValueError, match=re.escape(right)) as error:
        check_config(parse_config(write(tmp_path, data)))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError, match=re.escape(str(path))):
            parse_config(["--prompt", str(path)])


class Endless(io.RawIOBase):
    """A file like /dev/zero, which is not to be read whole."""

    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:] = bytes(len(buffer))
        return len(buffer)

    def readall(self):
        pytest.fail("it has no end")


def test_an_endless_file_is_refused(monkeypatch):
    monkeypatch.setattr("builtins.open", lambda path, mode: io.BufferedReader(Endless()))
    with pytest.raises(ValueError, match="longer than"):
        parse_config(["--prompt", "zero"])


lines = st.lists(
    st.sampled_from(
        ["red: sort", "blue: left", "rules", "\n", "\r", ": ", "gold:", "<bos>", "\u2028", " "]
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(), st.text().map(str.encode), lines.map("".join).map(str.encode)))
def test_any_file_is_a_prompt_or_refused_in_one_line(tmp_path, data):
    argv = write(tmp_path, data)
    try:
        cfg = parse_config(argv)
        check_config(cfg)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 600
    else:
        rules = formats.parse_prompt(cfg.prompt)
        assert rules and formats.parse_prompt(formats.prompt_text(rules)) == rules


def test_a_resumed_run_does_not_need_the_file_again(saved, tmp_path):
    argv = write(tmp_path, b"red: sort")
    changed = json.loads((saved / "config.json").read_text(encoding="utf-8")) | {
        "prompt": parse_config(argv).prompt
    }
    (saved / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    # The same text again is no matter.
    assert parse_config(["--resume", str(saved), *argv]).prompt == "red: sort"
    write(tmp_path, b"red: left")
    with pytest.raises(ValueError, match=r"^prompt is .*sort.* not .*left") as error:
        parse_config(["--resume", str(saved), *argv])
    assert "\n" not in str(error.value)
    (tmp_path / "prompt.txt").unlink()
    assert parse_config(["--resume", str(saved)]).prompt == "red: sort"


@pytest.mark.parametrize(
    "name, value",
    [
        ("base", 5),
        ("prompt", None),
        ("out", ["a"]),
        ("steps", 2.5),
        ("skills", 1),
        ("tasks", 5),
        ("tasks", []),
        ("tasks", [[]]),
    ],
)
def test_settings_of_wrong_types(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        check_config(dataclasses.replace(Config(), **{name: value}))


def test_a_bad_prompt_writes_nothing(capsys, base, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("red: sort\n\x1b[2Jpurple: rain", encoding="utf-8")
    out = tmp_path / "run"
    said = toy.refused(capsys, "--base", base, "--out", out, "--prompt", prompt)
    assert "line 2 of the prompt" in said and said.isprintable()
    said = toy.refused(capsys, "--base", base, "--out", out, "--prompt", tmp_path / "none")
    assert "No such file" in said and str(tmp_path / "none") in said
    assert not (tmp_path / "run").exists()


# --- how a program ends ---


@pytest.mark.parametrize("fault", [ValueError, OSError, FloatingPointError])
def test_a_fault_ends_the_program_with_one_line(capsys, fault):
    for go_on, line in (("", "train.py: too bad\n"), ("go on", "train.py: too bad; go on\n")):
        with pytest.raises(SystemExit) as ended, failures_in_one_line("stopped", go_on):
            raise fault("too bad")
        assert ended.value.code == 2 and capsys.readouterr().err == line


def test_a_bug_is_shown_and_ctrl_c_has_its_own_line(capsys):
    with pytest.raises(ZeroDivisionError), failures_in_one_line("stopped", "go on"):
        raise ZeroDivisionError
    with pytest.raises(SystemExit) as ended, failures_in_one_line("stopped", "go on"):
        raise KeyboardInterrupt
    assert ended.value.code == 2 and capsys.readouterr().err == "train.py: stopped\n"


def test_the_first_ctrl_c_asks_and_the_second_stops_at_once(capfd):
    with StopOnCtrlC() as stop:
        assert not stop.requested("cpu")
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested("cpu")
        said = "\nstopping after this step; a second Ctrl-C stops at once\n"
        assert capfd.readouterr().err == said
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with StopOnCtrlC() as stop:
        stop.done()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_says_how_to_go_on(start, monkeypatch, capsys):
    slow_step = train.slow_step

    def interrupted(learner, questions):
        reward = slow_step(learner, questions)
        if learner.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return reward

    monkeypatch.setattr(train, "slow_step", interrupted)
    out = start(steps=6)
    go_on = f"go on from the last checkpoint with: {resume_command(out)}"
    assert f"stopped after step 3; {go_on}" in capsys.readouterr().out
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 3
    monkeypatch.setattr(train, "slow_step", slow_step)
    train.main(["--resume", str(out)])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=6)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
