"""talk.py: a dialogue in a terminal, one answer, bad input, the weights of a run, hostile text."""

import dataclasses
import io
import json
import os
import random
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import talk
from plumbing.files import load_checkpoint, save_checkpoint
from sampling import contexts_of
from tasks import domains, formats, make_task
from tasks.world import Outcome
from tests import dialogue, toy

ROOT = Path(talk.__file__).parent


@pytest.fixture
def run(capsys, monkeypatch):
    """A function that runs talk.py in this process: options, lines typed -> the screen."""

    def run(*options, lines=()) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        talk.main([str(option) for option in options])
        return capsys.readouterr().out

    return run


PROMPT = "prompt, as the model reads it:"


def after(screen: str, line: str) -> list[str]:
    """What the screen shows after a line was typed for the last time, up to the next one."""
    shown = screen.split(f"> {line}\n")[-1]
    return shown.split("\n> ")[0].splitlines()


# --- in a terminal ---


class Terminal:
    """talk.py in a pseudo-terminal."""

    def __init__(self, *options):
        pty = pytest.importorskip("pty")
        try:
            self.keys, screen = pty.openpty()
        except OSError:
            pytest.skip("this machine has no pseudo-terminal")
        self.process = subprocess.Popen(
            [sys.executable, "talk.py", *options],
            cwd=ROOT,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1"},
        )
        os.close(screen)

    def wait(self, seconds=300) -> str:
        """What is shown until it waits for the user; until the end, if it ends."""
        shown = ""
        deadline = time.monotonic() + seconds
        while not shown.endswith(("\n> ", "yes) ")):
            ready, _, _ = select.select([self.keys], [], [], deadline - time.monotonic())
            assert ready, f"nothing more after {shown!r}"
            try:
                data = os.read(self.keys, 4096)
            except OSError:  # Linux: the other side is closed
                data = b""
            if not data:
                break
            shown += data.decode().replace("\r", "")
        return shown

    def type(self, keys: str) -> str:
        os.write(self.keys, keys.encode())
        return self.wait()


