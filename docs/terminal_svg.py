"""Draws docs/terminal.svg: what a terminal shows of a real sweep, line after line as the lines came.

    python docs/terminal_svg.py

types the commands below in an empty folder with a store of its own, and writes what they printed. Pauses are shortened
to LONGEST_PAUSE, so that nobody waits for imports. Whoever has asked for less motion sees all lines at once.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "python train.py -m dataset=digits model=mlp optimizer.lr=0.1,0.3,1 seed=0,1,2",
    "sweepstack table --by-seed --columns lr,n,mean,low,high,behind,mark",
    "sweepstack report -o report.html",
)
SHOWN_COLUMNS = 117
"""Characters of a line; what is longer goes on below."""
CHARACTER = 8.0
"""Width of a character, in pixels."""
LINE = 19
"""Height of a line, in pixels."""
MARGIN = 18
"""Around the text, in pixels."""
LONGEST_PAUSE = 0.7
"""Between two lines, in seconds."""
AFTER_PROMPT = 1.2
"""Between a command and its first line, in seconds."""
STYLE = """
text { font: 13.3px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d7dce2; }
.prompt { fill: #5eead4; font-weight: bold; }
.line { animation: appear 1ms linear both; }
@keyframes appear { from { opacity: 0; } to { opacity: 1; } }
@media (prefers-reduced-motion: reduce) { .line { animation: none; } }
"""


def typed(command: str, folder: Path) -> list[tuple[float, str]]:
    """Types a command; returns its lines with the seconds that each came after the one before."""
    program, *words = shlex.split(command)
    scripts = Path(sys.executable).parent
    start = [sys.executable, str(ROOT / words.pop(0))] if program == "python" else [str(scripts / program)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "COLUMNS": str(SHOWN_COLUMNS)}
    process = subprocess.Popen(
        [*start, *words],
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[tuple[float, str]] = []
    last = time.monotonic()
    for line in process.stdout:
        now = time.monotonic()
        text = line.rstrip()
        first, *rest = textwrap.wrap(text, SHOWN_COLUMNS) if len(text) > SHOWN_COLUMNS else [text]
        lines += [(now - last, first), *((0.0, part) for part in rest)]
        last = now
    assert process.wait() == 0, command
    return lines


def without_next_commands(lines: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The lines of a sweep without the commands at its end: they hold paths of this machine."""
    texts = [text for _, text in lines]
    end = next((index for index, text in enumerate(texts) if text.startswith("Browse:")), len(texts))
    return lines[: end - 1] if end < len(texts) else lines


def svg(lines: list[tuple[float, str, str]]) -> str:
    """Returns the picture.

    Args:
        lines: each line's second, its class in the style, and its text.
    """
    width, height = round(SHOWN_COLUMNS * CHARACTER + 2 * MARGIN), len(lines) * LINE + 2 * MARGIN
    title = "A sweep in a terminal: nine trials in one stack, the means over seeds with their marks, and the report"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#16202b"/>',
    ]
    for number, (second, kind, text) in enumerate(lines):
        if text:
            content = escape(text).replace(" ", "&#160;")
            parts.append(
                f'<text class="line {kind}" style="animation-delay: {second:.2f}s" x="{MARGIN}" '
                f'y="{MARGIN + LINE * number + 14}" textLength="{len(text) * CHARACTER:.0f}">{content}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Types the commands and writes the picture."""
    shown: list[tuple[float, str, str]] = []
    second = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            second += AFTER_PROMPT
            shown += [(second, "", "")] if shown else []
            shown.append((second, "prompt", f"$ {command}"))
            second += AFTER_PROMPT
            for pause, line in without_next_commands(typed(command, Path(folder))):
                second += min(pause, LONGEST_PAUSE)
                shown.append((second, "", line))
    (ROOT / "docs" / "terminal.svg").write_text(svg(shown), encoding="utf-8")


if __name__ == "__main__":
    main()
