"""Look at a run: one HTML page with its curves, its prompts as they changed, and its costs.

    python view.py out/RUN            writes out/RUN/view.html: open it with a browser
    python view.py out/A out/B        A, with the curves of B laid over its own

The page needs no network and no script. It can be made while a run is still going; train.py does so
at every evaluation. What it shows comes from the files of the run (see docs/RUNS.md), and the
hidden rules of a run that has not ended from its tasks.

Read from the top: the files of a run, how text becomes HTML, then the parts of the page in their
order, and what train.py shows of a run in the terminal. The page itself, with its headings, is a
template: PAGE and STYLE at the end. Left out: means over seeds, which are for experiments/, and
everything that needs a script, like zooming.
"""

import html
import json
import re
import string
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import ndiff
from pathlib import Path
from textwrap import dedent, indent

from plumbing import command_line
from plumbing.files import read_json, write_file
from tasks import Domain, make_task
from words import tasks as word_tasks

# What can be said of an instruction. Each has a colour in STYLE.
VERDICTS = {
    "right": "✓ right",
    "equal": "≈ equal in effect",
    "wrong": "✗ wrong",
    "foreign": "⇄ not of this domain",
    "none": "",
}

# The metrics of the gradient steps that are drawn: name in the log, title of the chart.
FIGURES = {
    "reward": "Reward: share of right answers in training",
    "kl_base": "KL to the base, nats per token",
    "kl_teacher": "KL to the teacher, nats per token",
    "entropy": "Entropy of the answers, nats per token",
    "dropped_groups": "Groups without spread: questions of a batch that teach nothing",
}

SAMPLES = 12  # sample answers on the page; samples.txt has them all


# --- the files of a run ---


@dataclass
class Stage:
    """The steps that a run spent on one task, and what is known of the task."""

    name: str  # of the task
    domain: Domain | None  # None in the world of words: there nothing is said of an instruction
    hidden: dict[str, str]  # topic -> hidden rule
    start: int  # rollouts that had been spent when it began
    prompts: list[tuple]  # when, the best prompt from then on, the children accepted just then
    phases: list[dict]  # its fast phases, as they were logged
    evals: list[dict]  # its evaluations, as they were logged

    def verdict(self, topic: str, instruction: str) -> str:
        """What can be said of an instruction for a topic: a word of VERDICTS."""
        # Is it there at all, and is it the rule, word by word?
        hidden = self.hidden[topic]
        if instruction == "none" or self.domain is None:
            return "none"
        if instruction == hidden:
            return "right"

        # It names something that is no operation of this domain.
        rule = tuple(instruction.split())
        if not set(rule) <= set(self.domain.operations):
            return "foreign"
        # Other words can do the same.
        wanted = tuple(hidden.split())
        return "equal" if self.domain.same(rule, wanted) else "wrong"

    @property
    def best(self) -> dict[str, str]:
        """The prompt that the stage is left with."""
        _, best, _ = self.prompts[-1]
        return best

    def names(self, topic: str) -> bool:
        """Whether the best prompt names the hidden rule of a topic, or an equal one."""
        return self.verdict(topic, self.best.get(topic, "none")) in ("right", "equal")

    @property
    def named(self) -> str:
        """How many of the hidden rules the best prompt names."""
        n = sum(map(self.names, self.hidden))
        return f"{n} of {len(self.hidden)} rules named" if self.domain else ""


@dataclass
class Run:
    """What the files of a run say."""

    name: str
    config: dict
    lines: list[dict]  # of log.jsonl
    samples: str  # samples.txt
    result: dict  # the closing table; empty while the run has not reached its end
    stages: list[Stage]  # those that it has come to so far

    def total(self, kind: str, metric: str) -> float:
        """The sum of a metric over the log lines of a kind."""
        return sum(line[metric] for line in of(self.lines, kind))


