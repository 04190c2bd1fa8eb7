"""A flow process that is stopped from outside: by SIGTERM, as workers do it, and by SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_xai_video import generate_video

from ..support.api_key import API_KEY
from ..support.scripted import ScriptedServer, answer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
ACCEPTED = answer("200 OK", b'{"request_id":"0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"}')
FLOW = """
import asyncio, sys
from prefect.filesystems import LocalFileSystem
from prefect_xai_video import agenerate_video, generate_video
options = dict(duration=1, key="cat", storage=LocalFileSystem(basepath=sys.argv[1]))
generate_video("A cat", **options) if sys.argv[2] == "sync" else asyncio.run(agenerate_video("A cat", **options))
"""


@pytest.fixture
def run(directory):
    """Runs the flow in a process of its own."""
    processes = []

    def start(base_url, kind, **settings):
        env = {"PREFECT_API_URL": PREFECT_API_URL.value(), "XAI_API_KEY": API_KEY, "XAI_BASE_URL": base_url}
        command = [sys.executable, "-c", FLOW, directory.basepath, kind]
        processes.append(subprocess.Popen(command, env=os.environ | env | settings, stderr=subprocess.DEVNULL))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def receipt(directory):
    path = directory._resolve_path("cat.json")
    return json.loads(path.read_text()) if path.exists() else {"state": None}


def wait_until(condition, seconds=120):
    for _ in range(seconds * 50):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_during_its_post_still_learns_the_request_id(run, directory, kind, number):
    reply = threading.Event()

    def late():
        reply.wait()
        return ACCEPTED

    with ScriptedServer([late]) as server:
        process = run(f"{server.url}/v1", kind)
        wait_until(lambda: server.requests)
        process.send_signal(number)
        time.sleep(0.5)
        reply.set()
        process.wait(120)
    assert process.returncode != 0
    assert receipt(directory)["state"] == "submitted"
    assert receipt(directory)["request_id"] == "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"


def test_a_run_that_is_killed_while_it_waits_is_picked_up_without_a_second_post(
    run, directory, xai, emulator, submissions
):
    process = run(emulator.base_url, "async", PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS="60")
    wait_until(lambda: receipt(directory)["state"] == "submitted")
    process.kill()
    process.wait()
    video = generate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)
    assert video.request_id == receipt(directory)["request_id"]
    assert submissions() == 1
