"""The fixtures for users' own tests, in suites of their own; docs/how-to/testing.md runs them with flows."""

import pytest

from prefect_xai_video.emulator.poll_settings import fitting_polls

pytest_plugins = ["pytester"]

CONFTEST = """
import sys

import pytest

LOADED = sys.modules.keys() & {"prefect", "prefect_xai_video.emulator", "starlette", "pydantic", "av"}


@pytest.fixture
def loaded_at_the_start():
    return LOADED
"""

SUITE = """
import os

import pytest

POLL = "PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS"


def test_nothing_large_is_loaded_before_a_test_asks_for_it(loaded_at_the_start):
    assert not loaded_at_the_start


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_begins_with_nothing(xai_emulator, time):
    import httpx

    assert (xai_emulator.ledger()["billed_usd"], xai_emulator.requests()) == ("0.00", [])
    headers = {"Authorization": f"Bearer {os.environ['XAI_API_KEY']}"}
    url, body = f"{os.environ['XAI_BASE_URL']}/videos/generations", {"prompt": "A cat", "duration": 1}
    xai_emulator.choose_fault("moderated", submissions=2)
    assert httpx.post(url, json=body, headers=headers).is_success
    [row] = xai_emulator.ledger()["requests"]
    assert (row["prompt"], row["cost_usd"], row["faults"]) == ("A cat", "0.05", ["moderated"])


def test_it_stands_in_for_xai_whatever_the_test_does(xai_emulator, monkeypatch, tmp_path):
    monkeypatch.undo()
    assert {"XAI_API_KEY": "no-key-needed", "XAI_BASE_URL": xai_emulator.base_url}.items() <= os.environ.items()
    assert os.environ["PREFECT_INTEGRATIONS_XAI_VIDEO_HOME"] == str(tmp_path / "xai-video")
    assert os.environ[POLL] == "0.1"


def test_other_tests_have_the_environment_of_the_user(xai_emulator_server):
    assert (os.environ["XAI_API_KEY"], os.environ["XAI_BASE_URL"]) == ("the-user's", "https://api.x.ai/v1")
    assert POLL not in os.environ
"""


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    """The environment of a user: an API key, and no settings, such as an emulator of this session may have made."""
    for name in fitting_polls(1):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XAI_API_KEY", "the-user's")
    monkeypatch.setenv("XAI_BASE_URL", "https://api.x.ai/v1")


def test_each_test_has_the_emulator_to_itself_and_leaves_nothing_behind(pytester):
    pytester.makepyfile(conftest=CONFTEST, test_one=SUITE, test_two=SUITE)
    result = pytester.runpytest_subprocess("-n", "2", "--dist", "loadfile")
    result.assert_outcomes(passed=10)


def test_without_pyav_only_tests_with_the_fixture_fail_with_one_sentence(pytester):
    pytester.makeconftest("import sys; sys.modules['av'] = None")
    pytester.makepyfile("def test_one(xai_emulator): pass\ndef test_other(): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_one*", "The emulator needs PyAV and Pillow: install prefect-xai-video?emulator?."],
        consecutive=True,
    )