def read_run(path: Path) -> Run:
    """Read the files of a run. Raises OSError or ValueError where they are missing or damaged."""
    config = read_json(path / "config.json")
    samples = text_of(path / "samples.txt")
    result = json.loads(text_of(path / "result.json") or "{}")  # a run writes it at its end

    # What comes after the last line end is nothing, or a line that is being written just now.
    log = text_of(path / "log.jsonl")
    lines = [json.loads(words) for words in log.split("\n")[:-1]]
    if not of(lines, "eval"):
        raise ValueError("nothing has been measured yet")
    # A run that goes on after its end still has the table of that end.
    if result and result["rollouts"] < lines[-1]["rollouts"]:
        result = {}

    # What people call the run: its folder.
    name = f"{path.resolve().name} ({config['method']})"
    return Run(name, config, lines, samples, result, stages_of(config, lines, result))


def text_of(file: Path) -> str:
    """The text of a file, "" where it is missing."""
    return file.read_text(encoding="utf-8") if file.exists() else ""


def of(lines: list[dict], kind: str) -> list[dict]:
    """The log lines of a kind."""
    return [line for line in lines if line["kind"] == kind]


def stages_of(config: dict, lines: list[dict], result: dict) -> list[Stage]:
    """The stages that a run has come to so far."""
    # The prompt that it began with stands in the first evaluation.
    prompt = of(lines, "eval")[0]["prompt"]
    make = word_tasks.make_task if config.get("llm") else make_task
    stages = []
    end = 0
    for i, name in enumerate(config["tasks"]):
        # Training costs rollouts, but none in a stage of `gepa` that is shorter than a cycle.
        own = [line for line in lines if line["task"] == i]
        spent = [line["rollouts"] for line in own if line["kind"] != "eval"]
        if stages and not spent and lines[-1]["step"] <= i * config["stage"]:
            break  # so far its task was only evaluated

        # Its lines in the log. Older runs evaluated all tasks, also before and after their stages.
        start = end
        end = max(spent, default=start)
        own = [line for line in own if start <= line["rollouts"] <= end]

        # The best prompt of a fast phase is logged first, with its anchor score.
        phases = of(own, "fast")
        prompts = [("at first", prompt, [])]
        for phase in phases:
            prompt, _score = phase["population"][0]
            prompts.append((f"step {phase['step']}", prompt, phase["accepted"]))

        # The hidden rules follow from the settings; a run that has ended tells them itself.
        task = make(name, config["seed"])
        hidden = result["tasks"][i]["hidden"] if result else task.instructions
        domain = getattr(task, "domain", None)
        stages.append(Stage(name, domain, hidden, start, prompts, phases, of(own, "eval")))
    return stages


# --- how text becomes HTML ---


class Html(str):
    """Text that is HTML already. All other text is escaped before it comes into the page."""


class Escaping(string.Formatter):
    """str.format, but text that is not HTML already is escaped, and a list becomes one text."""

    def format_field(self, value, spec):
        if isinstance(value, list | tuple | Iterator):
            return "".join(self.format_field(part, spec) for part in value)
        # A number that was not measured, or that was not finite.
        if value is None:
            return "–"
        # Numbers are written out first; what is escaped is the text that comes into the page.
        text = format(value, spec)
        return text if isinstance(value, Html) else html.escape(text)


def fill(template: str, *values, **named) -> Html:
    """A template of HTML with its {} filled in, as str.format does it."""
    return Html(Escaping().vformat(template, values, named))


# --- charts ---

# All places are percentages, so a chart can be drawn at any width while its text keeps its size.
CHART = """<figure><figcaption>{title}</figcaption>
<svg class="plot" role="img" aria-label="{title}">
<line class="grid" x2="100%"/>
<line class="grid" x2="100%" y1="50%" y2="50%"/><line class="axis" x2="100%" y1="100%" y2="100%"/>
<g class="left"><text x="-8">{top:.3g}</text><text x="-8" y="50%">{middle:.3g}</text>
<text x="-8" y="100%">0</text></g>
<g class="below"><text y="100%">0</text><text x="50%" y="100%">{half:,.0f}</text>
<text x="100%" y="100%">{right:,.0f}</text></g>
{marks}<svg viewBox="0 0 100 100" preserveAspectRatio="none">{lines}</svg>{dots}
</svg></figure>
"""
# A curve, and the mark of a point on it, which says its numbers when the mouse is there.
LINE = '<path class="run{}" d="{}"/>'
DOT = """<use class="run{0}" href="#run{0}" x="{1:.2f}%" y="{2:.2f}%">
<title>{3:,} rollouts: {4:.3f}</title></use>
"""
# Where a stage begins, and where the learner noticed it.
STAGE = """<line class="stage" x1="{0:.2f}%" x2="{0:.2f}%" y2="100%"/>
<text x="{0:.2f}%" dx="6" dy="-1.8em">{1}</text>
"""
SURPRISE = """<text class="surprise" x="{:.2f}%" dx="6" dy="-.5em">▲ surprise</text>
"""


