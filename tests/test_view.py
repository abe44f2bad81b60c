"""view.py: what the page says is what the files say, model-written text stays text, and a browser
shows it."""

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
import view
from plumbing.folder import RunFolder
from tasks import make_task
from view import Html, Stage, fill
from words.tasks import make_task as make_word_task

HOSTILE = '</pre><script>document.title = "taken"</script><img src=x onerror="alert(1)">{0} & "'
TASKS = ("strings", "numbers", "facts")
DEFAULTS = vars(train.Config())


# --- runs that nobody has run ---


def log_lines(method="fst", steps=90, stage=30, how="reflect red: none\n...\nred: sort"):
    """The log of a run, with metrics that occur nowhere else on the page."""
    kl = "kl_teacher" if method == "distill" else "kl_base"
    lines = []
    rollouts = 0

    def add(kind, step, task, **metrics):
        head = {"kind": kind, "step": step, "task": task}
        lines.append(head | {"rollouts": rollouts, "tokens": 41 * rollouts} | metrics)

    def evaluate(step, task):
        metrics = {"val_acc": 0.111 + step / 137, "kl_base": step / 1009, "prompt": {}}
        add("eval", step, task, neutral_acc=step / 1511, neutral_kl=0.0, **metrics)

    evaluate(0, 0)
    for step in range(steps):
        task = step // stage
        # Half of the hidden rules are found at once, another one later.
        rules = list(make_task(TASKS[task], 0).instructions.items())
        if method != "rl" and step % 6 == 0:
            rollouts += 430
            topic, new = rules[min(step % stage // 6, 3)]
            child = {"topic": topic, "old": "none", "new": new, "how": how}
            best = dict(rules[: 1 + min(step % stage // 6, 3)])
            metrics = {"calls": 430, "reflections": 30, "proposed": 9, "seconds": 3.5}
            metrics |= {"accepted": [child | {"before": 0.125, "after": 0.25}]}
            metrics |= {"population": [[best, 0.25], [{}, 0.0]], "surprise": step == 30}
            metrics |= {"dropped": ["red: mirror"] * (step == 30), "recalled": []}
            add("fast", step, task, **metrics)
        if method != "gepa":
            rollouts += 256
            metrics = {"reward": step / 301, "entropy": 0.2, kl: None if step == 7 else step / 99}
            metrics |= {"grad_norm": 1.0, "dropped_groups": step % 30, "skipped": 0}
            add("slow", step + 1, task, seconds=1.25, **metrics)
        if (step + 1) % 15 == 0:
            evaluate(step + 1, task)
            # Where a stage ends, the next task is evaluated, too.
            if (step + 1) % stage == 0 and step + 1 < steps:
                evaluate(step + 1, task + 1)
    return lines


def write_run(path, method="fst", steps=90, ended=True, **options) -> Path:
    """Write the files of such a run."""
    path.mkdir(parents=True)
    lines = log_lines(method, steps, **options)
    tasks = TASKS[: 1 + max(line["task"] for line in lines)]
    config = DEFAULTS | {"method": method, "tasks": tasks, "steps": steps, "lr": 0.00123}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "log.jsonl").write_text(log, encoding="utf-8")
    said = "[step 0] red: none  ->  sort\n    reflect red: none\n"
    for line in lines:
        if line["kind"] == "eval":
            said += f"[step {line['step']}] step {line['step']}: validation, 7 rollouts. "
            said += "One of them:\n    rules\n    ask red: a b\n    answer: b a   [right]\n"
    (path / "samples.txt").write_text(said, encoding="utf-8")
    if ended:
        results = []
        for name in tasks:
            accuracy = {"base weights": [0.0123, 0.2345], "final weights": [0.0456, 0.7891]}
            task = {"task": name, "hidden": make_task(name, 0).instructions, "evolved": {}}
            task["at_end"] = 0.6543
            results.append(task | {"accuracy": accuracy, "kl_base": [0.3141, 0.0272]})
        result = {"rollouts": lines[-1]["rollouts"], "tasks": results}
        (path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return path


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, its table rows, its titles, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags = []
        self.rows = []
        self.titles = []
        self.text = ""
        self.inside = None  # the list whose last text grows now
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "title"):
            self.inside = self.titles if tag == "title" else self.rows[-1]
            self.inside.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "title"):
            self.inside = None

    def handle_data(self, data):
        self.text += data
        if self.inside is not None:
            self.inside[-1] += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def page(*paths) -> str:
    return view.page(list(paths))


# --- what the page says ---


def test_the_numbers_on_the_page_are_those_of_the_log(tmp_path):
    run = write_run(tmp_path / "a")
    seen = Reader(page(run))
    lines = log_lines()
    shown = [row for row in seen.rows if row and row[0].endswith("a (fst)")]
    own = [
        x
        for x in lines
        if x["kind"] == "eval" and x["task"] in (x["step"] // 30, x["step"] / 30 - 1)
    ]
    expected = []
    for task, name in enumerate(TASKS):
        for x in (x for x in own if x["task"] == task):
            row = [f"{name}, a (fst)", str(x["step"]), f"{x['rollouts']:,}"]
            expected.append(
                row + [f"{x[key]:.3f}" for key in ("val_acc", "neutral_acc", "kl_base")]
            )
    assert len(expected) == 9 and shown[:9] == expected
    # Every point of the chart says its numbers: with the best prompt, and with the seed prompt.
    points = [title.strip() for title in seen.titles if "rollouts:" in title]
    for key in ("val_acc", "neutral_acc"):
        assert all(f"{x['rollouts']:,} rollouts: {x[key]:.3f}" in points for x in own)
    assert len(points) == 18

    # The closing table, and what was spent.
    metrics = ["0.654", "0.012", "0.234", "0.046", "0.789", "0.314", "0.027"]
    assert shown[9:] == [[f"{name}, a (fst)", *metrics] for name in TASKS]
    for words in ("gradient steps: 23,040 (78%)", "scores: 6,000 (20%)", "reflections: 450 (2%)"):
        assert words in seen.text
    assert "gradient steps: 112 (68%)" in seen.text and "scores, reflections: 52 (32%)" in seen.text
    assert f"{lines[-1]['rollouts']:,} rollouts, {lines[-1]['tokens']:,} sampled" in re.sub(
        r"\s+", " ", seen.text
    )


def test_points_lie_where_their_numbers_say():
    curves = [[(0, 0.0), (50, 0.5), (0, None), (100, 1.0)]]
    drawn = view.chart("title", curves, 1, 200, [Html()])
    assert 'd="M0.00 100.00h0L25.00 50.00h0M50.00 0.00h0"' in drawn
    places = [(a["x"], a["y"]) for tag, a in Reader(drawn).tags if tag == "use"]
    assert places == [("0.00%", "100.00%"), ("25.00%", "50.00%"), ("50.00%", "0.00%")]


def test_the_head_tells_what_run_it_is(tmp_path):
    seen = Reader(page(write_run(tmp_path / "a")))
    assert "Step 90 of 90, finished" in seen.text and "fst on strings, numbers, facts" in seen.text
    _, after = seen.text.split("All settings")
    settings, _ = json.JSONDecoder().raw_decode(after)
    assert settings["lr"] == 0.00123 and settings["batch"] == 32 and settings["steps"] == 90
    accuracies = re.findall(r"(\w+) (0\.\d\d) 4 of 4 rules named", seen.text)
    assert accuracies == [("strings", "0.33"), ("numbers", "0.55"), ("facts", "0.77")]


@pytest.mark.parametrize(
    ("instruction", "verdict"),
    [
        ("raise right", "right"),
        ("right raise", "equal"),
        ("right", "wrong"),
        ("right raise left right", "wrong"),  # longer than any rule
        ("square flip", "foreign"),
        ("none", "none"),
    ],
)
def test_an_instruction_is_right_equal_wrong_or_of_another_domain(instruction, verdict):
    task = make_task("strings", 0)
    assert task.instructions["gold"] == "raise right"
    stage = Stage("strings", task.domain, task.instructions, 0, [], [], [])
    assert stage.verdict("gold", instruction) == verdict


def test_a_change_stands_with_its_verdict_and_its_reflection(tmp_path):
    text = page(write_run(tmp_path / "a", how="reflect black: none\ntry this"))
    first = make_task("strings", 0).instructions
    topic, rule = next(iter(first.items()))
    start = text.index(f"{topic} <code>{rule}</code>")
    entry = text[start : text.index("</tr>", start)]
    assert entry.count("<li>") == 2 and "at first" in entry and "✓ right" in entry
    assert "<pre>reflect black: none\ntry this</pre>" in entry
    # A new stage begins with the instructions of the last one, and still tells how they were found.
    stage = text[text.index("Stage 2") : text.index("Stage 3")]
    assert stage.count("⇄ not of this domain") == 4
    assert f'<summary><span class="when">at first</span> <code>{rule}</code>' in stage
    assert stage.count("Found at step 0 in this way") == 1
    assert "▲ Surprise at step 30" in stage and "Dropped: red: mirror" in stage
    # In the chart, it was where the stage begins.
    [place] = re.findall(r'x="(\S+)" dx="6" dy="-.5em">▲ surprise</text>', text)
    assert f'<text x="{place}" dx="6" dy="-1.8em">numbers</text>' in text


def test_the_hidden_rules_are_those_of_the_run(tmp_path):
    text = page(write_run(tmp_path / "a", ended=False))
    for name in TASKS:
        for topic, rule in make_task(name, 0).instructions.items():
            assert f"{topic} <code>{rule}</code>" in text
    ended = write_run(tmp_path / "b")
    result = json.loads((ended / "result.json").read_text(encoding="utf-8"))
    result["tasks"][0]["hidden"]["red"] = "reverse reverse sort"
    (ended / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert "red <code>reverse reverse sort</code>" in page(ended)


@pytest.mark.parametrize("method", train.METHODS)
def test_every_method_has_its_page(tmp_path, method):
    seen = Reader(page(write_run(tmp_path / "a", method, steps=30)))
    assert ("There are none in this run." in seen.text) == (method == "gepa")
    assert ("no prompt learned" in seen.text) == (method == "rl")
    # What distillation teaches is measured with the seed prompt only.
    assert sum("rollouts:" in title for title in seen.titles) == (3 if method == "distill" else 6)
    assert ("KL to the teacher" in seen.text) == (method == "distill")
    assert ("KL to the base, nats" in seen.text) == (method in ("fst", "rl"))


def test_several_runs_are_laid_over_each_other(tmp_path):
    runs = [write_run(tmp_path / name, name) for name in ("fst", "rl", "gepa")]
    text = page(*runs)
    seen = Reader(text)
    for name in ("fst (fst)", "rl (rl)", "gepa (gepa)"):
        assert f"strings, {name}" in [row[0] for row in seen.rows if row]
        assert f"{name}: rollouts" in seen.text
    accuracy = text[text.index("Validation accuracy over") : text.index("The numbers")]
    assert [accuracy.count(f'<path class="run{i}"') for i in range(4)] == [1, 1, 1, 0]
    assert [accuracy.count(f'<use class="run{i}"') for i in range(4)] == [9, 9, 9, 0]
    assert "The best prompt of fst (fst)" in text and text.count("<h3>") == 3


# --- runs that are still going, or damaged ---


@pytest.mark.parametrize("n", [1, 2, 3, 40, 100])
def test_a_run_that_is_still_going(tmp_path, n):
    path = write_run(tmp_path / "a", ended=False)
    lines = (path / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    whole = "".join(lines[:n])
    (path / "log.jsonl").write_text(whole, encoding="utf-8")
    before = page(path)
    assert "not finished" in before and f"Step {json.loads(lines[n - 1])['step']} of 90" in before
    # Half of the next line changes nothing.
    (path / "log.jsonl").write_text(whole + lines[n][:-9], encoding="utf-8")
    assert page(path) == before


def test_a_run_that_goes_on_after_its_end_is_not_finished(tmp_path):
    path = write_run(tmp_path / "a")
    assert "finished. " in page(path) and "not finished" not in page(path)
    log = (path / "log.jsonl").read_text(encoding="utf-8")
    more = json.loads(log.splitlines()[-1])
    more["rollouts"] += 256
    (path / "log.jsonl").write_text(f"{log}{json.dumps(more)}\n", encoding="utf-8")
    assert "not finished" in page(path)


def test_metrics_that_are_missing(tmp_path):
    path = write_run(tmp_path / "a", stage=20, steps=60)
    lines = []
    for line in map(json.loads, (path / "log.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["kind"] == "fast":
            line["accepted"] = []
        if line["kind"] == "eval":
            line["kl_base"] = None  # not finite
        lines.append(json.dumps(line) + "\n")
    (path / "log.jsonl").write_text("".join(lines), encoding="utf-8")
    assert Reader(page(path)).count("details") < 15


DAMAGE = {
    "no folder": lambda path: shutil.rmtree(path),
    "an empty folder": lambda path: [file.unlink() for file in path.iterdir()],
    "no log": lambda path: (path / "log.jsonl").unlink(),
    "an empty log": lambda path: (path / "log.jsonl").write_text("", encoding="utf-8"),
    "a log without an evaluation": lambda path: (path / "log.jsonl").write_text(
        '{"kind": "skills", "step": 0, "task": 0, "rollouts": 0, "tokens": 0}\n', encoding="utf-8"
    ),
    "half a line": lambda path: (path / "log.jsonl").write_text('{"kind": "ev', encoding="utf-8"),
    "a torn line": lambda path: (path / "log.jsonl").write_text('{"kind"\n{}\n', encoding="utf-8"),
    "a line of nothing": lambda path: (path / "log.jsonl").write_text("{}\n", encoding="utf-8"),
    "a number as a line": lambda path: (path / "log.jsonl").write_text("3\n", encoding="utf-8"),
    "a log of bytes": lambda path: (path / "log.jsonl").write_bytes(b"\xff\xfe\n"),
    "no settings": lambda path: (path / "config.json").unlink(),
    "settings that are a list": lambda path: (path / "config.json").write_text(
        "[]", encoding="utf-8"
    ),
    "a task that nobody knows": lambda path: (path / "config.json").write_text(
        json.dumps(DEFAULTS | {"tasks": ["abacus"]}), encoding="utf-8"
    ),
    "half a result": lambda path: (path / "result.json").write_text(
        '{"tasks": [', encoding="utf-8"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_line_and_exit_code_2(tmp_path, capsys, damage):
    path = write_run(tmp_path / "a", steps=30)
    DAMAGE[damage](path)
    with pytest.raises(SystemExit) as stopped:
        view.main([str(path)])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("view.py: ") and str(path) in err
    assert not (path / "view.html").exists()


@pytest.mark.parametrize(
    ("argv", "said"), [(["RUN", "--out", "RUN/none/page.html"], "none/page.html"), ([], "runs")]
)
def test_what_is_wrong_on_the_command_line_is_not_laid_to_the_run(tmp_path, capsys, argv, said):
    path = write_run(tmp_path / "a", steps=30)
    with pytest.raises(SystemExit) as stopped:
        view.main([word.replace("RUN", str(path)) for word in argv])
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("view.py: ")
    assert said in line and "damaged" not in line


def test_a_line_cut_anywhere_or_a_byte_changed_is_never_a_traceback(tmp_path, capsys):
    path = write_run(tmp_path / "a", steps=6, ended=False)
    good = (path / "log.jsonl").read_bytes()
    for i in range(0, len(good), 17):
        (path / "log.jsonl").write_bytes(good[:i] + b"7" + good[i + 1 :])
        try:
            view.main([str(path)])
        except SystemExit as stopped:
            assert stopped.code == 2


# --- text stays text ---


def test_what_a_model_wrote_stays_text(tmp_path):
    paths = {how: write_run(tmp_path / str(len(how)), how=how) for how in (HOSTILE, "tame")}
    for how, path in paths.items():
        with open(path / "samples.txt", "a", encoding="utf-8") as file:
            file.write(f"[step 90] step 90: {how}. One of them:\n    {how}\n")
    path = paths[HOSTILE]
    log = (path / "log.jsonl").read_text(encoding="utf-8")
    hostile = json.dumps("red: " + HOSTILE)
    log = log.replace('"red: mirror"', hostile).replace('"reverse', f'"{HOSTILE[:8]}')
    (path / "log.jsonl").write_text(log, encoding="utf-8")
    tame = Reader(page(paths["tame"]))
    seen = Reader(page(path))
    assert seen.text.count(HOSTILE) >= 15
    for tag in ("script", "img", "pre", "title"):
        assert seen.count(tag) == tame.count(tag)
    # Nothing on the page can fetch or run anything.
    assert not any(name.startswith("on") for _, found in seen.tags for name in found)
    links = [found[key] for _, found in seen.tags for key in ("href", "src") if key in found]
    assert all(link.startswith("#run") for link in links)


def test_a_template_escapes_all_but_html():
    assert fill("<b>{}</b>", "<i>") == "<b>&lt;i&gt;</b>"
    assert fill("<b>{}</b>", fill("<i>{}</i>", '"&')) == "<b><i>&quot;&amp;</i></b>"
    for parts in (["<", Html("<"), 1], ("<", Html("<"), 1), iter(["<", Html("<"), 1])):
        assert fill("{}", parts) == "&lt;<1"
    assert fill("{!r}", Html("<")) == "&#x27;&lt;&#x27;"
    assert fill("{0[a]} {0[b]:.2f} {0[c]:.1f}", {"a": "<", "b": 0.5, "c": None}) == "&lt; 0.50 –"
    assert "<" not in fill("{} {name}", {"<": {"<": "<"}}, name=("<", None))
    assert fill("{}", "{0}") == "{0}"


# --- size, time, and the run itself ---


def calls_of(run: Path) -> int:
    """How many functions are called while a page is made."""
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event.endswith("call")))
    page(run)
    sys.setprofile(None)
    return sum(calls)


def test_a_page_and_its_work_grow_no_faster_than_the_run(tmp_path):
    how = "reflect red: none\n" + "try a b c d e f\n" * 40
    short = write_run(tmp_path / "short", steps=90, stage=30, how=how)
    long = write_run(tmp_path / "long", steps=2010, stage=670, how=how)
    assert len(page(short).encode()) < 300_000 and len(page(long).encode()) < 1_000_000
    assert calls_of(long) < 2010 / 90 * calls_of(short)


def test_main_writes_the_page_and_says_where(tmp_path, capsys):
    path = write_run(tmp_path / "a", steps=30)
    view.main([str(path)])
    assert capsys.readouterr().out.strip() == str(path / "view.html")
    assert (path / "view.html").read_text(encoding="utf-8") == page(path)
    view.main([str(path), "--out", str(tmp_path / "other.html")])
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == page(path)


def test_a_run_draws_its_page_at_every_evaluation_and_names_it(start, monkeypatch, capsys):
    states = []
    real = view.page
    monkeypatch.setattr(view, "page", lambda *args: states.append(real(*args)) or states[-1])
    out = start(steps=8)
    steps = [re.search(r"Step (\d+) of 8, (not )?finished", text).groups() for text in states]
    assert steps == [("0", "not "), ("4", "not "), ("8", "not "), ("8", None)]
    assert (out / "view.html").read_text(encoding="utf-8") == states[-1]
    assert f"{out}/view.html" in capsys.readouterr().out


def test_a_page_that_fails_never_fails_the_run(start, monkeypatch, capsys):
    monkeypatch.setattr(view, "page", lambda *args: 1 / 0)
    out = start(steps=4)
    assert (out / "result.json").exists() and not (out / "view.html").exists()
    assert "view.html could not be written: ZeroDivisionError" in capsys.readouterr().out


def test_only_the_first_process_draws(tmp_path):
    folder = RunFolder(str(tmp_path / "run"), "", "")
    folder.writes = False
    drawn = []
    folder.draw(drawn.append)
    assert drawn == []


# --- in a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's package chromium")

# A page in a frame, since a window may not be so narrow. The title says how much does not fit.
FRAME = """<title></title><iframe srcdoc="{}" style="width: {}px; border: 0"></iframe>
<script>addEventListener("load", () => {{
  for (const fold of frames[0].document.querySelectorAll("details")) fold.open = true;
  const page = frames[0].document.documentElement;
  document.title = page.scrollWidth - page.clientWidth + " of " + frames[0].innerWidth; }})</script>
"""


def browse(path: Path, *flags) -> tuple[str, str]:
    """Open a page in headless Chromium -> what it prints, and what its console says."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={path.parent / 'profile'}", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


@in_a_browser
def test_a_browser_shows_the_page_without_complaint_and_runs_nothing(tmp_path):
    path = write_run(tmp_path / "a", how=HOSTILE)
    (tmp_path / "view.html").write_text(page(path), encoding="utf-8")
    dom, console = browse(tmp_path / "view.html", "--dump-dom")
    seen = Reader(dom)
    assert console == ""
    assert seen.titles[0] == "fst on strings, numbers, facts" and HOSTILE in seen.text
    assert seen.count("script") == seen.count("img") == 0
    expected = Reader(page(path))
    assert [row for row in seen.rows if row] == [row for row in expected.rows if row]


@in_a_browser
def test_the_console_is_listened_to(tmp_path):
    (tmp_path / "bad.html").write_text("<script>throw Error('heard')</script>", encoding="utf-8")
    assert "heard" in browse(tmp_path / "bad.html", "--dump-dom")[1]


@in_a_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    runs = [write_run(tmp_path / name, name, how="x " * 200) for name in ("fst", "rl", "gepa")]
    frame = FRAME.format(html.escape(page(*runs)), width)
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    dom, _ = browse(tmp_path / "frame.html", "--dump-dom")
    assert Reader(dom).titles[0] == f"0 of {width}"

    # Looked at by hand when the page changes; here it is only not empty.
    shot = tmp_path / "shot.png"
    (tmp_path / "view.html").write_text(page(*runs), encoding="utf-8")
    browse(tmp_path / "view.html", f"--window-size={width},2000", f"--screenshot={shot}")
    assert shot.stat().st_size > 20_000


# --- a pretrained language model ---


def test_a_run_in_words_shows_its_prompts_whole_and_judges_none(tmp_path):
    text = "Add the numbers.\n31 + 8 = [39] coins\n47 + 5 = [52] <coins>"
    how = "worked example comes in: 47 + 5 = [52] <coins>"
    child = {"topic": "text", "old": "none", "new": text, "how": how, "before": 0.1, "after": 0.3}
    head = {"task": 0, "rollouts": 300, "tokens": 900}
    fast = {"kind": "fast", "step": 0, "calls": 300, "reflections": 9, "proposed": 5}
    fast |= {"accepted": [child], "population": [[{"text": text}, 0.3]], "surprise": False}
    fast |= {"dropped": [], "recalled": [], "seconds": 1.0}
    first = {"kind": "eval", "step": 0, "val_acc": 0.0, "neutral_acc": 0.0, "kl_base": 0.0}
    first |= {"prompt": {}, "neutral_kl": 0.0}
    lines = [first | head | {"rollouts": 0}, fast | head]
    config = DEFAULTS | {"llm": "smollm2", "tasks": ["sums"], "method": "gepa"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(log, encoding="utf-8")
    (tmp_path / "samples.txt").write_text("", encoding="utf-8")
    page = view.page([tmp_path])
    assert f"<code>{html.escape(text)}</code>" in page and html.escape(how) in page
    assert "rules named" not in page and "✗ wrong" not in Reader(page).text
    assert make_word_task("sums", 0).hidden in html.unescape(page)


def test_of_a_prompt_of_several_lines_those_are_told_that_changed():
    old = {"text": "Add.\n31 + 8 = [39] coins\n5 + 4 = [9] coins"}
    new = {"text": "Add.\n5 + 4 = [9] coins\n7 + 2 = [9] coins"}
    phase = {"surprise": False, "recalled": [], "accepted": []}
    [words] = view.news(old, new, phase)
    assert words == "text:\n- 31 + 8 = [39] coins\n+ 7 + 2 = [9] coins"


def test_the_closing_table_has_a_prompt_of_several_lines_in_one():
    rows = []
    accuracy = {"base weights": [0.0, 0.5], "final weights": [0.0, 0.9]}
    result = {"task": "sums", "hidden": {"text": "[sum] coins"}, "accuracy": accuracy}
    result |= {"evolved": {"text": "Add.\n3 + 4 = [7] coins"}, "kl_base": [0.1, 0.2], "at_end": 0.9}
    view.show_result(SimpleNamespace(show_table=rows.extend), result)
    assert ["text", "[sum] coins", "Add. | 3 + 4 = [7] coins"] in rows


def test_a_stage_without_a_fast_phase_is_a_stage_once_it_has_begun():
    eval_ = {"kind": "eval", "task": 0, "step": 0, "rollouts": 0, "prompt": {}}
    fast = {"kind": "fast", "rollouts": 90, "population": [[{"red": "sort"}, 0.2]], "accepted": []}
    log = [eval_, fast | {"task": 0, "step": 0}]
    # A stage of three steps, a cycle of six: the next fast phase is in the third stage.
    config = DEFAULTS | {"method": "gepa", "tasks": TASKS, "stage": 3}
    for step, names in ((3, TASKS[:1]), (4, TASKS[:2]), (6, TASKS[:2]), (7, TASKS)):
        lines = [*log, eval_ | {"task": 1, "step": step, "rollouts": 90}]
        stages = view.stages_of(config, lines, {})
        assert tuple(stage.name for stage in stages) == names
        assert all(stage.best == {"red": "sort"} for stage in stages)


def test_a_sample_may_have_an_empty_line(tmp_path):
    path = write_run(tmp_path / "a")
    with open(path / "samples.txt", "a", encoding="utf-8") as file:
        file.write("[step 90] step 90: words. One of them:\n    one\n\n    two\n[step 91] more\n")
    text = page(path)
    assert "one\n\ntwo" in text and "[step 91]" not in text


def test_a_sample_is_shown_with_its_verdict():
    for score, verdict in ((1.0, "[right]"), (0.0, "[wrong, b a is right]")):
        evaluation = SimpleNamespace(accuracy=0.5, sample=("answer: b a", score, "b a"))
        assert view.evaluated(3, "strings", 7, evaluation).endswith(f"   {verdict}")
