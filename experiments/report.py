"""Write docs/RESULTS.md from the finished runs: each claim beside its bar, and what it rests on.

    python experiments/report.py

Any part of the runs will do. What is missing is said to be missing. The first table of the page is
also that of README.md.
"""

import fnmatch
import itertools
import re
from pathlib import Path

import measure
import numpy as np
import run
from measure import load
from root import KEPT, ROOT
from scipy.stats import ttest_1samp

from plumbing import command_line

# --- what is claimed ---

# A claim: ours is at least the bar. Beside it stands what one may want to compare it with. All
# three are sums of metrics of runs: `end fst-strings` is the function `end` of measure.py for the
# runs of that name, seed by seed; words after colons are its other arguments. Names with a `*`, or
# several with commas, stand for the mean of these runs. The bars were decided before the runs.
# DOMAIN and the like stand for several lines. A line without a bar is only reported.
CLAIMS = {}
CLAIMS["Single domains"] = """
rollouts saved, at rl's best accuracy | saved:rollouts fst-strings rl-strings | 0.80 |
rollouts saved, at rl's best accuracy | saved:rollouts fst-numbers rl-numbers | 0.80 |
rollouts saved, at rl's best accuracy | saved:rollouts fst-facts rl-facts | 0.75 |
rollouts saved, at rl's best accuracy | saved:rollouts fst-star_graph rl-star_graph | 0.80 |
the same, `rl` with a rate of 0.001 | saved:rollouts fst-DOMAIN hasty-DOMAIN | | end hasty-DOMAIN
tokens saved there | saved:tokens fst-DOMAIN rl-DOMAIN | |
time saved there | saved:time fst-DOMAIN rl-DOMAIN | |
KL to the base saved there | saved:kl_base fst-DOMAIN rl-DOMAIN | 0.70 |
where it ends, above `rl` | end fst-DOMAIN | end rl-DOMAIN + 0.10 | end rl-DOMAIN
where it ends, and `gepa` with fewer rollouts | end fst-DOMAIN | | end gepa-DOMAIN
with as many rollouts, above `gepa` | as_cheap fst-DOMAIN gepa-DOMAIN | end gepa-DOMAIN |
both channels, above the prompt alone | stage:1:both fst-DOMAIN | stage:1:prompt fst-DOMAIN |
both, above the weights alone | stage:1:both fst-DOMAIN | stage:1:weights fst-DOMAIN |
the prompt alone, above neither | stage:1:prompt fst-DOMAIN | stage:1:neither fst-DOMAIN |
the weights alone, above neither | stage:1:weights fst-DOMAIN | stage:1:neither fst-DOMAIN |
change of skills, above a third of rl's | skills fst-DOMAIN | 0.333 of skills rl-DOMAIN | \
skills rl-DOMAIN
change of skills, mean of the domains | skills fst-* | 0.333 of skills rl-* | skills rl-*
steps saved until rewards come in | earlier:step fst-star_graph rl-star_graph | 0.80 |
rollouts saved until then | earlier:rollouts fst-star_graph rl-star_graph | |
fast phases without a surprise | noticed fst-* | 0.99 |
"""
CLAIMS["The stream"] = """
at the end of stage 1 | stage:1:at_end stream-fst | 0.70 | stage:1:at_end stream-rl
at the end of stage 2 | stage:2:at_end stream-fst | 0.72 | stage:2:at_end stream-rl
at the end of stage 3 | stage:3:at_end stream-fst | 0.85 | stage:3:at_end stream-rl
at the end of stage 4 | stage:4:at_end stream-fst | 0.70 | stage:4:at_end stream-rl
seeds with all stages above 0.45 | sound stream-fst | 0.90 |
fast phases that notice a switch, and nothing else | noticed stream-fst | 0.99 |
rules of one and two operations named | named:12 stream-fst | 0.90 |
rules of three operations named | named:3 stream-fst | |
lines without operations of other domains | own_lines stream-fst | 0.98 |
learned in stage STAGE | stage:STAGE:at_end stream-fst | stage:STAGE:prompt stream-fst |
in the end not below the base, stage STAGE | stage:STAGE:both stream-fst | \
0.95 of stage:STAGE:prompt stream-fst | stage:STAGE:both stream-rl
gained until the end, stage 2 | stage:2:both stream-fst + -1 of stage:2:at_end stream-fst | | \
stage:2:both stream-rl + -1 of stage:2:at_end stream-rl
gained until the end, stage 3 | stage:3:both stream-fst + -1 of stage:3:at_end stream-fst | | \
stage:3:both stream-rl + -1 of stage:3:at_end stream-rl
back: anchor score after the first fast phase | first_phase stream-fst | \
0.95 of stage:1:prompt stream-fst | \
first_phase stream-no-memory
the same without surprise | first_phase stream-no-surprise | |
back: the prompt comes from memory | recalled stream-fst | |
back: within a third of the rollouts | within_third:4 stream-fst | stage:1:at_end stream-fst | \
within_third:1 stream-fst
the same without memory | within_third:4 stream-no-memory | |
the same without surprise | within_third:4 stream-no-surprise | |
the same, `rl` | within_third:4 stream-rl | |
stage STAGE without memory | stage:STAGE:at_end stream-no-memory | |
stage STAGE without surprise | stage:STAGE:at_end stream-no-surprise | |
in the end, stage STAGE without surprise | stage:STAGE:both stream-no-surprise | |
stage STAGE, of 33 steps | stage:STAGE:at_end stream-stage-33 | |
numbers, first or second | stage:1:at_end numbers-facts-METHOD | | \
stage:2:at_end facts-numbers-METHOD
facts, first or second | stage:1:at_end facts-numbers-METHOD | | \
stage:2:at_end numbers-facts-METHOD
"""
CLAIMS["After training, and with help"] = """
plasticity | end numbers-after-fst | 0.95 of end rl-numbers | end numbers-after-rl
plasticity | end strings-after-fst | 0.95 of end rl-strings | end strings-after-rl
plasticity | end others-after-fst | 0.95 of end others-after-base | end others-after-rl
plasticity, mean | end *-after-fst | 0.95 of end rl-numbers,rl-strings,others-after-base | \
end *-after-rl
turns, above prompts evolved on rl's weights | end fst-CHEAP | end catch-up-CHEAP |
`rl` under the right prompt | end ceiling-DOMAIN | | end fst-DOMAIN
distillation | end distill-CHEAP | | end fst-CHEAP
the base reflects | end reflector-CHEAP | | end fst-CHEAP
"""
CLAIMS["A real language model"] = """
labels, greedy, above `rl` | last:greedy_acc words-fst-labels | \
last:greedy_acc words-rl-labels + 0.20 | last:greedy_acc words-rl-labels
sums, greedy, above `rl` | last:greedy_acc words-fst-sums | \
last:greedy_acc words-rl-sums + 0.20 | last:greedy_acc words-rl-sums
labels, greedy, above `gepa` | last:greedy_acc words-fst-labels | \
last:greedy_acc words-gepa-labels + 0.20 | last:greedy_acc words-gepa-labels
sums, greedy, above `gepa` | last:greedy_acc words-fst-sums | \
last:greedy_acc words-gepa-sums + 0.20 | last:greedy_acc words-gepa-sums
KIND, greedy, not below `rl` under examples | last:greedy_acc words-fst-KIND | \
last:greedy_acc words-examples-KIND + -0.05 |
addition, greedy, not below `rl` | last:greedy_acc words-fst-addition | \
last:greedy_acc words-rl-addition + -0.05 |
KIND, sampled, `fst` and `rl` under examples | last:val_acc words-fst-KIND | | \
last:val_acc words-examples-KIND
KIND, sampled, `rl` and `gepa` | last:val_acc words-rl-KIND | | last:val_acc words-gepa-KIND
KIND, loss on other text, higher by | text_loss words-fst-KIND | | text_loss words-examples-KIND
sweep, PACE, greedy, `fst` and `rl` under examples | last:greedy_acc sweep-fst-sums-PACE | | \
last:greedy_acc sweep-rl-sums-PACE
"""
README = """
DOMAIN | stage:1:neither fst-DOMAIN | end rl-DOMAIN | end gepa-DOMAIN | end fst-DOMAIN | \
saved:rollouts fst-DOMAIN rl-DOMAIN
stream, stage STAGE | | stage:STAGE:at_end stream-rl | | stage:STAGE:at_end stream-fst |
"""
STANDS_FOR = {
    "DOMAIN": run.DOMAINS,
    "STAGE": "1234",
    "KIND": run.KINDS,
    "PACE": run.STANDS_FOR["PACE"],
    "METHOD": ("fst", "rl"),
    "CHEAP": ("strings", "numbers"),
}
AS_GOOD = 0.02  # accuracies of the sweep that differ by less count as equal


