"""Fixtures for pytest suites whose flows make videos: an emulator in place of xAI, at no cost.

pytest loads this module at the start of each session, whether or not a test uses it. So the top of it imports nothing
large, and everything happens in the fixtures.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect_xai_video.emulator import Emulator

__all__ = ["xai_emulator", "xai_emulator_server"]

_RENDER_SECONDS = 0.1
_HOME_VARIABLE = "PREFECT_INTEGRATIONS_XAI_VIDEO_HOME"


@pytest.fixture(scope="session")
def xai_emulator_server() -> Iterator["Emulator"]:
    """The emulator of a session: in the light mode, with renders of 0.1 seconds.

    Override it in a `conftest.py`, a module or a class for an `Emulator` with other options, and use it in fixtures
    of the session. A test that uses only this fixture, without `xai_emulator`, does not use it in place of xAI.
    """
    from prefect_xai_video.emulator import Emulator  # noqa: PLC0415

    with ExitStack() as block:
        try:
            # Without its poll settings: tests without `xai_emulator` keep their environment.
            emulator = block.enter_context(Emulator(render_seconds=_RENDER_SECONDS, light=True).serving())
        except ImportError as error:
            pytest.fail(str(error), pytrace=False)
        yield emulator


@pytest.fixture
def xai_emulator(xai_emulator_server: "Emulator", tmp_path: Path) -> Iterator["Emulator"]:
    """The emulator of the session, for one test: with an empty ledger, and in place of xAI.

    During the test, `XAI_API_KEY`, `XAI_BASE_URL` and the poll settings are the emulator's, whatever they were
    before. The directory for videos without a storage is `tmp_path / "xai-video"`.
    """
    xai_emulator_server.reset()
    variables = xai_emulator_server.environment() | {_HOME_VARIABLE: str(tmp_path / "xai-video")}
    # Not the fixture `monkeypatch`: its `undo()` in a test would bring back the user's own API key.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield xai_emulator_server
