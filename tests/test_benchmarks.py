"""The benchmarks leave nothing running behind, whatever happens in them."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from servers import prints_its_url, running

FOREVER = "import time; print('http://here', flush=True); time.sleep(3600)"


def test_a_server_ends_with_a_block_that_fails():
    with pytest.raises(ZeroDivisionError), running("-c", FOREVER, output=subprocess.PIPE) as process:
        raise ZeroDivisionError
    assert process.returncode is not None


def test_a_server_that_does_not_start_is_an_error():
    with prints_its_url("-c", FOREVER) as url:
        assert url == "http://here"
    with pytest.raises(RuntimeError, match="did not start"), prints_its_url("-c", "raise SystemExit"):
        pass
