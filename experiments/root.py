"""Where the project is. Importing this first makes its modules importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "experiments" / "results" / "runs"  # a folder for each finished run

sys.path.insert(0, str(ROOT))
