"""Models that only an operator can give, for tests of their adapters: the shared files, where present."""

import os
from pathlib import Path

from mien.vision.models.catalog import INSIGHTFACE_LICENCE
from mien.vision.models.spec import LocalFile
from mien.vision.models.store import ModelStore
from tests.paths_to_data import ROOT

SHARED = Path(os.environ.get("MIEN_SHARED", ROOT.parent / "shared"))
FILES = {
    "retinaface-mobile": "models-other/retinaface_mobile320.onnx",
    "scrfd-500m": "models-noncommercial/scrfd_500m_bnkps.onnx",
    "arcface-w600k-mbf": "models-noncommercial/arcface_w600k_mbf_int8.onnx",
}


def pull(models_dir: Path) -> ModelStore:
    """A store that holds those whose files are there; the others stay missing, and their tests skip."""
    store = ModelStore(models_dir, accept_licences=frozenset({INSIGHTFACE_LICENCE.id}), offline=True)
    given = {name: [LocalFile(SHARED / file)] for name, file in FILES.items() if (SHARED / file).is_file()}
    store.pull(list(given), given=given)
    return store