def chart(title: str, curves: list, top: float, right: float, marks=()) -> Html:
    """One curve over rollouts for each run.

    curves: of points (rollouts, metric); a metric of None breaks the line. top, right: the ends of
    the axes. marks: what is drawn behind the curves; with them, every point gets a dot.
    """
    lines = []
    dots = []
    for run, points in enumerate(curves):
        path = ""
        command = "M"  # begin here; "L" draws a line to here
        for rollouts, metric in points:
            if metric is None:
                command = "M"  # the line is broken
                continue
            # Percentages of the chart. h0 makes a single point visible, too.
            x = 100 * rollouts / right
            y = 100 - 100 * metric / top
            path += f"{command}{x:.2f} {y:.2f}h0"
            command = "L"
            if marks:
                dots.append(fill(DOT, run, x, y, rollouts, metric))
        lines.append(fill(LINE, run, path))

    # The lines are stretched to the chart's width, the dots are not.
    return fill(
        CHART,
        title=title,
        top=top,
        middle=top / 2,
        half=right / 2,
        right=right,
        marks=marks,
        lines=lines,
        dots=dots,
    )


def curve(lines: list[dict], metric: str) -> list:
    """A metric of log lines as a curve. Not all runs have every metric."""
    return [(line["rollouts"], line.get(metric)) for line in lines]


def accuracy_curve(run: Run, metric: str) -> Iterator:
    """A metric of the evaluations of a run, as a curve."""
    for stage in run.stages:
        # A stage has a line of its own: at a switch two tasks are evaluated at the same place.
        yield from curve(stage.evals, metric)
        yield 0, None  # the next stage has another task


def stage_marks(run: Run, right: float) -> Iterator[Html]:
    """Where the stages of a run begin, and where it noticed that its task had changed."""
    for stage in run.stages:
        yield fill(STAGE, 100 * stage.start / right, stage.name)
        for phase in stage.phases:
            # A surprise is the first thing that happens in a fast phase.
            if phase["surprise"]:
                before = phase["rollouts"] - phase["calls"]
                yield fill(SURPRISE, 100 * before / right)


def slow_charts(runs: list[Run], right: float) -> Iterator[Html]:
    """The metrics of the gradient steps, a small chart for each."""
    for name, title in FIGURES.items():
        # The axis ends at the highest value. No chart of what is missing or 0 all the time.
        curves = [curve(of(run.lines, "slow"), name) for run in runs]
        metrics = [metric for points in curves for _, metric in points if metric]
        if metrics:
            yield chart(title, curves, max(metrics), right)


# An entry of a legend: a piece of the curve with its mark, and a name.
KEY = """<li><svg class="key" aria-hidden="true"><line class="run{0}" x2="100%" y1="50%" y2="50%"/>
<use class="run{0}" href="#run{0}" x="50%" y="50%"/></svg>{1}</li>
"""


def legend(names: list[str]) -> list[Html]:
    """Which curve is which."""
    return [fill(KEY, i, name) for i, name in enumerate(names)]


# --- the other parts of the page ---


# How a stage ended: its task, its accuracy, what its prompt names.
TILE = "<li>{} <b>{:.2f}</b> {}</li>"


def tiles(run: Run) -> Iterator[Html]:
    """How every stage ended."""
    for stage in run.stages:
        # With the weights alone, no prompt is learned.
        named = stage.named if stage.phases else "no prompt learned"
        yield fill(TILE, stage.name, stage.evals[-1]["val_acc"], named)


# An evaluation: task and run, the line of the log.
EVALUATION = """<tr><th scope="row">{0}, {1}</th><td>{2[step]:,}</td><td>{2[rollouts]:,}</td>
<td>{2[val_acc]:.3f}</td><td>{2[neutral_acc]:.3f}</td><td>{2[kl_base]:.3f}</td></tr>
"""


