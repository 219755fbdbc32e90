#!/usr/bin/env python3
"""Draw README's picture: what the tour's commands print, as an SVG of a terminal (docs/images/tour.svg).

Needs `make samples` and the models; uses a data folder of its own.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT / ".cache" / "test-photos"
TOUR = (
    "mien index friends six_faces.jpg",
    "mien search friends six_faces.jpg",
    "mien compare astronaut.png six_faces.jpg",
)
WIDTH = 100


def main() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"MIEN_DATA_DIR": folder, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
        quiet = [sys.executable, "-m", "mien", "status"]
        subprocess.run(quiet, env=environment, capture_output=True, check=True, timeout=120)
        for command in TOUR:
            done = subprocess.run(
                [sys.executable, "-m", *command.split()],
                env=environment, cwd=PHOTOS, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
            console.print(Text.from_ansi(done.stdout.strip("\n")))
            console.print()
    svg = console.export_svg(title="mien", unique_id="tour")
    # Rich names a font on a foreign host; the reader's own monospace does.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (ROOT / "docs" / "images" / "tour.svg").write_text(svg)


if __name__ == "__main__":
    main()
