"""Ctrl-C in a terminal where `xai-video generate` runs: one sentence, and no request id is lost."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from ..support.api_key import API_KEY
from ..support.scripted import ScriptedServer, answer
from ..support.terminal import Terminal, shown

COMMAND = ["-m", "prefect_xai_video", "generate"]
ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
INTERRUPTED = 130

pytestmark = pytest.mark.slow


@pytest.fixture
def videos(tmp_path) -> Path:
    return tmp_path / "videos"


@pytest.fixture
def temporary_server(tmp_path, database) -> dict[str, str]:
    """The variables of a process that has no Prefect server."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(database, home)
    return {"PREFECT_HOME": str(home), "PREFECT_API_URL": ""}


@pytest.fixture
def server(prefect_server) -> dict[str, str]:
    """The variables of a process that uses the session's Prefect server."""
    return {"PREFECT_API_URL": PREFECT_API_URL.value()}


@pytest.fixture
def xai_server():
    """A stand-in for xAI that accepts a POST as soon as `reply` is set."""
    reply = threading.Event()

    def respond():
        if server.requests[-1].startswith("GET"):
            return answer("200 OK", b'{"user_id":"u","team_id":"t"}')
        reply.wait()
        return answer("200 OK", json.dumps({"request_id": ID}).encode())

    with ScriptedServer([respond] * 5) as server:
        server.reply = reply
        yield server
        reply.set()


def is_posted(server) -> bool:
    return any(request.startswith("POST") for request in server.requests)


def receipt(videos: Path) -> dict:
    return json.loads((videos / "cat.json").read_text())


def sentence(said: str) -> str:
    """What stands on the screen after Ctrl-C."""
    return shown(said.rpartition("^C")[2])


def with_key(server) -> dict[str, str]:
    return {"XAI_API_KEY": API_KEY, "XAI_BASE_URL": f"{server.url}/v1"}


def test_ctrl_c_while_the_temporary_server_starts(temporary_server, videos):
    with Terminal(*COMMAND, "A cat", "--directory", videos, **temporary_server) as terminal:
        terminal.wait_for("Starting a temporary Prefect server")
        terminal.interrupt()
        assert terminal.end() == INTERRUPTED
    # The run may still tell of its emulator after the key was pressed.
    assert sentence(terminal.said).splitlines()[-1] == "Stopped. Nothing was sent."
    assert not list(videos.glob("*.json"))


def test_ctrl_c_while_it_renders_and_the_same_key_again(temporary_server, server, videos):
    command = [*COMMAND, "A cat", "--duration", "1", "--directory", videos]
    patient = {"PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS": "60"}
    with Terminal(*command, **temporary_server, **patient) as terminal:
        terminal.wait_for("Rendering")
        terminal.interrupt()
        assert terminal.end() == INTERRUPTED
    [written] = videos.glob("[!.]*.json")
    key, request_id = written.stem, json.loads(written.read_text())["request_id"]
    assert sentence(terminal.said) == (
        f"Stopped. Request {request_id} can't be cancelled: it will be rendered. "
        f"Run the same command with --key {key} to pick the video up: nothing is sent or paid for again."
    )
    with Terminal(*command, "--key", key, **server) as terminal:
        assert terminal.end() == 0, terminal.said
    assert (videos / f"{key}.mp4").exists()
    assert len(list((videos / ".emulator").glob("*.request"))) == 1


def test_ctrl_c_during_the_post_waits_for_the_request_id(server, videos, xai_server):
    command = [*COMMAND, "A cat", "--key", "cat", "--directory", videos]
    with Terminal(*command, **server, **with_key(xai_server)) as terminal:
        terminal.wait_until(lambda: is_posted(xai_server))
        terminal.interrupt()
        terminal.wait_for("Stopping. The request for key cat is being sent")
        xai_server.reply.set()
        assert terminal.end() == INTERRUPTED
    assert receipt(videos)["request_id"] == ID
    assert f"Stopped. Request {ID} can't be cancelled: it will be rendered and paid for." in sentence(terminal.said)
    assert len(sentence(terminal.said).splitlines()) <= 3


def test_a_second_ctrl_c_ends_at_once(server, videos, xai_server):
    command = [*COMMAND, "A cat", "--key", "cat", "--directory", videos]
    with Terminal(*command, **server, **with_key(xai_server)) as terminal:
        terminal.wait_until(lambda: is_posted(xai_server))
        terminal.interrupt()
        terminal.wait_for("Ctrl-C again to stop at once")
        terminal.interrupt()
        assert terminal.end() == INTERRUPTED
    assert not xai_server.reply.is_set()
    assert sentence(terminal.said) == ""
    assert receipt(videos)["state"] == "sending"


def test_ctrl_c_during_the_download(server, videos):
    command = [*COMMAND, "A cat [fault:download-slow]", "--duration", "1", "--key", "cat", "--directory", videos]
    with Terminal(*command, **server) as terminal:
        terminal.wait_for("Saving the video")
        terminal.interrupt()
        assert terminal.end() == INTERRUPTED
    assert "is rendered, but its video is not stored yet. Run the same command with --key cat" in sentence(
        terminal.said
    )
    assert "Traceback" not in terminal.said
