"""Many faces at once give what they give one by one."""

import numpy as np
import pytest

from mien.vision.models.batches import MAX_ROWS, run_rows, softmax
from tests.unit.attributes.conftest import OpenModel


def test_more_rows_than_fit_one_run(open_model: OpenModel) -> None:
    session = open_model("faceplugin-eyes")
    rng = np.random.default_rng(5)
    rows = rng.random((2 * MAX_ROWS + 3, 1, 24, 24), dtype=np.float32)
    together = run_rows(session, rows)
    assert [len(part) for part in together] == [len(rows)]
    alone = np.concatenate([run_rows(session, rows[i : i + 1])[0] for i in range(len(rows))])
    np.testing.assert_allclose(together[0], alone, atol=1e-4)


def test_every_output_is_joined(open_model: OpenModel) -> None:
    rows = np.zeros((MAX_ROWS + 1, 3, 224, 224), np.float32)
    assert [part.shape for part in run_rows(open_model("faceplugin-pose"), rows)] == [(MAX_ROWS + 1, 66)] * 3


def test_softmax_of_large_logits() -> None:
    shares = softmax(np.array([[1000.0, 1000.0], [0.0, -1000.0]], np.float32))
    assert shares == pytest.approx(np.array([[0.5, 0.5], [1.0, 0.0]]))
