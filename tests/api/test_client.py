import asyncio
import gzip
import hashlib
import json
import logging
import re
import socket
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from prefect_xai_video import Retries, Timeouts, XaiVideoClient
from prefect_xai_video.api.client import Accepted
from prefect_xai_video.api.requests import TextRequest
from prefect_xai_video.errors import (
    AccessDenied,
    ApiError,
    AuthenticationFailed,
    DownloadError,
    InvalidRequest,
    MissingCredentials,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    StorageError,
    SubmissionUnknown,
)

from ..support.scripted import CUT, SILENCE, ScriptedServer, Trickle, answer, box, mp4

ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
KEY = "xai-very-secret"
REQUEST = TextRequest(prompt="A cat")
QUICK = Retries(attempts=3, first_wait=0.01, longest_wait=0.02)
VIDEO = mp4(bytes(range(256)) * 4000)
ACCEPTED = answer("200 OK", json.dumps({"request_id": ID}).encode())
PENDING = answer("202 Accepted")
TOO_MANY = b'{"code":"resource-exhausted","error":"Too many requests for team"}'
MP4 = "Content-Type: video/mp4"
AT = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)
DATE = f"Date: {format_datetime(AT, usegmt=True)}"


def client(server, **options):
    return XaiVideoClient(KEY, f"{server.url}/v1", retries=QUICK, **options)


async def start(script, **options):
    with ScriptedServer(script) as server:
        async with client(server, **options) as xai:
            try:
                return await xai.start(REQUEST), server.requests
            except Exception as error:
                return error, server.requests


async def test_start_sends_the_body_the_key_and_its_version():
    request_id, (sent,) = await start([ACCEPTED])
    assert request_id == ID
    head, _, body = sent.partition("\r\n\r\n")
    assert head.startswith("POST /v1/videos/generations HTTP/1.1")
    assert f"Authorization: Bearer {KEY}" in head
    assert "prefect-xai-video/0." in head
    assert json.loads(body) == {"model": "grok-imagine-video", "prompt": "A cat"}


@pytest.mark.parametrize(
    "refusal",
    [
        answer("429 Too Many Requests", TOO_MANY),
        answer("429 Too Many Requests", TOO_MANY, "Retry-After: 0"),
    ],
)
async def test_a_post_is_retried_if_it_was_certainly_refused(refusal):
    request_id, sent = await start([refusal, refusal, ACCEPTED])
    assert request_id == ID
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (CUT, None),
        (SILENCE, None),
        (answer("500 Internal Server Error", b"{}"), 500),
        (answer("502 Bad Gateway", b"error code: 502"), 502),
        (answer("503 Service Unavailable", b"no Retry-After"), 503),
        (answer("503 Service Unavailable", b"busy", "Retry-After: 0"), 503),
        (answer("307 Temporary Redirect", b"", "Location: http://127.0.0.1:1/"), 307),
        (answer("307 Temporary Redirect", b"", "Location: https://[::1"), 307),
        (answer("409 Conflict"), 409),
        (answer("425 Too Early"), 425),
        (answer("499 Client Closed Request"), 499),
        (answer("504 Gateway Timeout"), 504),
        (answer("408 Request Timeout"), 408),
        (answer("200 OK", b"<html>"), 200),
        (answer("200 OK", b'{"request_id":null}'), 200),
        (answer("200 OK", ACCEPTED, length=10_000), 200),
        (b"no HTTP at all\r\n\r\n", None),
        (answer("200 OK", b"no gzip", "Content-Encoding: gzip"), 200),
    ],
)
async def test_a_post_of_unknown_outcome_is_never_retried(outcome, status):
    error, sent = await start([outcome, ACCEPTED], timeouts=Timeouts(start=0.3))
    assert isinstance(error, SubmissionUnknown)
    assert len(sent) == 1
    assert error.http_status == status
    assert not error.resend_safe
    assert not error.transient


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"abc-1"}',
        b'{"request_id":7100001}',
        b'{"data":{"request_id":"abc-1"}}',
        b'{"request_id":["abc-1"]}',
        b'"abc-1"',
        b'{"request_id":"abc-1","status":"pen',
        b"request abc-1 was accepted",
    ],
)
async def test_an_unparsable_response_is_kept_because_it_may_hold_a_request_id(body):
    for length in len(body), 10_000:
        reply = answer("200 OK", body, "x-request-id: trace-1", DATE, length=length)
        error, sent = await start([reply, ACCEPTED])
        assert type(error) is SubmissionUnknown
        assert len(sent) == 1
        assert error.answer == body.decode()
        assert (error.http_status, error.trace_id, error.at) == (200, "trace-1", AT)
        assert body.decode() in str(error).replace("\\", "")