def evaluations(runs: list[Run]) -> Iterator[Html]:
    """The numbers behind the chart of the accuracy: rows of a table."""
    for run in runs:
        for stage in run.stages:
            for line in stage.evals:
                yield fill(EVALUATION, stage.name, run.name, line)


# A stage: its number and task, surprises, a summary, the rows of its topics.
PROMPT = """<h3>Stage {}: {}</h3>
{}<table class="prompt"><caption>{}</caption>
<tr><th scope="col">topic, hidden rule</th><th scope="col">instruction in the best prompt</th></tr>
{}</table>
"""
# A surprise: its fast phase, the lines that were dropped, how many prompts came back.
NEWS = """<p class="surprise">▲ Surprise at step {0[step]}: the best prompt earned less than half of
what it had earned. Dropped: {1}. Prompts back from memory: {2}.</p>
"""
# A topic: its name, its hidden rule, the changes of its instruction.
TOPIC = """<tr><th scope="row">{} <code>{}</code></th><td><ol>{}</ol></td></tr>
"""


def prompts(run: Run) -> Iterator[Html]:
    """The best prompt of a run as it changed, beside the hidden rules: a table for each stage."""
    found = defaultdict(dict)  # topic -> {instruction: where it comes from}, see `changes`
    for number, stage in enumerate(run.stages, start=1):
        # Where its task had changed. Prompts that came back show in the table.
        news = [
            fill(NEWS, phase, dropped(phase), len(phase["recalled"]))
            for phase in stage.phases
            if phase["surprise"]
        ]

        # Every topic, with its hidden rule beside its instructions.
        rows = []
        for topic, rule in stage.hidden.items():
            rows.append(fill(TOPIC, topic, rule, changes(stage, topic, found[topic])))
        yield fill(PROMPT, number, stage.name, news, stage.named, rows)


def dropped(phase: dict) -> str:
    """The instructions that a fast phase dropped at a surprise, in words."""
    return ", ".join(phase["dropped"]) or "nothing"


# A change: when, the instruction, the verdict as a class and in words; then how it was found.
CHANGE = """<span class="when">{}</span> <code>{}</code> <span class="badge {}">{}</span>"""
FOUND = """<li><details><summary>{0}</summary>
<p>Found at {1} in this way. The prompt's anchor score before and after:
{2[before]:.2f}, {2[after]:.2f}.</p><pre>{2[how]}</pre></details></li>
"""


def changes(stage: Stage, topic: str, found: dict) -> Iterator[Html]:
    """What the best prompt said of a topic, one instruction after the other.

    found: instruction -> when it was accepted, and the latest child that brought it in; of earlier
    stages, too. New ones are added.
    """
    shown = None  # the instruction so far
    for when, prompt, accepted in stage.prompts:
        # Which reflections were about this topic?
        for child in accepted:
            if child["topic"] == topic:
                found[child["new"]] = (when, child)

        # Is it another one?
        instruction = prompt.get(topic, "none")
        if instruction == shown:
            continue
        shown = instruction
        verdict = stage.verdict(topic, instruction)
        line = fill(CHANGE, when, instruction, verdict, VERDICTS[verdict])

        # It unfolds where it is known how it was found.
        origin = found.get(instruction)
        yield fill(FOUND, line, *origin) if origin else fill("<li>{}</li>", line)


# Amounts: their title, and each with its share of the sum, in words and as a bar.
SHARES = """<figure><figcaption>{}</figcaption><ul>{}</ul></figure>
"""
SHARE = """<li>{0}: {1:,.0f} ({2:.0f}%)<div class="bar" style="width: {2:.2f}%"></div></li>
"""


def shares(title: str, amounts: dict[str, float]) -> Html:
    """Amounts, each with a bar that shows its share of their sum."""
    total = sum(amounts.values()) or 1
    bars = [fill(SHARE, name, amount, 100 * amount / total) for name, amount in amounts.items()]
    return fill(SHARES, title, bars)


