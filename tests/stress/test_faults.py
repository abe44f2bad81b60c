"""tests/stress/faults.py, the short form: full disks, damaged checkpoints and bad numbers cost what
docs/RUNS.md says.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_few_faults_of_every_kind(tmp_path):
    pytest.importorskip("resource")
    script = Path(__file__).parent / "faults.py"
    command = [
        sys.executable,
        script,
        "--disks",
        "2",
        "--damages",
        "40",
        "--steps",
        "12",
        "--out",
        tmp_path / "f.json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert metrics["full_disks"]["injected"] == 2 and metrics["damages"]["injected"] == 40
    assert 0 < metrics["numbers"]["injected"] < metrics["numbers"]["steps"] == 12