@pytest.mark.parametrize("status", ["500 Internal Server Error", "409 Conflict", "302 Found"])
async def test_the_response_of_an_unknown_outcome_is_kept(status):
    error, _ = await start([answer(status, b'{"request_id":"abc-1"}', "x-request-id: trace-1")])
    assert type(error) is SubmissionUnknown
    assert (error.answer, error.trace_id) == ('{"request_id":"abc-1"}', "trace-1")


@pytest.mark.parametrize("packed", [False, True])
async def test_a_complete_request_id_counts_although_the_connection_broke(packed):
    body = json.dumps({"request_id": ID}).encode()
    headers = ["Content-Encoding: gzip"] if packed else []
    request_id, _ = await start([answer("200 OK", gzip.compress(body) if packed else body, *headers, length=10_000)])
    assert request_id == ID


HUGE = b'{"request_id":"abc-1","padding":"' + b"a " * 10**6
"""More than is read of any response."""


@pytest.mark.parametrize(("body", "headers"), [(HUGE, []), (gzip.compress(HUGE), ["Content-Encoding: gzip"])])
async def test_a_huge_response_to_a_post_has_unknown_outcome_and_its_beginning_is_kept(body, headers):
    error, _ = await start([answer("200 OK", body, *headers)])
    assert type(error) is SubmissionUnknown
    assert error.answer.startswith('{"request_id":"abc-1"')
    assert len(error.answer) == 500


async def test_an_endless_response_to_a_post_is_given_up():
    with ScriptedServer([Trickle(b"HTTP/1.1 200 OK\r\n\r\n", b" ")]) as server:
        async with client(server, timeouts=Timeouts(start=0.3)) as xai:
            with pytest.raises(SubmissionUnknown, match=r"the response took more than 0\.3 s"):
                await asyncio.to_thread(xai.submit, REQUEST)


@pytest.mark.parametrize("body", [HUGE, gzip.compress(HUGE)])
async def test_a_huge_response_to_a_poll_is_refused(body):
    headers = ["Content-Encoding: gzip"] if body != HUGE else []
    error, sent = await get([answer("200 OK", body, *headers)] * 3)
    assert type(error) is ServiceUnavailable
    assert error.request_id == ID
    assert "more than 262144 bytes" in str(error)
    assert len(sent) == 3


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\na: "])
async def test_an_endless_response_to_a_poll_is_given_up(head):
    with ScriptedServer([Trickle(head, b" ")] * 3) as server:
        async with client(server, timeouts=Timeouts(connect=0.1, get=0.2)) as xai:
            with pytest.raises(ServiceUnavailable, match=r"(timed out after|took more than) 0\.[23] s"):
                await xai.get(ID)


async def test_an_accepted_post_reports_its_time_and_trace_id():
    reply = answer("200 OK", json.dumps({"request_id": ID}).encode(), "x-request-id: trace-1", DATE)
    with ScriptedServer([reply]) as server:
        async with client(server) as xai:
            accepted = await asyncio.to_thread(xai.submit, REQUEST, client_request_id="claim-1")
    assert accepted == Accepted(ID, "trace-1", AT)
    assert "x-client-request-id: claim-1\r\n" in server.requests[0]


async def test_a_refusal_reports_its_time_and_trace_id():
    error, _ = await start([answer("400 Bad Request", b"{}", "x-request-id: trace-1", DATE)])
    assert (error.trace_id, error.at) == ("trace-1", AT)


async def test_every_call_has_a_client_request_id():
    me = answer("200 OK", b'{"team_id":"t"}')
    key = answer("200 OK", b'{"name":"k"}')
    with ScriptedServer([ACCEPTED, PENDING, PENDING, key, me], me=None) as server:
        async with client(server) as xai:
            await xai.start(REQUEST)
            await xai.get(ID)
            await xai.get(ID, client_request_id="claim-1")
            await xai.check_key()
            await xai.me()
    ids = [re.search(r"x-client-request-id: (\S+)", sent)[1] for sent in server.requests]
    assert len(set(ids)) == 5
    assert ids[2] == "claim-1"