def spending(runs: list[Run]) -> Iterator[Html]:
    """What was spent on gradient steps, on scores of prompts and on reflections."""
    for run in runs:
        # Every rollout is one of three: for the gradient, to score prompts, or a reflection.
        calls = run.total("fast", "calls")
        reflections = run.total("fast", "reflections")
        rollouts = {
            "gradient steps": run.lines[-1]["rollouts"] - calls,
            "scores": calls - reflections,
            "reflections": reflections,
        }
        yield shares(f"{run.name}: rollouts", rollouts)

        # Scores and reflections take turns, so their time is logged together.
        seconds = {
            "gradient steps": run.total("slow", "seconds"),
            "scores, reflections": run.total("fast", "seconds"),
        }
        yield shares(f"{run.name}: seconds", seconds)


ANSWER = "<details><summary>{}</summary><pre>{}</pre></details>"


def answers(run: Run) -> list[Html]:
    """Sample answers, the latest first."""
    # In samples.txt what was said begins with its step; the transcripts are indented.
    said = re.findall(
        r"^\[step \d+\] (step .*)\. One of them:\n((?:(?:    .*)?\n)*)", run.samples, re.MULTILINE
    )
    return [fill(ANSWER, heading, dedent(text)) for heading, text in reversed(said[-SAMPLES:])]


# A stage when the run is over: its line of the closing table, and the run. Each pair of numbers is
# one of the seed prompt and one of the evolved prompt.
CLOSING = """<tr><th scope="row">{0[task]}, {1}</th><td>{0[at_end]:.3f}</td>
<td>{0[accuracy][base weights][0]:.3f}</td><td>{0[accuracy][base weights][1]:.3f}</td>
<td>{0[accuracy][final weights][0]:.3f}</td><td>{0[accuracy][final weights][1]:.3f}</td>
<td>{0[kl_base][0]:.3f}</td><td>{0[kl_base][1]:.3f}</td></tr>
"""


def closing(runs: list[Run]) -> Iterator[Html]:
    """The closing tables of all runs that have reached their end: rows of a table."""
    for run in runs:
        for line in run.result.get("tasks", []):
            yield fill(CLOSING, line, run.name)


# --- what train.py shows in the terminal ---

# What a new line has brought; the reflection that led to it follows.
CHILD = "   (anchor score {before:.2f} -> {after:.2f})\n"


def news(old: dict, new: dict, phase: dict) -> Iterator[str]:
    """What a fast phase has changed: a surprise, then topic by topic.

    old, new: the best prompt before it and after it. phase: its line in the log.
    """
    # What became of the old prompts, where the task has changed.
    if phase["surprise"]:
        yield f"surprise: the task has changed. Dropped: {dropped(phase)}"
    for prompt in phase["recalled"]:
        yield f"back from memory: {prompt}"

    # What is new in the best prompt.
    origins = {(child["topic"], child["new"]): child for child in phase["accepted"]}
    for topic in sorted({*old, *new}):
        before = old.get(topic, "none")
        after = new.get(topic, "none")
        if before == after:
            continue

        # A change comes with the reflection of the latest accepted child that brought it in.
        words = f"{topic}: {before}  ->  {after}"
        if "\n" in before + after:  # of texts with several lines only those that differ
            lines = ndiff(before.split("\n"), after.split("\n"))
            words = "\n".join([f"{topic}:", *(line for line in lines if line[0] in "-+")])
        if (topic, after) in origins:
            child = origins[topic, after]
            words += CHILD.format(**child) + indent(child["how"], "    ")
        yield words


def evaluated(step: int, name: str, rollouts: int, evaluation) -> str:
    """What an evaluation has shown, with one question and its answer."""
    # Prompt, question and answer are one text.
    text, score, want = evaluation.sample
    verdict = "right" if score else f"wrong, {want} is right"
    about = (
        f"step {step}: {name}, validation {evaluation.accuracy:.2f}, {rollouts} rollouts. "
        "One of them:\n"
    )
    return about + indent(f"{text}   [{verdict}]", "    ")


def show_result(folder, result: dict):
    """Print what the closing table says of one stage, as it stands in result.json."""
    # What weights and prompt are worth. (A short run does not come to its last stages.)
    ended = result["at_end"]
    rows = [
        [f"{result['task']}, validation", "seed prompt", "evolved prompt"],
        ["when its stage ended", "", "not trained" if ended is None else f"{ended:.3f}"],
    ]
    for name, accuracies in result["accuracy"].items():
        rows.append([name, *map("{:.3f}".format, accuracies)])
    rows.append(["KL to the base", *map("{:.4f}".format, result["kl_base"]), "nats per token"])
    folder.show_table(rows)

    # The hidden rules beside the instructions.
    rows = [["topic", "hidden rule", "evolved instruction"]]
    for topic, rule in result["hidden"].items():
        instruction = result["evolved"].get(topic, "none").replace("\n", " | ")
        rows.append([topic, rule, instruction])
    folder.show_table(rows)


