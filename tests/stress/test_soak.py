"""tests/stress/soak.py, the short form: it measures what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read where Linux tells it"
)
def test_a_short_run_has_all_metrics(tmp_path):
    script = Path(__file__).parent / "soak.py"
    command = [
        sys.executable,
        script,
        "--steps",
        "40",
        "--methods",
        "rl",
        "--out",
        tmp_path / "soak.json",
    ]
    subprocess.run(command, capture_output=True, check=True)
    metrics = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))["rl"]
    assert metrics["steps"] == 40 and metrics["resident_mb_after_a_tenth"] > 20
    assert len(metrics["steps_per_second"]) == 10 and min(metrics["steps_per_second"]) > 0
    logs = metrics["bytes_per_step"]
    assert [len(values) for values in logs.values()] == [4, 4] and min(logs["log.jsonl"]) > 100
    assert metrics["checkpoint_bytes"][0] > 1000
