"""Processes that end or fork at a bad moment, proxies, odd servers and disks: the request id and the key survive."""

import asyncio
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine import accounts
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.posting import CLEANUP_SECONDS
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import InvalidRequest, RequestRejected, StorageError, VideoFailed, VideoModerated

from ..support.api_key import API_KEY
from ..support.scripted import ScriptedServer, answer, mp4

PROMPT = "A cat that nobody may see in a log"
REQUEST = build_request(PROMPT, duration=1)
QUICK = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
SCHEDULE = PollSchedule(0, 0.01, 0.02)
ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
ACCEPTED = answer("200 OK", json.dumps({"request_id": ID}).encode())


def reply(status, facts):
    return answer(status, json.dumps(facts).encode())


def done(server):
    return reply("200 OK", {"status": "done", "video": {"url": f"{server.url}/v.mp4", "duration": 1}})


@pytest.fixture
def local(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
async def engine(local):
    """An engine whose xAI answers a script that grows."""
    with ScriptedServer([ACCEPTED]) as server:
        async with XaiVideoClient(API_KEY, f"{server.url}/v1", retries=QUICK) as client:
            engine = Generation(client, local, SCHEDULE)
            yield engine, server


async def make(engine, **options):
    await engine.start(REQUEST, "cat", **options)
    await engine.wait("cat", timeout=30)
    return await engine.save("cat")


STOPPED = f"""
import asyncio, sys
from pathlib import Path
from prefect_xai_video import XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine import posting
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.stores import LocalStore

posting.CLEANUP_SECONDS = 0.1

async def main():
    async with XaiVideoClient({API_KEY!r}, sys.argv[1]) as client:
        await Generation(client, LocalStore(Path(sys.argv[2]))).start(build_request({PROMPT!r}, duration=1), "cat")

asyncio.run(main())
"""


async def test_a_request_id_that_arrives_after_the_main_thread_has_ended_is_in_the_receipt(local):
    assert CLEANUP_SECONDS > 0.1
    asked, may_reply = threading.Event(), threading.Event()

    def late():
        asked.set()
        may_reply.wait(60)
        return ACCEPTED

    with ScriptedServer([late]) as server:
        command = [sys.executable, "-c", STOPPED, f"{server.url}/v1", str(local.root)]
        script = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        await asyncio.to_thread(asked.wait, 60)
        script.send_signal(signal.SIGINT)
        # The traceback is written once nothing but the thread with the POST is left.
        while "KeyboardInterrupt" not in (line := await asyncio.to_thread(script.stderr.readline)):
            assert line
        may_reply.set()
        await asyncio.to_thread(script.communicate)
    held = await local.read("cat")
    assert (held.receipt.state, held.receipt.request_id) == ("submitted", ID)


async def test_a_process_that_is_forked_during_a_query_of_the_team_repeats_it(local, tmp_path):
    accounts._responses["somebody's"] = pending = (0.0, accounts.Future())
    accounts._lock.acquire()
    try:
        child = os.fork()
        if not child:
            os._exit(1 if accounts._responses or accounts._lock.locked() else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert accounts._responses["somebody's"] is pending
    finally:
        accounts._lock.release()
        del accounts._responses["somebody's"]


class _Recorder(BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self):
        self.seen.append(f"{self.requestline} {self.headers}")
        self.send_error(502)

    do_POST = do_CONNECT = do_GET

    def log_message(self, *_):
        return None


@pytest.fixture
def proxy(monkeypatch):
    """A proxy of the environment; what it was asked."""
    seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Recorder,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    yield seen
    server.shutdown()
    server.server_close()


async def test_requests_to_this_machine_never_use_a_proxy(proxy, local):
    with ScriptedServer([ACCEPTED]) as server:
        server.extend([done(server), answer("200 OK", mp4(b"cat"), "Content-Type: video/mp4")])
        async with XaiVideoClient(API_KEY, f"{server.url}/v1", retries=QUICK) as client:
            await make(Generation(client, local, SCHEDULE))
    assert proxy == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "ftp://127.0.0.1:1"), ("HTTPS_PROXY", "http://[::1"), ("ALL_PROXY", "http://:x")],
)
def test_an_invalid_proxy_is_one_clear_error(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest, match="environment's certificates or proxies"):
        XaiVideoClient(API_KEY)


