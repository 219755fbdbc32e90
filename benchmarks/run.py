"""`make bench`: everything that docs/performance.md states, in one run.

    python -m benchmarks.run [--quick] [--only pipeline,versus,index,http]

Writes docs/performance.json (all figures), docs/performance.md and docs/performance.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests import given_models
from tests.given_models import SHARED
from tests.paths_to_data import ROOT

from benchmarks import http, index, pipeline, versus
from benchmarks.report import chart, page
from mien.runtime.settings import get_settings

QUICK_SIZES = ((10_000, 128), (100_000, 128))


def machine() -> dict[str, str]:
    """What it ran on, without names."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no index of a million faces")
    parser.add_argument("--only", default="pipeline,versus,index,http", help="parts, by comma")
    given = parser.parse_args()
    models = given_models.pull(get_settings().models_dir)
    parts: dict[str, Callable[[], Any]] = {
        "pipeline": lambda: pipeline.run(models, 7 if given.quick else 25),
        "versus": lambda: versus.run(models, SHARED, 5 if given.quick else 15),
        "index": lambda: index.run(QUICK_SIZES if given.quick else index.SIZES),
        "http": lambda: http.run(20 if given.quick else 60),
    }
    target = ROOT / "docs" / "performance.json"
    results: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    for name in given.only.split(","):
        print(f"--- {name}", flush=True)
        results[name] = parts[name]()
        print(json.dumps(results[name], indent=1), flush=True)
    results["machine"] = machine()
    target.write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs" / "performance.md").write_text(page(results))
    chart(results, ROOT / "docs" / "performance.png")
    print("written: docs/performance.md, docs/performance.json, docs/performance.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