# --- the page ---


def page(paths: list[Path]) -> str:
    """The page of one run or several; of the first one everything is shown.

    Raises OSError, ValueError, LookupError, TypeError or AttributeError for damaged files.
    """
    runs = [read_run(path) for path in paths]
    first = runs[0]
    cfg = first.config
    names = [run.name for run in runs]
    # All charts have the same axis of rollouts.
    right = max(run.lines[-1]["rollouts"] for run in runs) or 1

    # One run alone is drawn with the seed prompt, too: what have its weights learned? (Distillation
    # has only that: it teaches the weights to do without the best prompt.)
    compared = names
    curves = [accuracy_curve(run, "val_acc") for run in runs]
    if len(runs) == 1 and cfg["method"] != "distill":
        compared = ["with the best prompt", "with the seed prompt"]
        curves.append(accuracy_curve(first, "neutral_acc"))

    # All parts of the page, by the names that they have in the template.
    marks = stage_marks(first, right)
    state = "finished" if first.result else "not finished: reload this page to see more"
    slow = list(slow_charts(runs, right)) or "There are none in this run."
    return fill(
        PAGE,
        style=Html(STYLE),
        run=first,
        tasks=", ".join(cfg["tasks"]),
        last=first.lines[-1],
        state=state,
        tiles=tiles(first),
        settings=json.dumps(cfg, indent=1),
        compared=legend(compared),
        accuracy=chart("Validation accuracy over rollouts", curves, 1, right, marks),
        evaluations=evaluations(runs),
        prompts=prompts(first),
        runs=legend(names),
        slow=slow,
        spending=spending(runs),
        answers=answers(first),
        closing=closing(runs),
    )


def main(argv=None):
    # Which runs, and where to?
    parser = command_line.script_parser(__file__, "Write a page that shows runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders; the first six have colours")
    parser.add_argument("--out", type=Path, help="default: view.html in the first folder")
    args = parser.parse_args(argv)

    with command_line.failures_in_one_line("stopped"):
        # Damaged files fail in many ways; for people it is one.
        try:
            text = page(args.runs)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            names = " ".join(map(str, args.runs))
            parser.error(f"{names}: damaged, or not the folder of a run: {error}")
        out = args.out or args.runs[0] / "view.html"
        write_file(out, text.encode())
    print(out)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{run.config[method]} on {tasks}</title>
