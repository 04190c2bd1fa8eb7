import pytest

from .processes import Forking


@pytest.fixture(scope="session")
def forking(tmp_path_factory):
    """Has modules run in processes of their own."""
    processes = Forking(tmp_path_factory.mktemp("forking"))
    yield processes
    processes.stop()