async def test_before_send_is_called_once_connected_and_can_prevent_the_post():
    def forbid():
        connected.append(server.accepted.wait(60))
        raise StorageError("The claim was given up.")

    connected = []
    with ScriptedServer([ACCEPTED]) as server:
        async with client(server) as xai:
            with pytest.raises(StorageError, match="given up"):
                await asyncio.to_thread(xai.submit, REQUEST, before_send=forbid)
            assert (await asyncio.to_thread(xai.submit, REQUEST)).request_id == ID
    assert connected == [True]
    assert server.received.count(b"POST") == 1


async def test_the_owner_of_the_key_is_queried_without_retries():
    with ScriptedServer([answer("200 OK", b'{"team_id":"team-1","user_id":null}'), CUT], me=None) as server:
        async with client(server) as xai:
            assert await xai.me() == {"team_id": "team-1", "user_id": None}
            with pytest.raises(ServiceUnavailable):
                await xai.me()
    assert [sent.split(" HTTP")[0] for sent in server.requests] == ["GET /v1/me"] * 2


@pytest.mark.parametrize("reply", [answer("404 Not Found"), answer("200 OK", b"[]"), SILENCE])
async def test_an_unknown_owner_of_the_key_is_an_error(reply, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.api.client.ME_SECONDS", 0.3)
    with ScriptedServer([reply]) as server:
        async with client(server) as xai:
            with pytest.raises(ApiError):
                await xai.me()


ECHO = KEY.replace("-", "\\u002d")
"""The API key as JSON may write it."""


@pytest.mark.parametrize(
    "reply",
    [
        answer("400 Bad Request", b'{"error":"' + ECHO.encode() + b'"}'),
        answer("400 Bad Request", b'{"error":"No","code":"' + ECHO.encode() + b'"}'),
        answer("400 Bad Request", b'{"error":{"message":"No","type":"' + KEY.encode() + b'"}}'),
        answer(f"400 {KEY}"),
        answer("400 Bad Request", b"No", f"x-request-id: {KEY}"),
        answer("200 OK", b'{"request_id":"' + ECHO.encode() + b'"}'),
        answer("200 OK", b'{"id":"' + ECHO.encode() + b'"}'),
        answer("200 OK", KEY.encode(), f"Content-Encoding: {KEY}"),
        f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
        f"{KEY} HTTP/1.1\r\n\r\n".encode(),
    ],
)
async def test_an_echoed_key_reaches_neither_error_nor_log(reply, caplog):
    caplog.set_level(logging.INFO)
    for error, _ in await start([reply]), await get([reply] * 3):
        said = repr(vars(error)) + str(error)
        assert "very" not in said
        if isinstance(error, Exception):
            said += "".join(traceback.format_exception(error))
        assert KEY not in said + caplog.text


async def test_an_echoed_key_reaches_no_status():
    body = {"status": "failed", "error": {"code": KEY, "message": f"Bad {KEY}"}, "model": KEY}
    status, _ = await get([answer("200 OK", json.dumps(body).encode())])
    assert KEY not in repr(status)
    assert (status.code, status.message, status.model) == ("***", "Bad ***", "***")


async def test_an_echoed_key_reaches_no_facts():
    with ScriptedServer([answer("200 OK", json.dumps({"name": KEY, "acls": [{KEY: [KEY, 1]}]}).encode())]) as server:
        async with client(server) as xai:
            assert await xai.check_key() == {"name": "***", "acls": [{"***": ["***", 1]}]}


@pytest.mark.parametrize(
    ("refusal", "kind", "text"),
    [
        (
            answer("401 Unauthorized", b'{"code":"unauthenticated","error":"Bad credentials"}'),
            AuthenticationFailed,
            "Bad",
        ),
        (
            answer("400 Bad Request", b'{"error":"Incorrect API key provided: xa***"}'),
            AuthenticationFailed,
            "API key",
        ),
        (answer("400 Bad Request", b'{"code":"invalid-argument","error":"No"}'), RequestRejected, "No"),
        (
            answer("403 Forbidden", b'{"code":"permission-denied","error":"used all available credits"}'),
            AccessDenied,
            "credits",
        ),
        (answer("404 Not Found", b'{"error":{"code":404,"message":"No route"}}'), RequestRejected, "No route"),
        (answer("405 Method Not Allowed"), RequestRejected, "Method Not Allowed"),
        (answer("415 Unsupported Media Type"), RequestRejected, "Unsupported"),
        (answer("422 Unprocessable Entity", b"Failed to deserialize the JSON body"), RequestRejected, "deserialize"),
        (answer("413 Payload Too Large"), RequestRejected, "Payload"),
    ],
)
async def test_a_refusal_is_raised_at_once_with_the_text_of_xai(refusal, kind, text):
    error, sent = await start([refusal, ACCEPTED])
    assert type(error) is kind
    assert text in str(error)
    assert error.resend_safe
    assert len(sent) == 1


async def test_a_refusal_that_quotes_the_prompt_does_not_reach_the_error():
    error, _ = await start([answer("400 Bad Request", b'{"error":"Prompt \'A cat\' is not allowed"}')])
    assert str(error).startswith("xAI rejected the request: Prompt '…' is not allowed")


async def test_a_long_prompt_that_is_quoted_and_cut_does_not_reach_the_error():
    prompt = 'secret "words" ' * 60
    body = json.dumps({"error": f"Invalid prompt: {json.dumps(prompt)}"}).encode()
    with ScriptedServer([answer("400 Bad Request", body)]) as server:
        async with client(server) as xai:
            with pytest.raises(RequestRejected) as caught:
                await xai.start(TextRequest(prompt=prompt))
    assert "words" not in str(caught.value)


async def test_a_retry_after_that_is_not_a_number_is_ignored():
    request_id, _ = await start([answer("429 Too Many Requests", TOO_MANY, "Retry-After: nan"), ACCEPTED])
    assert request_id == ID


async def test_a_refusal_that_repeats_the_key_does_not_reach_the_error():
    error, _ = await start([answer("401 Unauthorized", f'{{"error":"Bad key {KEY}"}}'.encode())])
    assert KEY not in str(error)


async def test_without_a_connection_nothing_was_sent():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with XaiVideoClient(KEY, f"http://127.0.0.1:{port}/v1", retries=QUICK) as xai:
        with pytest.raises(ServiceUnavailable) as caught:
            await xai.start(REQUEST)
    assert caught.value.resend_safe
    assert caught.value.transient


async def test_a_lasting_refusal_is_given_up_and_may_be_retried_later():
    error, sent = await start([answer("429 Too Many Requests", TOO_MANY)] * 5)
    assert type(error) is RateLimited
    assert error.transient
    assert len(sent) == QUICK.attempts


async def test_a_retry_after_that_is_too_long_ends_the_call_and_is_passed_on():
    error, sent = await start([answer("429 Too Many Requests", TOO_MANY, "Retry-After: 3600"), ACCEPTED])
    assert error.retry_after == 3600
    assert not error.transient
    assert len(sent) == 1


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_retry_after_date_is_read_by_the_clock_of_the_server(days):
    now = datetime.now(UTC) + timedelta(days=days)
    dates = f"Date: {format_datetime(now, True)}", f"Retry-After: {format_datetime(now + timedelta(hours=1), True)}"
    error, _ = await start([answer("429 Too Many Requests", TOO_MANY, *dates)])
    assert error.retry_after == 3600


async def test_a_retry_after_may_be_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=1000), usegmt=True)
    error, _ = await start([answer("429 Too Many Requests", TOO_MANY, f"Retry-After: {later}")])
    assert 990 < error.retry_after <= 1000