<style>{style}</style>
</head>
<body>
<svg class="marks" aria-hidden="true"><defs>
<circle id="run0" r="4.5"/><path id="run1" d="M-4 -4h8v8h-8z"/>
<path id="run2" d="M0 -5.5l5.5 9.5h-11z"/>
<path id="run3" d="M0 -6l6 6l-6 6l-6 -6z"/><path id="run4" d="M0 5.5l5.5 -9.5h-11z"/>
<path id="run5" d="M-6 -2h12v4h-12z"/>
</defs></svg>
<header>
<h1>{run.config[method]} on {tasks}</h1>
<p>Step {last[step]} of {run.config[steps]}, {state}. {last[rollouts]:,} rollouts,
{last[tokens]:,} sampled tokens. Seed {run.config[seed]}.</p>
<p class="note">The methods: fst learns in prompts and in weights, rl in weights only, gepa in
prompts only; distill moves what the prompt says into the weights.</p>
<p class="note">Validation accuracy at the end of each stage so far:</p>
<ul class="tiles">{tiles}</ul>
<details><summary>All settings</summary><pre class="settings">{settings}</pre></details>
</header>
<main>
<section>
<h2>Validation accuracy</h2>
<p>The share of right answers to questions that are never trained on, with the best prompt (distill:
with the seed prompt). Each stage has another task; nothing but questions and rewards tells the
learner so.</p>
<ul class="legend">{compared}</ul>
{accuracy}
<details><summary>The numbers</summary>
<div class="wide" role="group" tabindex="0" aria-label="Evaluations">
<table><caption>Every evaluation of a stage's own task</caption>
<tr><th scope="col">task, run</th><th scope="col">step</th>
<th scope="col">rollouts</th><th scope="col">accuracy</th><th scope="col">with seed prompt</th>
<th scope="col">KL to the base</th></tr>
{evaluations}</table></div></details>
</section>
<section>
<h2>The prompt, as it changed</h2>
<p>The best prompt of {run.name}. The learner never sees the hidden rules. Unfold a change to
read the reflection that led to it.</p>
{prompts}
</section>
<section>
<h2>The gradient steps</h2>
<p>Over rollouts, one point for each step. Where a curve has a gap, no question of the batch could
teach anything.</p>
<ul class="legend runs">{runs}</ul>
<div class="charts">{slow}</div>
</section>
<section>
<h2>Where rollouts and seconds went</h2>
<p>Scores are rollouts that answer questions to compare prompts. Evaluations are not counted.</p>
<div class="charts">{spending}</div>
</section>
<section>
<h2>Sample answers</h2>
<p>The first validation question at the latest evaluations: the prompt, the question, the answer,
and in brackets whether it is right.</p>
{answers}
</section>
<section>
<h2>At the end</h2>
<p>Validation accuracy of every stage: when it ended; then with the base's and with the final
weights, under the seed prompt and under the prompt that the stage had found. KL is from the base to
the final weights, in nats per token. The table stays empty until a run has ended.</p>
<div class="wide" role="group" tabindex="0" aria-label="Closing table">
<table><caption>Closing table</caption>
<tr><th scope="col">task, run</th><th scope="col">when it ended</th>
<th scope="col">base</th><th scope="col">base, prompt</th>
<th scope="col">final</th><th scope="col">final, prompt</th>
<th scope="col">KL</th><th scope="col">KL, prompt</th></tr>
{closing}</table></div>
</section>
</main>
</body>
</html>
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --ink: #1b1f27; --soft: #59616e; --line: #d9dde3; --panel: #f1f2f0;
  --run0: #1f5fbf; --run1: #b4460b; --run2: #177245; --run3: #7a3fb0; --run4: #0f6f80;
  --run5: #a02060;
  --right: #12663a; --right-back: #e0f3e6; --equal: #0b587a; --equal-back: #dff0f8;
  --wrong: #9a1f1a; --wrong-back: #fbe5e2; --foreign: #734700; --foreign-back: #faecd0;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #14171c; --ink: #e7e9ed; --soft: #a5aebb; --line: #353c47; --panel: #1d2128;
  --run0: #7db0ff; --run1: #ff9d5c; --run2: #5fd394; --run3: #c69bff; --run4: #58cfe0;
  --run5: #ff8cc0;
  --right: #7fe0a6; --right-back: #173525; --equal: #86d2f5; --equal-back: #143241;
  --wrong: #ff9d95; --wrong-back: #421c1a; --foreign: #f3c26b; --foreign-back: #3d2d10;
} }
* { box-sizing: border-box; }
html { font-size: clamp(16px, 12px + .45vw, 24px); background: var(--page); }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; color: var(--ink);
  font: 1rem/1.5 system-ui, "Liberation Sans", sans-serif; }
p { max-width: 46rem; margin: .5em 0; }
h1 { font-size: 1.9em; line-height: 1.15; margin: 0 0 .4em; }
h2 { font-size: 1.35em; margin: 2.2em 0 .3em; padding-top: .8em;
  border-top: 2px solid var(--line); }
h3 { font-size: 1.05em; margin: 1.6em 0 .3em; }
.note, caption, figcaption, .when, .tiles { color: var(--soft); }
code, pre { font: .92em/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
code { background: var(--panel); border-radius: .25em; padding: .1em .35em; }
pre { background: var(--panel); border-radius: .4em; padding: .8em 1em; margin: .5em 0 1em;
  white-space: pre-wrap; overflow-wrap: anywhere; }
ul, ol { list-style: none; margin: 0; padding: 0; }
summary { cursor: pointer; padding: .2em 0; }
:focus-visible { outline: 3px solid var(--run0); outline-offset: 2px; border-radius: 2px; }

.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2em 0; }
.tiles li { flex: 1 1 8rem; max-width: 16rem; background: var(--panel); border-radius: .5em;
  padding: .6em .8em; font-size: .9em; }