def rows_of(text) -> list[list[str]]:
    """The cells of a table above, line by line."""
    lines = run.expand(text, STANDS_FOR)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


# --- metrics over seeds ---

# `runs` are what measure.load gives: for each seed its finished runs, by name.


def names_in(words) -> list[str]:
    """All names of runs in some words."""
    found = []
    for word in re.split("[ ,]+", words):
        found += fnmatch.filter(run.names(), word)
    return found


def paired(words, seeds) -> list[dict]:
    """Those of some seeds that have all runs in some words."""
    names = set(names_in(words))
    return [by_name for by_name in seeds if names <= by_name.keys()]


def metric(words, by_name) -> float:
    """A metric of the runs of a seed, or a number."""
    if not names_in(words):
        return float(words)

    # "saved:rollouts fst-facts rl-facts" is measure.saved(fst, rl, "rollouts").
    function, *patterns = words.split()
    function, *arguments = function.split(":")
    metrics = []
    # Where a mean is asked for, these are several runs, or several pairs of runs.
    for names in zip(*map(names_in, patterns), strict=True):
        chosen = [by_name[name] for name in names]
        metrics.append(getattr(measure, function)(*chosen, *arguments))
    return np.mean(metrics)


def values(words, seeds) -> np.ndarray:
    """A sum of metrics, each maybe times a number -> one for each of some seeds, see `paired`."""
    total = np.zeros(len(seeds))
    for term in words.split(" + "):
        share, _, name = term.rpartition(" of ")
        total += float(share or 1) * np.array([metric(name, by_name) for by_name in seeds])
    return total


