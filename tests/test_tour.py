"""docs/tour.ipynb: what is stored is one execution from top to bottom, and it begins anywhere."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CELLS = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_what_is_stored_is_one_execution_without_errors():
    counts = [cell["execution_count"] for cell in CODE]
    assert counts == list(range(1, len(CODE) + 1))
    for cell in CODE:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output


def test_outputs_name_no_path_of_a_machine():
    for cell in CODE:
        # Pictures are text, too, but base64 has slashes.
        for output in cell["outputs"]:
            pictures = {"image/png": ""}
            shown = json.dumps(output | {"data": output.get("data", {}) | pictures})
            assert not re.search(r"(?<![\w/])/[a-z]\w+/\w", shown), shown
            assert "Users" not in shown and "site-packages" not in shown


def test_pictures_are_stored():
    kinds = [kind for cell in CODE for output in cell["outputs"] for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 8


def test_every_cell_comes_after_a_question():
    for text, cell in itertools.pairwise(CELLS):
        if cell["cell_type"] == "code":
            assert text["cell_type"] == "markdown"
            assert re.search(r"\*\*(Question|Predict)", "".join(text["source"])), text


@pytest.mark.parametrize("folder", [".", "docs"])
def test_it_begins_in_the_root_and_in_docs(folder):
    program = "".join(CODE[0]["source"]) + "\nimport tasks; print(tasks.__file__)"
    command = [sys.executable, "-I", "-c", program]
    ended = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == str(ROOT / "tasks" / "__init__.py"), ended.stderr