async def get(script, **options):
    with ScriptedServer(script) as server:
        async with client(server, **options) as xai:
            try:
                return await xai.get(ID), server.requests
            except Exception as error:
                return error, server.requests


@pytest.mark.parametrize(
    "hiccup",
    [
        CUT,
        answer("429 Too Many Requests", TOO_MANY),
        answer("500 Internal Server Error", b"{}"),
        answer("502 Bad Gateway", b"error code: 502"),
        answer("503 Service Unavailable"),
        answer("200 OK", b"<html>"),
        answer("200 OK"),
    ],
)
async def test_a_poll_is_retried_until_it_succeeds(hiccup):
    status, sent = await get([hiccup, hiccup, PENDING])
    assert status.state == "pending"
    assert len(sent) == 3


async def test_the_error_of_a_failed_poll_has_the_request_id():
    error, sent = await get([answer("500 Internal Server Error")] * 3)
    assert type(error) is ServiceUnavailable
    assert error.request_id == ID
    assert not error.resend_safe
    assert len(sent) == 3


async def test_a_poll_of_an_unknown_request_id_is_not_retried():
    error, sent = await get([answer("404 Not Found", b'{"code":"not-found","error":"?"}'), PENDING])
    assert (type(error), error.http_status, error.request_id) == (RequestRejected, 404, ID)
    assert len(sent) == 1