@pytest.mark.parametrize(
    ("status", "facts"),
    [
        (
            "403 Forbidden",
            {"code": "permission-denied", "error": "Suspended until a moderation inquiry ends"},
        ),
        ("422 Unprocessable Content", {"error": "moderated"}),
        ("200 OK", {"error": "upstream request timeout"}),
    ],
)
async def test_a_transient_error_does_not_end_a_paid_key(engine, status, facts):
    engine, server = engine
    await engine.start(REQUEST, "cat")
    server.extend([reply(status, facts)] * (QUICK.attempts if status == "200 OK" else 1))
    with pytest.raises(Exception, match="xAI"):
        await engine.wait("cat", timeout=30)
    server.extend([done(server), answer("200 OK", mp4(b"cat"), "Content-Type: video/mp4")])
    assert (await make(engine)).request_id == ID
    assert sum(request.startswith("POST") for request in server.requests) == 1


ENDS = [
    ("200 OK", {"status": "failed", "error": {"code": "internal_error", "message": "Oops"}}, VideoFailed),
    ("400 Bad Request", {"code": "imagine:content-moderated", "error": "Rejected."}, VideoModerated),
]


@pytest.mark.parametrize(("status", "facts", "kind"), ENDS)
async def test_a_failed_request_is_polled_once_more_before_it_is_paid_for_again(engine, status, facts, kind):
    engine, server = engine
    await engine.start(REQUEST, "cat")
    server.extend([reply(status, facts)])
    with pytest.raises(kind):
        await engine.wait("cat", timeout=30)
    before = len(server.requests)
    with pytest.raises(kind):
        await engine.start(REQUEST, "cat")
    assert len(server.requests) == before
    server.extend([done(server), answer("200 OK", mp4(b"cat"), "Content-Type: video/mp4")])
    assert (await make(engine, regenerate=True)).request_id == ID
    assert sum(request.startswith("POST") for request in server.requests) == 1


@pytest.mark.parametrize(("status", "facts", "kind"), ENDS)
async def test_a_failed_request_is_polled_once_more_when_its_id_is_adopted(engine, status, facts, kind):
    engine, server = engine
    await engine.start(REQUEST, "cat")
    server.extend([reply(status, facts)])
    with pytest.raises(kind):
        await engine.wait("cat", timeout=30)
    server.extend([done(server)])
    assert (await engine.adopt(ID, "cat")).state == "done"


@pytest.mark.parametrize("status", ["500 Internal Server Error", "429 Too Many Requests"])
async def test_a_prompt_that_a_poll_quotes_is_in_no_log_and_no_error(engine, caplog, status):
    engine, server = engine
    await engine.start(REQUEST, "cat")
    server.extend([reply(status, {"code": f"code of {PROMPT}", "error": f"Render of '{PROMPT}' failed"})] * 2)
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception, match="xAI") as caught:
        await engine.wait("cat", timeout=30)
    for text in (caplog.text, repr(caught.value), str(caught.value.__dict__), str(caught.value.args)):
        assert PROMPT not in text


async def test_a_code_that_quotes_the_prompt_is_redacted(engine):
    engine, server = engine
    await engine.start(REQUEST, "cat")
    server.extend([reply("400 Bad Request", {"code": PROMPT, "error": "No"})])
    with pytest.raises(RequestRejected) as caught:
        await engine.wait("cat", timeout=30)
    assert PROMPT not in f"{caught.value} {caught.value!r} {caught.value.code}"
    server.extend([reply("200 OK", {"status": "failed", "error": {"code": PROMPT, "message": PROMPT}})])
    with pytest.raises(VideoFailed):
        await engine.wait("cat", timeout=30)
    receipt = (await engine.store.read("cat")).receipt
    assert PROMPT not in str(receipt.failure)


async def test_a_video_with_a_content_encoding_is_decoded(engine):
    engine, server = engine
    video = mp4(bytes(100_000))
    body = gzip.compress(video)
    server.extend([done(server), answer("200 OK", body, "Content-Type: video/mp4", "Content-Encoding: gzip")])
    stored = await make(engine)
    assert stored.size == len(video)


async def test_a_disk_that_becomes_read_only_is_named_with_the_request_id(engine, monkeypatch):
    engine, server = engine
    server.extend([done(server), answer("200 OK", mp4(b"cat"), "Content-Type: video/mp4")])
    await engine.start(REQUEST, "cat")
    await engine.wait("cat", timeout=30)

    def read_only(self, *_, **__):
        raise OSError(30, "Read-only file system", str(self))

    path = type(engine.store.root)
    opening = path.open
    monkeypatch.setattr(
        path, "open", lambda self, mode="r", *_, **__: read_only(self) if "w" in mode else opening(self, mode)
    )
    monkeypatch.setattr(path, "unlink", read_only)
    with pytest.raises(StorageError, match="Read-only file system") as caught:
        await engine.save("cat")
    assert (caught.value.key, caught.value.request_id) == ("cat", ID)
