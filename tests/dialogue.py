"""The dialogue that the README shows: what is typed, and the screen as a picture.

python -m tests.dialogue      plays it and writes docs/figures/talk.svg
"""

import contextlib
import io
import sys
from html import escape
from pathlib import Path

import talk

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "talk.svg"
TYPED = ["task strings 2", "ask red", "reflect", "y", "ask red"]
BEGIN = "> ask red\n"  # what is printed before is not in the picture: three dots

LINE = '<text x="16" y="{}" class="{}" xml:space="preserve">{}</text>'
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">
<style>rect {{ fill: #14202b }} text {{ font: 14px monospace; fill: #d7e0e8 }}
.typed {{ fill: #ffd479; font-weight: bold }} .right {{ fill: #7ee2a8 }} .wrong {{ fill: #ff9d9d }}
</style>
<rect width="100%" height="100%" rx="8"/>
{lines}
</svg>
"""


def picture(screen: str) -> str:
    """A screen of talk.py as SVG, a text element for each line."""
    shown = [f"> {TYPED[0]}", "..."]
    shown += screen[screen.index(BEGIN) :].rstrip("> \n").splitlines()
    lines = []
    for i, line in enumerate(shown):
        kind = "typed" if line.startswith(">") or "accept?" in line else line.split(":")[0]
        lines.append(LINE.format(28 + 20 * i, kind if " " not in kind else "", escape(line)))
    width = 32 + round(8.5 * max(map(len, shown)))
    return SVG.format(width=width, height=28 + 20 * len(shown), lines="\n".join(lines))


def main():
    sys.stdin = io.StringIO("".join(f"{line}\n" for line in TYPED))
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        talk.main([])
    PICTURE.write_text(picture(screen.getvalue()), encoding="utf-8")


if __name__ == "__main__":
    main()
