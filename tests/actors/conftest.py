"""Engines for all tests that need one: each takes ten seconds to start."""

import pytest

from tests.actors.rollout.engine_process import EngineProcess


@pytest.fixture(scope="session")
def tied_engine(tmp_path_factory):
    """Head and embedding share their weights; samples at temperature 0.7."""
    engine = EngineProcess(tmp_path_factory.mktemp("tied"), tied=True, temperature=0.7)
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def untied_engine(tmp_path_factory):
    """Samples at temperature 1.5."""
    engine = EngineProcess(tmp_path_factory.mktemp("untied"), tied=False, temperature=1.5)
    yield engine
    engine.stop()


@pytest.fixture(params=["tied_engine", "untied_engine"])
def engine(request):
    return request.getfixturevalue(request.param)
