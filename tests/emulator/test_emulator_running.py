"""Starting and stopping: as a context manager and from the command line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
import pytest

from prefect_xai_video import XaiCredentials, XaiVideoSettings
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine.polling import PollSchedule

from .emulator_api import CAT, Api

PREFIX = "PREFECT_INTEGRATIONS_XAI_VIDEO_"
POLL_SETTINGS = {PREFIX + name for name in ("FIRST_POLL_SECONDS", "POLL_MIN_SECONDS", "POLL_MAX_SECONDS")}


@pytest.fixture(scope="module", autouse=True)
def command_lines(tmp_path_factory):
    """Two command lines, begun before the first test, since each takes seconds to import Prefect."""
    log = tmp_path_factory.mktemp("log") / "requests.jsonl"
    options = "--render-seconds 0.1 --url-ttl-seconds 0 --credits 0.12 --requests-per-second 10 --api-key right"
    options += " --clock-ahead-seconds 86400"
    command = [sys.executable, "-m", "prefect_xai_video.emulator"]
    commands = {
        "configured": [*command, "--port", "0", *options.split(), "--log", str(log)],
        "plain": command,
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = {name: subprocess.Popen(command, **pipes) for name, command in commands.items()}
    started["configured"].log = log
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def port_of(api):
    return urlsplit(api.base_url).port


def test_two_emulators_side_by_side_know_nothing_of_each_other(running):
    with running() as one, running(api_key="another") as other:
        assert one.base_url != other.base_url
        request_id = one.submit(**CAT)
        assert one.wait(request_id).status_code == 200
        authorized = {"Authorization": "Bearer another"}
        assert other.anonymous.get(f"/videos/{request_id}", headers=authorized).status_code == 404
        assert (one.ledger()["submissions"], other.ledger()["submissions"]) == (1, 0)


def test_nothing_is_served_after_the_block_and_the_books_stay_open(running):
    with running() as api:
        api.make(**CAT)
        emulator = api.emulator
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{emulator.base_url}/api-key")
    assert emulator.ledger()["billed_usd"] == "0.05"
    assert emulator.requests()[0]["status"] == 200


def test_it_stops_at_once_although_clips_are_drawn_and_clients_hold_connections(running):
    unfinished = (
        b"POST /v1/videos/edits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    with running(render_seconds=0) as api:
        for number in range(4):
            api.submit(prompt=str(number), duration=15, resolution="720p")
        address = ("127.0.0.1", port_of(api))
        with socket.create_connection(address), socket.create_connection(address) as sending:
            sending.sendall(unfinished)
            api.http.get("/api-key")
            api.emulator.__exit__(None, None, None)


def test_polls_suit_the_render_time_inside_the_block_only(monkeypatch):
    for name in POLL_SETTINGS:
        monkeypatch.delenv(name)
    with Emulator(render_seconds=4):
        assert XaiVideoSettings.current().schedule == PollSchedule(1.8, 0.1, 2)
        with Emulator(render_seconds=0):
            assert XaiVideoSettings.current().schedule == PollSchedule(1.8, 0.1, 2)
    assert not POLL_SETTINGS & os.environ.keys()
    with Emulator(render_seconds=0):
        assert XaiVideoSettings.current().schedule == PollSchedule(0.1, 0.1, 0.1)
    with Emulator(render_seconds=60):
        assert XaiVideoSettings.current().schedule == PollSchedule()


def test_serving_alone_leaves_the_environment_as_it_is():
    before = dict(os.environ)
    with Emulator(render_seconds=4).serving():
        assert os.environ == before


@pytest.mark.parametrize("api_key", [None, "right"])
def test_its_environment_is_all_that_another_process_needs(api_key, monkeypatch):
    with Emulator(render_seconds=4, api_key=api_key) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        assert XaiVideoSettings.current().schedule == PollSchedule(1.8, 0.1, 2)
        assert XaiCredentials.from_environment().check_key()["team_id"] == "emulator"


@pytest.mark.parametrize("light", [False, True])
def test_a_reset_makes_it_as_new(running, light):
    with running(light=light, fault_share=0.5, render_slots=1) as api:
        sessions = []
        for _ in range(2):
            api.emulator.choose_fault("pending-200")
            done = api.submit(**CAT)
            assert api.wait(done).status_code == 200
            api.emulator.choose_fault("never-done")
            unfinished = api.submit(**CAT)
            api.emulator.choose_fault("moderated", submissions=2)
            sessions.append([row["faults"] for row in api.ledger()["requests"]])
            api.emulator.reset()
            assert (api.ledger()["submissions"], len(api.emulator.requests())) == (0, 1)
            assert [api.poll(request_id).status_code for request_id in (done, unfinished)] == [404, 404]
            api.emulator.reset()
        assert sessions == [[["pending-200"], ["never-done"]]] * 2


def test_a_reset_that_is_not_possible_says_why(running, tmp_path):
    with running(state=tmp_path) as api, pytest.raises(ValueError, match="state directory"):
        api.emulator.reset()
    with pytest.raises(RuntimeError, match="not serving"):
        Emulator().reset()


def test_a_poll_setting_of_the_user_is_kept(monkeypatch):
    for name in POLL_SETTINGS:
        monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}POLL_MIN_SECONDS", "7")
    with Emulator(render_seconds=0):
        assert XaiVideoSettings.current().schedule == PollSchedule(18, 7, 20)
    assert XaiVideoSettings.current().schedule == PollSchedule(18, 7, 20)


def test_a_port_can_be_chosen_and_one_that_is_taken_is_told():
    with Emulator() as first:
        port = urlsplit(first.base_url).port
        with pytest.raises(OSError, match="in use"), Emulator(port=port):
            pass
    with Emulator(port=port) as second:
        assert second.base_url == first.base_url


def test_it_listens_on_loopback_only(api):
    elsewhere = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for host in elsewhere - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection((host, port_of(api)), timeout=2)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port_of(api)), timeout=2)


@pytest.mark.parametrize("missing", ["av", "PIL"])
def test_without_what_it_draws_with_one_sentence_says_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("install prefect-xai-video[emulator]")), Emulator():
        pass


def test_without_pyav_the_command_line_says_so_and_nothing_else_needs_it():
    code = "import sys; sys.modules['av'] = None; from prefect_xai_video.emulator.serving import serve; serve()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "install prefect-xai-video[emulator]." in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.smoke
def test_the_command_line_prints_its_base_url_once_it_serves_and_ends_cleanly_on_sigterm(command_lines):
    process = command_lines["configured"]
    base_url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", base_url)
    refused = Api(base_url, key="wrong").post(**CAT)
    assert refused.status_code == 401
    assert 86300 < parsedate_to_datetime(refused.headers["Date"]).timestamp() - time.time() < 86500
    api = Api(base_url, key="right")
    request_id = api.submit(**CAT)
    while (response := api.poll(request_id)).status_code == 202:
        time.sleep(0.2)  # slowly, because of the limit
    assert api.anonymous.get(response.json()["video"]["url"]).status_code == 403
    assert [api.post(**CAT).status_code for _ in range(2)] == [200, 403]
    while (response := api.poll("abc")).status_code == 400:
        pass
    assert response.status_code == 429
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert (lines[0]["path"], lines[0]["status"]) == ("/v1/videos/generations", 401)
    assert lines[-1]["status"] == 429
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_the_command_line_ends_cleanly_on_sigint_while_it_renders(command_lines):
    process = command_lines["plain"]
    api = Api(process.stdout.readline().strip())
    for _ in range(3):
        request_id = api.submit(prompt="A cat", duration=15, resolution="720p")
    assert api.poll(request_id).json()["status"] == "pending"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert (process.stdout.read(), process.stderr.read()) == ("", "")
