"""The batch lane under `kill -9`: at each of its steps, and at random, until all videos are stored."""

import random
import subprocess
import sys

import pytest

from prefect_xai_video.emulator import Emulator

from ..support.api_key import API_KEY
from ..support.lane import ids, paid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = ("created", "claimed", "added", "submitted", "listed", "done", "saving", "stored")
ROWS = 12
SEED = 20


@pytest.fixture
def emulator():
    with Emulator(light=True, render_seconds=0.3, api_key=API_KEY) as running:
        yield running


def run(emulator, directory, count, step="none", number=1):
    """Run the lane; returns the number of stored videos, or None if it was killed."""
    arguments = (emulator.base_url, str(directory), str(count), step, str(number))
    command = [sys.executable, "-m", "tests.faults.killed_lane", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, -9), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


def check_paid_once(emulator, count):
    assert len(ids(emulator)) >= count
    assert max(ids(emulator).values()) == 1
    assert len(paid(emulator)) == count
    assert set(paid(emulator).values()) == {1}


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_at_a_step_costs_nothing(emulator, tmp_path, step):
    assert run(emulator, tmp_path, ROWS, step) is None
    assert run(emulator, tmp_path, ROWS) == ROWS
    check_paid_once(emulator, ROWS)


def test_processes_that_are_killed_at_random_pay_once_in_all(emulator, tmp_path):
    chance = random.Random(SEED)
    for _ in range(8):
        assert run(emulator, tmp_path, 40, "any", chance.randint(1, 12)) is None
    assert run(emulator, tmp_path, 40) == 40
    check_paid_once(emulator, 40)