def take_terminal():
    """In the new process: make the terminal its own, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_from_a_wrong_answer_to_a_right_one_in_a_terminal():
    """The lines that the help suggests; on another machine the model may need more tries."""
    resource = pytest.importorskip("resource")
    terminal = Terminal()
    assert "Ctrl-D ends" in terminal.wait()
    assert "To begin, try these lines: task strings 2, ask red, reflect" in terminal.type("\n")
    assert "hidden rule: red, blue, green, gold" in terminal.type("task strings 2\n")

    # It knows no rule, so it makes one up.
    shown = terminal.type("ask red\n")
    assert "\n    red: " in shown and "\nwrong: " in shown
    hidden = make_task("strings", 2).rules["red"]
    same = domains()["strings"].same

    # It finds the hidden rule, or one that does the same.
    found = False
    for _ in range(20):
        shown = terminal.type("reflect\n")
        assert "\n    reflect red: none\n" in shown
        proposed = re.search(r"\nred: (.*)   accept\?", shown)
        if proposed:
            found = same(tuple(proposed[1].split()), hidden)
            terminal.type("y\n" if found else "n\n")
        if found:
            break
    assert f"rules\n    red: {proposed[1]}\n" in terminal.type("prompt\n")

    # Now the same question is answered in this way: sooner or later without a slip.
    for _ in range(20):
        shown = terminal.type("again\n")
        if "\nright\n" in shown:
            break
    assert f"likeliest instructions: {proposed[1]} " in shown
    assert f"\n    red: {proposed[1]}\n" in shown and "\nright\n" in shown

    # Ctrl-C drops a line. (The instant in which input() begins to wait, Python does not notice it
    # before the next key.) Ctrl-D ends.
    time.sleep(0.3)
    os.write(terminal.keys, b"as\x03")
    time.sleep(0.3)
    shown = terminal.type("\n")
    assert shown.endswith("\n> ") and "is no command" not in shown
    terminal.type("\x04")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert terminal.process.wait(timeout=300) == 0

    # It took less than a minute, were there nothing else to do for the machine.
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60


def test_the_dialogue_in_the_readme(run):
    """The picture shows what the screen shows. `python -m tests.dialogue` draws it again."""
    assert f"({dialogue.PICTURE.relative_to(ROOT)})" in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )
    screen = run(lines=dialogue.TYPED)
    assert dialogue.PICTURE.read_text(encoding="utf-8") == dialogue.picture(screen)
    assert screen.rstrip("> \n").endswith("\nright")


# --- one answer ---


def test_one_shot(run):
    screen = run("--ask", "red: d a c b", "--rules", "red: reverse raise; blue: sort, gold: left")
    asked, chances, *answer, verdict = screen.splitlines()
    assert asked == "ask red: d a c b"
    assert re.fullmatch(r"likeliest instructions: reverse raise \d+%.*", chances)
    assert answer[0] == "    red: reverse raise"
    right = answer[-1] == "    answer: c d b e"
    assert verdict == ("right" if right else "wrong: the right answer is c d b e")


def test_the_chances_are_products_of_token_probabilities():
    base = talk.load_base(Path(talk.SHIPPED))
    model, world = base.model, base.world
    dialogue = talk.Dialogue(Path(talk.SHIPPED), 0)
    dialogue.instruct("red: friend boss")  # of another domain, but in the prompt
    dialogue.asked = ("red", "d a c b e", tuple("dacbe"))
    question = dialogue.question()
    contexts = contexts_of(world, [(dialogue.prompt, [question])])
    shown = dialogue.likeliest(dialogue.sampler, contexts, "red")
    assert shown.startswith("friend boss ")

    # One candidate after the other, in one piece. At temperature 0 they are those of 1.
    dialogue.instruct("red:")
    [context] = contexts_of(world, [({}, [question])])
    for temperature in (0.5, 0, 1):
        dialogue.do_temperature(str(temperature))
        shown = dialogue.likeliest(dialogue.sampler, [context], "red")
        pairs = re.findall(r"([a-z]+(?: [a-z]+)*) (\d+)%", shown)
        assert len(pairs) == 4
        for name, percent in pairs:
            line = world.encode(f"red: {name}\n")
            with torch.no_grad():
                logits = model(torch.tensor([context + line]))[0] / (temperature or 1)
            logprobs = logits.log_softmax(-1)[len(context) - 1 : -1]
            prob = logprobs.gather(1, torch.tensor(line)[:, None]).sum().exp().item()
            assert abs(100 * prob - int(percent)) <= 0.51

    # They are how often the model writes these lines.
    answers = dialogue.sampler.answer([({}, [question])], samples=2000)
    name, percent = pairs[0]
    often = sum(text.startswith(f"red: {name}\n") for text in answers.texts)
    assert abs(often / 20 - int(percent)) < 2.5


# --- what is right ---


def test_who_says_what_is_right(base):
    dialogue = talk.Dialogue(base, 0)
    dialogue.do_domain("strings")
    dialogue.asked = ("red", "d a c b", tuple("dacb"))
    assert dialogue.question().want == ""  # nobody
    dialogue.instruct("red: foo")
    assert dialogue.question().want == ""
    dialogue.instruct("red:  reverse   raise ")
    assert dialogue.question().want == "c d b e"
    dialogue.do_task("strings 2")
    dialogue.instruct("red: sort")
    dialogue.asked = ("red", "d a c b", tuple("dacb"))
    hidden = dialogue.task.rules["red"]
    assert dialogue.question().want == " ".join(dialogue.domain.apply(hidden, tuple("dacb")))
    dialogue.asked = ("pink", "d a c b", tuple("dacb"))  # the task has no rule for it
    assert dialogue.question().want == ""
    dialogue.instruct("pink: reverse")
    assert dialogue.question().want == "b c a d"


@pytest.mark.parametrize(
    "name, text",
    [("strings", "d a c b"), ("strings", "a"), ("numbers", "0 0 7"), ("numbers", "9")],
)
def test_questions_that_can_be_read(name, text):
    domain = domains()[name]
    state = talk.read_state(domain, text)
    assert type(state[0]) is type(domain.draw(random.Random(0), 5)[0])
    assert domain.ask(state) == text
    for operation in domain.operations:
        domain.apply((operation,), state)


@pytest.mark.parametrize(
    "name, text",
    [
        ("strings", "dacb"),
        ("strings", "1 2"),
        ("strings", "a z"),
        ("strings", "\u00b2"),
        ("numbers", "a b"),
        ("numbers", "12"),
        ("facts", "ann and bob"),
        ("star_graph", "a b"),
    ],
)
def test_questions_that_cannot_be_read(name, text):
    with pytest.raises(ValueError, match="cannot be asked"):
        talk.read_state(domains()[name], text)


@pytest.mark.parametrize("name", sorted(domains()))
def test_every_domain_draws_questions(run, base, name):
    lines = [f"domain {name}", "ask", f"task {name} 1", "ask", "ask red", "again"]
    screen = run("--weights", base, lines=lines)
    assert "\nnot judged: " in screen  # before there was a task
    assert after(screen, "again")[0] == after(screen, "ask red")[0]
    assert re.match("wrong: |right", after(screen, "again")[-1])


def test_a_new_instruction_forgets_wrong_answers(run, base):
    ask = ["domain strings", "red: sort", "ask red: d a c b", "reflect"]
    screen = run("--weights", base, lines=ask)
    assert after(screen, "reflect")[0] == "    reflect red: sort"
    screen = run("--weights", base, lines=[*ask[:3], "red: reverse", "reflect"])
    assert after(screen, "reflect") == ["no wrong answer to reflect on: 'ask' until one is wrong"]

    # Deleting an instruction does, too.
    screen = run("--weights", base, lines=[*ask[:3], "red:", "prompt", "reflect"])
    assert after(screen, "prompt") == [PROMPT, "    rules"]
    assert after(screen, "reflect")[0].startswith("no wrong answer")


def test_a_proposal_is_accepted_with_one_key(run, base, toy_world, monkeypatch):
    monkeypatch.setattr(formats, "parse_instruction", lambda words, topic: "left")
    monkeypatch.setattr(formats, "verify", lambda question, words: 0.0)
    for key, accepted in {"": True, "y": True, "n": False, "what": False}.items():
        lines = ["task strings 1", "ask red", "reflect", key, "prompt"]
        screen = run("--weights", base, lines=lines)
        assert ("    red: left" in after(screen, "prompt")) == accepted


def test_same_seed_same_dialogue(run, base):
    lines = ["task numbers 1", "ask", "reflect", "n", "ask gold", "temperature 0.5", "again"]
    first = run("--weights", base, "--seed", 3, lines=lines)
    assert run("--weights", base, "--seed", 3, lines=lines) == first
    assert run("--weights", base, "--seed", 4, lines=lines) != first


# --- bad input ---


@pytest.mark.parametrize(
    "line, right",
    [
        ("reverse", "an empty line shows all commands"),
        ("\x1b[2Jask", "an empty line shows all commands"),
        ("__class__", "an empty line shows all commands"),
        ("purple: sort", "topics are red, blue"),
        ("red: one two three four", "one to three operations, as in"),
        ("red: answer", "one to three operations"),
        ("red: RAISE", "one to three operations"),
        ("ask purple", "topics are red, blue"),
        ("ask red: 1 2", "'ask' shows one"),
        ("ask red: answer", "'ask' shows one"),
        ("ask red: " + 3000 * "a ", "the model has 2048"),
        ("again", "begin with 'ask'"),
        ("reflect", "begin with 'ask'"),
        ("compare", "start with --weights"),
        ("domain sums", "unknown task .sums.: known tasks are .*strings"),
        ("task", "write 'task strings 1'"),
        ("task strings", "write 'task strings 1'"),
        ("task 1", "write 'task strings 1'"),
        ("task strings -1", "write 'task strings 1'"),
        ("task sums 1", "unknown task .sums.: known tasks are .*strings"),
        ("temperature", "temperature takes a number"),
        ("temperature nan", "temperature takes a number"),
        ("temperature -1", "temperature takes a number"),
    ],
)
def test_bad_input_gets_one_line_and_the_prompt_again(run, base, line, right):
    screen = run("--weights", base, lines=["domain strings", line, "prompt"])
    typed = re.sub(r"[^ -~]", "?", line)
    [said] = after(screen, typed)
    assert re.search(right, said)
    assert after(screen, "prompt") == [PROMPT, "    rules"]


def test_a_closed_input_ends_the_dialogue(base, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    talk.main(["--weights", str(base)])


def test_bytes_that_are_no_text(base):
    command = [sys.executable, "talk.py", "--weights", base]
    data = b"prompt\n\xff\xfe\x00\nprompt\n"
    done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize(
    "options, right",
    [
        ("--weights nowhere.pt", "no checkpoint at nowhere.pt"),
        ("--weights README.md", "README.md is damaged, or no checkpoint"),
        ("--ask purple", "topics are red, blue"),
        ("--ask red:1", "'ask' shows one"),
        ("--rules purple:sort", "topics are red, blue"),
        ("--rules purple\n:sort", "topics are red, blue"),
        ("--seed -1", "seed must be a whole number from 0 on"),
        ("--seed x", "invalid int value"),
        ("--lines 3", "unrecognized arguments"),
    ],
)
def test_bad_options_end_with_one_line(run, capsys, monkeypatch, options, right):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        run(*options.split(" "))
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("talk.py: ") and right in line


def test_another_vocabulary(tmp_path, run, capsys):
    path = tmp_path / "base.pt"
    toy.make_base(path, vocabulary="other")
    contents = load_checkpoint(path)
    for about in (contents, {"llm": "smollm2", "model": contents["model"]}):
        save_checkpoint(path, about)
        with pytest.raises(SystemExit):
            run("--weights", path)
        assert "knows another vocabulary" in capsys.readouterr().err


# --- the weights of a run ---


def trace(model) -> str:
    return f"{sum(p.abs().sum().item() for p in model.parameters()):.3f}"


def test_weights_of_a_run(start, run, base, monkeypatch):
    # In place of the chances: which weights are they?
    likeliest = lambda _, sampler, *others: trace(sampler.model)  # noqa: E731
    monkeypatch.setattr(talk.Dialogue, "likeliest", likeliest)
    out = start("run", "--tasks", "strings", "numbers", "--passes", "16", stage=3)
    weights = out / "weights.pt"
    tasks = json.loads((out / "result.json").read_text(encoding="utf-8"))["tasks"]

    # It begins with the last task and its prompt; the others have numbers.
    screen = run("--weights", weights, lines=["ask red", "compare", "task 1", "prompt", "task 3"])
    evolved = []
    for task in tasks:
        lines = formats.prompt_text(task["evolved"]).splitlines()
        evolved.append(["    " + line for line in lines])
    assert max(map(len, evolved)) > 1
    opening = screen.split("An empty line")[0].splitlines()
    assert opening[0].startswith("operations of numbers: plus")
    assert opening[1:] == ["topics with a hidden rule: red, blue, green, gold", PROMPT, *evolved[1]]
    assert after(screen, "prompt") == [PROMPT, *evolved[0]]
    assert after(screen, "task 3")[0].startswith("write 'task strings 1'")

    # The base answers first, then the trained model, with the same noise.
    compared = after(screen, "compare")
    assert compared[0] == "--- base weights"
    second = compared.index("--- trained weights")
    asked = after(screen, "ask red")[0]
    assert compared[1] == compared[second + 1] == asked
    of_trained, of_base = (talk.load_base(path).model for path in (weights, base))
    assert compared[2] == f"likeliest instructions: {trace(of_base)}"
    assert compared[second + 2] == f"likeliest instructions: {trace(of_trained)}"
    assert trace(of_base) != trace(of_trained)

    # What is right comes from the hidden rule.
    task = make_task("numbers", 2)  # the second task of a run of seed 2
    state = tuple(map(int, asked.removeprefix("ask red: ").split()))
    want = task.domain.show(task.domain.apply(task.rules["red"], state))
    verdict = after(screen, "ask red")[-1]
    assert verdict in ("right", f"wrong: the right answer is {want}")


@pytest.fixture
def saved_run(base, tmp_path):
    """The folder of a run that has learned one instruction, and nothing in its weights."""
    save_checkpoint(tmp_path / "weights.pt", load_checkpoint(base))
    (tmp_path / "config.json").write_text(
        json.dumps({"seed": 0, "base": str(base)}), encoding="utf-8"
    )
    result = {"tasks": [{"task": "strings", "evolved": {"red": "sort"}, "at_end": 0.2}]}
    result["tasks"].append({"task": "facts", "evolved": {}, "at_end": None})  # not trained
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return tmp_path


def test_equal_weights_give_equal_answers(run, saved_run):
    screen = run("--weights", saved_run / "weights.pt", lines=[*5 * ["ask"], "compare"])
    _, *compared = after(screen, "compare")
    second = compared.index("--- trained weights")
    assert compared[:second] == compared[second + 1 :]


def test_only_the_answers_of_the_model_itself_are_kept_for_its_reflection(saved_run, monkeypatch):
    talking = talk.Dialogue(saved_run / "weights.pt", 0)
    talking.begin(make_task("strings", 0), {})
    talking.do_ask("red: d a c b")
    talking.wrong.clear()
    wrong = Outcome(0.0, "a")
    answer = talk.Sampler.answer

    def failing(sampler, jobs):
        return dataclasses.replace(answer(sampler, jobs), outcomes=[wrong])

    monkeypatch.setattr(talk.Sampler, "answer", failing)
    talking.do_compare("")  # two answers, of which one is the base's
    assert talking.wrong["red"] == [(talking.question(), wrong)]


def test_an_empty_answer_is_not_right_where_nothing_says_what_is(base, monkeypatch, capsys):
    talking = talk.Dialogue(base, 0)
    talking.do_domain("strings")  # a topic has no rule
    answer = talk.Sampler.answer

    def nothing(sampler, jobs):
        [(_, [question])] = jobs
        text = "red: sort\nanswer: "
        outcome = sampler.world.grade(question, text)
        return dataclasses.replace(answer(sampler, jobs), outcomes=[outcome], texts=[text])

    monkeypatch.setattr(talk.Sampler, "answer", nothing)
    talking.do_ask("red: d a c b")
    assert "not judged" in capsys.readouterr().out.splitlines()[-1]


def test_a_prompt_of_the_run_comes_back_with_its_task(run, saved_run):
    lines = ["red: left", "domain strings", "prompt", "task 1"]
    screen = run("--weights", saved_run / "weights.pt", lines=lines)
    assert after(screen, "prompt") == [PROMPT, "    rules"]
    assert after(screen, "task 1")[-1] == "    red: sort"


def test_it_begins_with_the_last_task_that_the_run_has_trained_on(saved_run):
    talking = talk.Dialogue(saved_run / "weights.pt", 0)
    assert (talking.task.name, talking.prompt) == ("strings", {"red": "sort"})
    assert list(talking.learned) == ["1"]


@pytest.mark.parametrize(
    "evolved",
    [{"red": "sort\nblue: left"}, {"red": "\x1b[2J"}, {"purple": "sort"}, ["red"], None, 3],
)
def test_a_run_whose_files_are_damaged(run, capsys, saved_run, evolved):
    result = {"tasks": [{"task": "strings", "evolved": evolved}]}
    tasks = ([3], 3, [{"task": "\x1b", "evolved": {}}], [{"task": 5, "evolved": {}}])
    texts = [json.dumps({"tasks": wrong}) for wrong in tasks]
    for text in (json.dumps(result), "", "[", "[]", *texts):
        (saved_run / "result.json").write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            run("--weights", saved_run / "weights.pt")
        [line] = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and "result.json" in line and "\x1b" not in line


# --- hostile text ---


def test_what_a_model_writes_does_not_steer_the_terminal(run, base, tmp_path):
    """A model that writes escape sequences, line ends of other systems, and no UTF-8."""
    contents = load_checkpoint(base)
    for byte in (0x1B, 0x07, 0x9B, 0x0D, 0x0C, 0xFF):
        contents["model"]["head.weight"][byte, 0] = 1.6  # about as often as the end
    path = tmp_path / "hostile.pt"
    save_checkpoint(path, contents)

    # It does write them.
    dialogue = talk.Dialogue(path, 0)
    dialogue.asked = ("red", "a b", tuple("ab"))
    answers = dialogue.sampler.answer([({}, [dialogue.question()])], samples=64)
    assert any("\x1b" in text for text in answers.texts)

    # Nothing of it reaches the screen.
    lines = ["task strings 1", *4 * ["ask red", "reflect", "y"], "prompt", "again"]
    screen = run("--weights", path, lines=lines)
    assert "?" in screen
    assert all(c == "\n" or " " <= c <= "~" for c in screen)


def test_another_task_forgets_wrong_answers(base):
    talking = talk.Dialogue(base, 0)
    talking.do_task("strings 1")
    talking.wrong["red"].append("a failure")
    talking.do_task("strings 2")
    assert not talking.wrong["red"]