def spread(words, seeds) -> str:
    """Mean and standard deviation of a metric."""
    if not seeds:
        return "-"
    metrics = values(words, seeds)
    form = "{:,.0f}" if metrics.mean() >= 100 else "{:,.2f}"
    text = form.format(metrics.mean())
    if len(seeds) > 1:
        text += "±" + form.format(metrics.std(ddof=1))
    return text


# --- verdicts ---


def beyond_chance(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences is above 0: a one-sided t-test, p < 0.05."""
    if np.ptp(differences) < 1e-9:  # where nothing varies, scipy has no answer
        return differences[0] > 0
    return ttest_1samp(differences, 0.0, alternative="greater").pvalue < 0.05


def verdict(past: np.ndarray) -> str:
    """past: how far each seed is past the bar."""
    if len(past) < 3:
        return "*not shown*" if len(past) else "*missing*"
    if beyond_chance(past):
        return "**holds**"
    return "**fails**" if beyond_chance(-past) else "*not shown*"


def judge(row, runs) -> list[str]:
    """A claim -> the cells of its line in the report."""
    what, ours, bar, other = row
    # Ours and the bar have the same seeds. What stands beside them may lack some of these.
    seeds = paired(f"{ours} {bar or other}", runs)
    cells = [what]
    for words in row[1:]:
        cells.append(f"`{words}`: {cell(words, seeds)}" if " " in words else words)

    # What it shows. Without a bar a line is only reported.
    word = "" if seeds else "*missing*"
    if bar:
        word = verdict(values(ours, seeds) - values(bar, seeds))
    return [*cells, str(len(seeds)), word]


# --- tables ---


def table(head, rows) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cell(words, runs) -> str:
    """A metric over all seeds that there are; words without a run as they are."""
    return spread(words, paired(words, runs)) if names_in(words) else words


def readme_table(runs) -> str:
    rows = [[cell(words, runs) for words in row] for row in rows_of(README)]
    return table("accuracy at the end | base | `rl` | `gepa` | `fst` | rollouts saved", rows)


def runs_table(runs) -> str:
    """What all runs ended with and what they cost, and which ones are missing."""
    columns = "end | last:kl_base | last:rollouts | last:tokens | last:time"
    rows = []
    for name, asked in run.names().items():
        cells = [cell(f"{metric} {name}", runs) for metric in columns.split(" | ")]
        rows.append([name, *cells, f"{len(paired(name, runs))} of {asked}"])
    return table(f"run | {columns} | seeds", rows)


def sweep_scores(runs, method) -> dict[tuple, float]:
    """Learning rate and KL coefficient -> the mean accuracy at the ends of the stages.

    Nothing while a run is missing.
    """
    scores = {}
    for setting in itertools.product(run.RATES, run.KL_COEFS):
        words = f"stage_ends sweep-{method}-{'-'.join(setting)}"
        seeds = paired(words, runs)
        if len(seeds) < 2:
            return {}
        scores[setting] = values(words, seeds).mean()
    return scores


def chosen(scores) -> tuple:
    """What the sweep chooses; the page says how."""
    # Of those that are as good as the best, the nearest to the base; of these the fastest.
    best = max(scores.values())
    as_good = [setting for setting, score in scores.items() if score >= best - AS_GOOD]
    return max(as_good, key=lambda setting: (float(setting[1]), float(setting[0])))


def sweep_table(runs) -> str:
    rows = []
    for method in ("fst", "rl"):
        scores = sweep_scores(runs, method)
        for setting, score in scores.items():
            mark = "chosen" if setting == chosen(scores) else ""
            rows.append([method, *setting, f"{score:.3f}", mark])
    return table("method | learning rate | KL coefficient | accuracy | rule", rows)


def stored(folder: Path, pattern: str) -> str:
    """The tables that exam.py or bench.py has left."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern))]
    return "\n\n".join(texts) or "*missing*"


# --- the page ---

PAGE = """# Results

Written by experiments/report.py from {n} finished runs of {asked}, all with the present base; those
of the base before are in the history of this repository. The terms are explained in
[RUNS.md](RUNS.md#terms); the metrics, and how methods are compared, in [CLAIMS.md](CLAIMS.md).

{readme}

![Validation accuracy over rollouts, by domain and method](figures/efficiency.png)

![Validation accuracy over the KL to the base](figures/kl.png)

![Validation accuracy over rollouts, by stage of the stream](figures/stream.png)

A claim says that ours is at least the bar. Its verdict is one of three words, by a t-test over
seeds (paired, one-sided, p < 0.05, three seeds at least):

- **holds**: it is past the bar, beyond chance;
- **fails**: it is on the wrong side of the bar, beyond chance;
- *not shown*: all else. Where no seed has all the runs that a line needs, it is *missing*.

Where all seeds have the same number there is nothing to test, and the number decides. With so many
lines, one or two hold by chance. Numbers are mean ± standard deviation over seeds. The seeds are
those of ours and the bar; what stands beside a claim may have fewer of them.

{claims}

## All runs

Seconds (`time`) are of learning alone, in one thread, with another run beside it.

{runs}

## The sweep

Mean accuracy at the ends of the stages of `strings`, `numbers`, `facts`, over the seeds 100 and
101. The rule for both methods: of all settings within {as_good} of the best, the one that stays
nearest to the base, that is, with the largest KL coefficient; of these the one that learns fastest,
with the largest learning rate.

{sweep}

## The base

{exam}

## Speed

{bench}
"""


def page(folder: Path) -> str:
    """docs/RESULTS.md, of the runs in a folder and the tables beside it."""
    runs = load(folder)
    head = "claim | ours | the bar | compared with | seeds | verdict"
    sections = []
    for title, text in CLAIMS.items():
        claims = table(head, [judge(row, runs) for row in rows_of(text)])
        sections.append(f"## {title}\n\n{claims}")
    return PAGE.format(
        n=sum(map(len, runs)),
        asked=len(run.all_runs()),
        readme=readme_table(runs),
        claims="\n\n".join(sections),
        runs=runs_table(runs),
        sweep=sweep_table(runs),
        as_good=AS_GOOD,
        exam=stored(folder.parent, "exam.md"),
        bench=stored(folder.parent, "bench-*.md"),
    )


if __name__ == "__main__":
    command_line.script_parser(__file__, __doc__).parse_args()
    with command_line.failures_in_one_line("stopped"):
        (ROOT / "docs" / "RESULTS.md").write_text(page(KEPT), encoding="utf-8")
