"""One real server for the tests of this folder that do not kill it."""

from collections.abc import Iterator

import pytest

from tests.services.serving import Serving


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("serving") / "data") as running:
        yield running
        assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture(scope="session")
def key(serving: Serving) -> str:
    return serving.new_key()