.tiles b { display: block; color: var(--ink); font-size: 2.1em; line-height: 1.2; }

.legend { display: flex; flex-wrap: wrap; gap: .3em 1.5em; font-size: .9em; margin: .5em 0; }
.runs li:only-child { display: none; }
.key { width: 2.8em; height: 1em; margin-right: .5em; vertical-align: -.15em; }

figure { margin: 0; }
figcaption { font-size: .9em; }
.plot { display: block; width: calc(100% - 5rem); height: 9rem; margin: .8rem 2rem 2.4rem 3rem; }
.plot, .plot svg { overflow: visible; }
main > section > figure .plot { height: clamp(13rem, 34vw, 22rem); margin-top: 3rem; }
.charts { display: grid; gap: 1.2rem 2rem; margin-top: 1em; }
@media (min-width: 44rem) { .charts { grid-template-columns: 1fr 1fr; } }
.plot text { fill: var(--soft); font-size: .8rem; }
.left text { text-anchor: end; dominant-baseline: central; }
.below text { text-anchor: middle; transform: translateY(1.5em); }
.grid { stroke: var(--line); }
.axis { stroke: var(--soft); }
.stage { stroke: var(--soft); stroke-dasharray: 3 4; }
.plot .surprise { fill: var(--foreign); font-weight: 600; }
p.surprise { color: var(--foreign); background: var(--foreign-back); border-radius: .4em;
  padding: .5em .8em; max-width: none; }
.run0 { --color: var(--run0); }
.run1 { --color: var(--run1); --dashes: 8 5; }
.run2 { --color: var(--run2); --dashes: 2 5; }
.run3 { --color: var(--run3); --dashes: 12 4 2 4; }
.run4 { --color: var(--run4); --dashes: 4 3; }
.run5 { --color: var(--run5); --dashes: 16 6; }
.plot [class^=run], .key line { stroke: var(--color, var(--soft)); stroke-width: 2.25; fill: none;
  stroke-dasharray: var(--dashes, none); stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
.plot use[class], .key use { fill: var(--color); stroke: var(--page); stroke-width: 1.5;
  stroke-dasharray: none; }
.marks { position: absolute; width: 0; height: 0; }

.wide { overflow-x: auto; }
.wide:not(:has(td)) { display: none; }
table { border-collapse: collapse; width: 100%; font-size: .95em;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3em 0; }
th, td { text-align: left; vertical-align: top; padding: .4em .8em .4em 0;
  border-bottom: 1px solid var(--line); }
tr > th { font-weight: 600; }
.wide td, .wide th + th { text-align: right; white-space: nowrap; }
.wide th:first-child { min-width: 10rem; }
.prompt { table-layout: fixed; }
.prompt th { width: 36%; }
.prompt th:last-child { width: auto; }
.prompt p { font-size: .9em; }
.prompt td code { white-space: pre-wrap; }
.prompt th code { display: inline-block; font-weight: 400; }
.prompt summary { padding: 0; }
.prompt li { padding: .1em 0; }
.prompt li:not(:has(details)) { padding-left: 1.05em; }
.badge { border-radius: 1em; padding: .05em .6em; font-size: .88em; white-space: nowrap; }
.right { color: var(--right); background: var(--right-back); }
.equal { color: var(--equal); background: var(--equal-back); }
.wrong { color: var(--wrong); background: var(--wrong-back); }
.foreign { color: var(--foreign); background: var(--foreign-back); }
.none { color: var(--soft); }

.settings { columns: 16rem; }
.bar { height: .9rem; margin: .1em 0 .5em; background: var(--run0); border-radius: .2em; }

@media (max-width: 44rem) {
  .plot { width: calc(100% - 3.6rem); margin-left: 2.6rem; margin-right: 1rem; }
  .plot text { font-size: .7rem; }
  .plot .surprise { font-weight: 400; }
  .prompt tr { display: block; padding: .4em 0; border-bottom: 1px solid var(--line); }
  .prompt th, .prompt td { display: block; width: auto; padding: .1em 0; border: 0; }
}
"""

if __name__ == "__main__":
    main()
