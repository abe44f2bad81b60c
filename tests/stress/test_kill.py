"""tests/stress/kill.py, the short form: killed at random moments and resumed, a run ends as if
nothing had happened.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
def test_killed_runs_end_as_undisturbed_ones():
    script = Path(__file__).parent / "kill.py"
    command = [sys.executable, str(script), "--kills", "6", "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["fst", "rl", "gepa"] and all(
        " 6 kills" in line for line in lines
    )
