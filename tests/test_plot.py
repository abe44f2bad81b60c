"""experiments/plot.py: the pictures are drawn of any part of the runs."""

import plot
import pytest
from matplotlib.figure import Figure

from tests.records import write_run


def test_pictures_are_drawn_of_the_runs_that_are_there(tmp_path):
    kept = tmp_path / "runs"
    for seed in (0, 1):
        write_run(kept, "fst-strings", seed, ["strings"], 0.5)
    write_run(kept, "stream-rl", 0, ["strings", "numbers", "facts", "strings"], 0.2)
    plot.draw(kept, tmp_path)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["efficiency.png", "kl.png", "stream.png", "words.png"]


def test_the_bold_line_is_the_mean_of_the_seeds(tmp_path):
    write_run(tmp_path, "fst-strings", 0, ["strings"], 0.5)
    write_run(tmp_path, "fst-strings", 1, ["strings"], 0.7)
    axes = Figure().subplots()
    plot.panel(axes, plot.load(tmp_path), "METHOD-strings", 0, "rollouts")
    _, _, bold = axes.lines
    assert list(bold.get_xdata()) == [10, 1010, 1510, 2010]
    assert bold.get_ydata() == pytest.approx([0.0, 0.3, 0.45, 0.6])