async def check_key(body, status="200 OK"):
    with ScriptedServer([answer(status, json.dumps(body).encode())] * QUICK.attempts) as server:
        async with client(server) as xai:
            return await xai.check_key()


async def test_checking_a_key_costs_nothing():
    assert (await check_key({"name": "team", "acls": ["*"], "team_blocked": False}))["name"] == "team"


async def test_a_response_that_is_not_from_xai_does_not_confirm_a_key():
    with pytest.raises(ServiceUnavailable, match="base URL"):
        await check_key({"hello": "world"})


async def test_a_blocked_key_is_an_error():
    with pytest.raises(AuthenticationFailed, match="api_key_disabled"):
        await check_key({"api_key_disabled": True})
    with pytest.raises(AuthenticationFailed):
        await check_key({"error": "Invalid"}, "401 Unauthorized")


async def download(script, path, **options):
    with ScriptedServer(script) as server:
        async with client(server, **options) as xai:
            try:
                return await xai.download(f"{server.url}/video.mp4?signature=s3cr3t", path), server.requests
            except Exception as error:
                return error, server.requests


async def test_a_download_has_size_and_digest_and_sends_no_key(tmp_path):
    fetched, (sent,) = await download([answer("200 OK", VIDEO, MP4)], tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == VIDEO
    assert (fetched.size, fetched.sha256) == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
    assert fetched.content_type == "video/mp4"
    assert "authorization" not in sent.lower()
    assert KEY not in sent


async def test_a_broken_download_resumes_where_it_stopped(tmp_path):
    half = len(VIDEO) // 2
    rest = f"Content-Range: bytes {half}-{len(VIDEO) - 1}/{len(VIDEO)}"
    fetched, sent = await download(
        [
            answer("200 OK", VIDEO[:half], MP4, 'ETag: "1"', length=len(VIDEO)),
            answer("206 Partial Content", VIDEO[half:], MP4, 'ETag: "1"', rest),
        ],
        tmp_path / "v",
    )
    assert (tmp_path / "v").read_bytes() == VIDEO
    assert fetched.sha256 == hashlib.sha256(VIDEO).hexdigest()
    assert f"range: bytes={half}-" in sent[1].lower()
    assert 'if-range: "1"' in sent[1].lower()


@pytest.mark.parametrize("headers", [[MP4], [MP4, 'ETag: "1"']])
async def test_a_download_from_a_server_without_ranges_starts_over(tmp_path, headers):
    fetched, _ = await download(
        [answer("200 OK", VIDEO[:5000], *headers, length=len(VIDEO)), answer("200 OK", VIDEO, *headers)],
        tmp_path / "v",
    )
    assert (tmp_path / "v").read_bytes() == VIDEO
    assert fetched.size == len(VIDEO)


async def test_a_part_that_was_not_requested_is_rejected(tmp_path):
    fetched, _ = await download(
        [
            answer("200 OK", VIDEO[:5000], MP4, 'ETag: "1"', length=len(VIDEO)),
            answer("206 Partial Content", VIDEO[9000:], MP4, 'ETag: "1"', "Content-Range: bytes 9000-1/1"),
            answer("200 OK", VIDEO, MP4),
        ],
        tmp_path / "v",
    )
    assert fetched.sha256 == hashlib.sha256(VIDEO).hexdigest()


@pytest.mark.parametrize(
    ("etag", "total"), [('"2"', len(VIDEO)), ('"1"', len(VIDEO) + 1), ('"1"', 10**30), ('"1"', "many")]
)
async def test_a_part_of_another_file_is_rejected(tmp_path, etag, total):
    part = f"Content-Range: bytes 5000-{len(VIDEO) - 1}/{total}"
    fetched, sent = await download(
        [
            answer("200 OK", bytes(5000), MP4, 'ETag: "1"', length=len(VIDEO)),
            answer("206 Partial Content", VIDEO[5000:], MP4, f"ETag: {etag}", part),
            answer("200 OK", VIDEO, MP4),
        ],
        tmp_path / "v",
    )
    assert fetched.sha256 == hashlib.sha256(VIDEO).hexdigest()
    assert "range: " not in sent[2].lower()


async def test_a_file_without_a_strong_etag_is_downloaded_as_a_whole(tmp_path):
    half = answer("200 OK", VIDEO[:5000], MP4, 'ETag: W/"1"', length=len(VIDEO))
    _, sent = await download([half, answer("200 OK", VIDEO, MP4)], tmp_path / "v")
    assert "range: " not in sent[1].lower()


@pytest.mark.parametrize("rest", [b"\r\n", bytes(7), bytes(8), bytes(5000), b"\r\n\r\n\r\n\r\n", b"\xff" * 100])
async def test_trailing_bytes_that_are_not_a_box_are_tolerated(tmp_path, rest):
    fetched, _ = await download([answer("200 OK", mp4(b"media") + rest, MP4)], tmp_path / "v")
    assert fetched.size == len(mp4(b"media") + rest)


@pytest.mark.parametrize("rest", [box(b"moof", b"cut")[:-1], b"\xff" * 2000, box(b"free") * 10_000])
async def test_a_truncated_box_and_too_many_boxes_are_rejected(tmp_path, rest):
    error, _ = await download([answer("200 OK", mp4(b"media") + rest, MP4)] * 3, tmp_path / "v")
    assert "not a complete MP4 video" in str(error)


@pytest.mark.parametrize("length", [f"Content-Length: {len(VIDEO)}", "X-Length: none"])
async def test_a_video_above_the_limit_is_not_downloaded(tmp_path, length):
    reply = f"HTTP/1.1 200 OK\r\n{MP4}\r\n{length}\r\nConnection: close\r\n\r\n".encode() + VIDEO
    error, sent = await download([reply, reply], tmp_path / "v", max_download_bytes=100_000)
    assert type(error) is DownloadError
    assert "more than 100000 bytes" in str(error)
    assert not error.transient
    assert len(sent) == 1
    assert (tmp_path / "v").stat().st_size <= 100_000


async def test_a_download_as_a_whole_has_a_deadline(tmp_path):
    slow = Trickle(answer("200 OK", b"", MP4, length=10**6), b" ")
    error, _ = await download([slow], tmp_path / "v", timeouts=Timeouts(download_total=0.3))
    assert type(error) is DownloadError
    assert "took more than 0.3 s" in str(error)
    assert error.transient


async def test_a_retry_after_of_a_day_ends_a_download(tmp_path):
    busy = answer("503 Service Unavailable", b"", "Retry-After: 86400")
    error, sent = await download([busy, busy], tmp_path / "v")
    assert (error.http_status, error.retry_after, error.transient) == (503, 86400, False)
    assert len(sent) == 1


FORBIDDEN = [
    "http://vidgen.x.ai/v.mp4",
    "https://localhost/v.mp4",
    "https://127.0.0.1/v.mp4",
    "https://127.1.2.3/v.mp4",
    "https://[::1]/v.mp4",
    "https://10.0.0.1/v.mp4",
    "https://172.16.0.1/v.mp4",
    "https://192.168.1.1/v.mp4",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/v.mp4",
    "https://0.0.0.0/v.mp4",
    "https://224.0.0.1/v.mp4",
    "https://[fe80::1]/v.mp4",
    "https://[fd00::1]/v.mp4",
    "https://[::ffff:10.0.0.1]/v.mp4",
    "https://[64:ff9b::a00:1]/v.mp4",
    "https://[2002:a00:1::]/v.mp4",
    "https://[::1/v.mp4",
    "ftp://vidgen.x.ai/v.mp4",
    "file:///etc/passwd",
    "data:video/mp4;base64,AAAA",
]


@pytest.mark.parametrize("url", FORBIDDEN)
@pytest.mark.parametrize("redirected", [False, True])
async def test_a_download_may_not_lead_to_private_addresses(tmp_path, url, redirected):
    def redirect(request):
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": url})

    asked = []
    async with XaiVideoClient(KEY, transport=httpx.MockTransport(redirect)) as xai:
        with pytest.raises(DownloadError) as caught:
            await xai.download("https://vidgen.x.ai/v.mp4" if redirected else url, tmp_path / "v")
    assert not caught.value.transient
    assert asked == ["vidgen.x.ai"] * redirected


async def test_a_download_follows_a_few_redirects(tmp_path):
    def redirect(request):
        asked.append(str(request.url))
        if len(asked) > hops:
            return httpx.Response(200, stream=httpx.ByteStream(VIDEO), headers={"Content-Type": "video/mp4"})
        return httpx.Response(307, headers={"Location": ["/next", "https://8.8.8.8/v?sig=s3cr3t"][len(asked) % 2]})

    async with XaiVideoClient(KEY, transport=httpx.MockTransport(redirect)) as xai:
        asked, hops = [], 5
        assert (await xai.download("https://vidgen.x.ai/v", tmp_path / "v")).size == len(VIDEO)
        assert asked[1:3] == ["https://8.8.8.8/v?sig=s3cr3t", "https://8.8.8.8/next"]
        asked, hops = [], 6
        with pytest.raises(DownloadError, match="redirected more than 5 times") as caught:
            await xai.download("https://vidgen.x.ai/v", tmp_path / "v")
    assert not caught.value.transient


async def test_a_download_from_this_machine_needs_an_api_on_this_machine(tmp_path):
    with ScriptedServer([answer("200 OK", VIDEO, MP4)]) as other:
        redirect = answer("302 Found", b"", f"Location: {other.url.replace('127.0.0.1', 'localhost')}/v")
        fetched, _ = await download([redirect], tmp_path / "v")
    assert fetched.size == len(VIDEO)
    error, _ = await download([answer("302 Found", b"", "Location: https://10.0.0.1/v")], tmp_path / "v")
    assert "its address is not public" in str(error)


@pytest.mark.parametrize(
    ("api", "said"), [("https://api.x.ai/v1", "not public"), ("https://videos.test/v1", "broke")]
)
async def test_a_host_name_is_checked_by_the_address_of_the_connection(tmp_path, monkeypatch, api, said):
    """Only the API's own host, which the user has chosen, may be in a private network."""

    def resolve(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with ScriptedServer([CUT] * 3) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        async with XaiVideoClient(KEY, api, retries=Retries(attempts=1), timeouts=Timeouts(connect=0.3)) as xai:
            with pytest.raises(DownloadError, match=said):
                await xai.download(server.url.replace("http://127.0.0.1", "https://videos.test"), tmp_path / "v")
        if said == "not public":
            assert server.received == b""


async def test_a_download_without_length_is_accepted(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close\r\n\r\n"
    fetched, _ = await download([head + VIDEO], tmp_path / "v")
    assert fetched.size == len(VIDEO)


@pytest.mark.parametrize(
    ("script", "text", "status"),
    [
        ([answer("200 OK", b"<html>", "Content-Type: text/html")], "text/html", None),
        ([answer("200 OK", b"GIF89a....", MP4)] * 3, "not a complete MP4 video: it does not begin", None),
        ([answer("200 OK", b"", MP4)] * 3, "not a complete MP4 video: it is empty", None),
        ([answer("200 OK", VIDEO[:5000], MP4)] * 3, "it is cut off in the box at byte 32", None),
        ([answer("200 OK", box(b"ftyp") + box(b"mdat"), MP4)] * 3, "it has no index", None),
        ([answer("200 OK", box(b"ftyp") + box(b"moov"), MP4)] * 3, "it has no media data", None),
        ([answer("403 Forbidden")], "403", 403),
        ([answer("404 Not Found")], "404", 404),
        ([answer("500 Internal Server Error")] * 3, "500", 500),
        ([answer("200 OK", VIDEO[:50], MP4, length=99)] * 3, "broke off after", None),
    ],
)
async def test_an_incomplete_video_is_rejected(tmp_path, script, text, status):
    error, sent = await download(script, tmp_path / "v")
    assert type(error) is DownloadError
    assert text in str(error)
    assert error.http_status == status
    assert "s3cr3t" not in str(error)
    assert len(sent) == len(script)


@pytest.mark.parametrize(
    "reply",
    [
        answer("200 OK", b"", f"Content-Type: {KEY}"),
        answer("200 OK", b"", f"Content-Type: text/{KEY.upper()}"),
        answer("200 OK", b"", f"Content-Type: text/{KEY.replace('-', '%2d')}"),
        answer("200 OK", b"", "Content-Type: https://vidgen.x.ai/v?X-Amz-Signature=very"),
        answer("302 Found", b"", f"Location: http://{KEY}.example.com/v"),
        answer("302 Found", b"", f"Location: http://{KEY}/v"),
        answer("302 Found", b"", "Location: http://x-amz-signature=very.example.com/v"),
        answer("302 Found", b"", f"Location: https://[::{KEY}"),
        f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
        f"{KEY} HTTP/1.1\r\n\r\n".encode(),
        b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\r\n\r\n",
    ],
)
async def test_a_secret_echoed_by_a_download_reaches_neither_error_nor_log(tmp_path, reply, caplog):
    caplog.set_level(logging.INFO)
    error, _ = await download([reply] * 3, tmp_path / "v")
    assert isinstance(error, DownloadError)
    assert "very" not in repr(vars(error)) + "".join(traceback.format_exception(error)).lower() + caplog.text.lower()


async def test_a_secret_in_the_host_of_a_video_does_not_reach_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    transport = httpx.MockTransport(lambda request: httpx.Response(403))
    async with XaiVideoClient(KEY, transport=transport) as xai:
        with pytest.raises(DownloadError, match="HTTP 403"):
            await xai.download(f"https://{KEY}.example.com/v.mp4", tmp_path / "v")
    assert ".example.com" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("name", [KEY, "webm; codecs=x", KEY.replace("-", "%2d"), "x" * 200, "a b"])
async def test_only_a_well_formed_content_type_is_kept(tmp_path, name):
    fetched, _ = await download([answer("200 OK", VIDEO, f"Content-Type: video/{name}")], tmp_path / "v")
    assert fetched.content_type == ("video/webm" if name.startswith("webm") else "video/mp4")


@pytest.mark.parametrize("echo", [KEY, KEY.replace("-", "%2D"), KEY.replace("-", "%252D")])
async def test_a_url_that_contains_the_key_is_ignored(echo):
    body = {"status": "done", "video": {"url": f"https://vidgen.x.ai/{echo}.mp4"}}
    status, _ = await get([answer("200 OK", json.dumps(body).encode())])
    assert (status.state, status.url) == ("done", None)


async def test_an_incomplete_file_with_a_matching_length_is_downloaded_again(tmp_path):
    half = answer("200 OK", VIDEO[:5000], MP4, 'ETag: "1"')
    fetched, sent = await download([half, answer("200 OK", VIDEO, MP4)], tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == VIDEO
    assert fetched.sha256 == hashlib.sha256(VIDEO).hexdigest()
    assert "range: " not in sent[1].lower()


@pytest.mark.parametrize(
    "rest",
    [
        (1).to_bytes(4, "big") + b"mdat" + (16 + 5).to_bytes(8, "big") + b"media",
        (0).to_bytes(4, "big") + b"mdat" + b"media",
        box(b"mdat") + b"junk",
    ],
)
async def test_every_form_of_a_complete_mp4_is_accepted(tmp_path, rest):
    fetched, _ = await download([answer("200 OK", box(b"ftyp") + box(b"moov") + rest, MP4)], tmp_path / "v")
    assert fetched.size == 16 + len(rest)


async def test_a_full_disk_is_a_storage_error(tmp_path):
    error, _ = await download([answer("200 OK", VIDEO, MP4)], Path("/dev/full"))
    assert type(error) is StorageError
    assert "No space left" in str(error)


@pytest.mark.parametrize(
    "base_url", ["http://api.x.ai/v1", "api.x.ai/v1", "ftp://api.x.ai", "https://api.x.ai:port", "https:///v1"]
)
def test_the_key_is_never_sent_unencrypted(base_url):
    with pytest.raises(InvalidRequest, match="base_url"):
        XaiVideoClient(KEY, base_url)


@pytest.mark.parametrize("key", ["", "two words", "a\nb", "kéy"])
def test_an_invalid_key_is_neither_sent_nor_repeated(key):
    with pytest.raises(MissingCredentials) as caught:
        XaiVideoClient(key)
    assert not key or key not in str(caught.value)


async def test_a_request_id_can_not_change_the_path():
    with ScriptedServer([answer("404 Not Found")]) as server:
        async with client(server) as xai:
            with pytest.raises(RequestRejected):
                await xai.get("../api-key?\n")
    assert server.requests[0].startswith("GET /v1/videos/..%2Fapi-key%3F%0A HTTP")


async def test_an_invalid_base_url_is_rejected():
    with pytest.raises(InvalidRequest, match="base_url"):
        XaiVideoClient(KEY, "https://127.0.0.1:port/v1")


@pytest.mark.parametrize("rest", ["v1?token=s3cr3t", "v1#s3cr3t", "v1?"])
@pytest.mark.parametrize("user", ["", "s3cr3t:s3cr3t@"])
def test_a_base_url_may_not_contain_secrets(user, rest):
    with pytest.raises(InvalidRequest, match="base_url") as caught:
        XaiVideoClient(KEY, f"https://{user}api.x.ai/{rest if not user else 'v1'}")
    assert "s3cr3t" not in str(caught.value)
