import hashlib
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from scripted import CUT, SILENCE, ScriptedServer, answer, box, mp4

from prefect_xai_video import Retries, Timeouts, XaiVideoClient
from prefect_xai_video.errors import (
    AccessDenied,
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
from prefect_xai_video.requests import TextRequest

ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
KEY = "xai-very-secret"
REQUEST = TextRequest(prompt="A cat")
QUICK = Retries(attempts=3, first_wait=0.01, longest_wait=0.02)
VIDEO = mp4(bytes(range(256)) * 4000)
ACCEPTED = answer("200 OK", json.dumps({"request_id": ID}).encode())
PENDING = answer("202 Accepted")
TOO_MANY = b'{"code":"resource-exhausted","error":"Too many requests for team"}'
MP4 = "Content-Type: video/mp4"


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
async def test_a_post_is_sent_again_where_it_was_surely_refused(refusal):
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
async def test_a_post_of_unknown_outcome_is_never_sent_again(outcome, status):
    error, sent = await start([outcome, ACCEPTED], timeouts=Timeouts(start=0.3))
    assert isinstance(error, SubmissionUnknown)
    assert len(sent) == 1
    assert error.http_status == status
    assert not error.resend_safe
    assert not error.transient


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
async def test_a_refusal_is_told_once_with_what_the_service_said(refusal, kind, text):
    error, sent = await start([refusal, ACCEPTED])
    assert type(error) is kind
    assert text in str(error)
    assert error.resend_safe
    assert len(sent) == 1


async def test_a_refusal_that_quotes_the_prompt_does_not_reach_the_error():
    error, _ = await start([answer("400 Bad Request", b'{"error":"Prompt \'A cat\' is not allowed"}')])
    assert str(error).startswith("xAI rejects the request: Prompt '…' is not allowed")


async def test_a_long_prompt_that_is_quoted_and_cut_does_not_reach_the_error():
    prompt = 'secret "words" ' * 60
    body = json.dumps({"error": f"Invalid prompt: {json.dumps(prompt)}"}).encode()
    with ScriptedServer([answer("400 Bad Request", body)]) as server:
        async with client(server) as xai:
            with pytest.raises(RequestRejected) as caught:
                await xai.start(TextRequest(prompt=prompt))
    assert "words" not in str(caught.value)


async def test_a_retry_after_that_is_no_number_of_seconds_is_ignored():
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


async def test_a_refusal_that_lasts_is_given_up_and_may_be_tried_later():
    error, sent = await start([answer("429 Too Many Requests", TOO_MANY)] * 5)
    assert type(error) is RateLimited
    assert error.transient
    assert len(sent) == QUICK.attempts


async def test_a_retry_after_beyond_patience_ends_the_call_and_is_handed_on():
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
async def test_a_poll_is_repeated_until_it_is_answered(hiccup):
    status, sent = await get([hiccup, hiccup, PENDING])
    assert status.state == "pending"
    assert len(sent) == 3


async def test_a_poll_that_fails_for_good_carries_the_request_id():
    error, sent = await get([answer("500 Internal Server Error")] * 3)
    assert type(error) is ServiceUnavailable
    assert error.request_id == ID
    assert not error.resend_safe
    assert len(sent) == 3


async def test_an_unknown_request_id_is_not_asked_for_again():
    error, sent = await get([answer("404 Not Found", b'{"code":"not-found","error":"?"}'), PENDING])
    assert (type(error), error.http_status, error.request_id) == (RequestRejected, 404, ID)
    assert len(sent) == 1


async def check_key(body, status="200 OK"):
    with ScriptedServer([answer(status, json.dumps(body).encode())] * QUICK.attempts) as server:
        async with client(server) as xai:
            return await xai.check_key()


async def test_a_key_is_checked_for_free():
    assert (await check_key({"name": "team", "acls": ["*"], "team_blocked": False}))["name"] == "team"


async def test_an_answer_that_is_not_xais_is_no_proof_of_a_key():
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


async def test_a_download_is_counted_hashed_and_sent_without_the_key(tmp_path):
    fetched, (sent,) = await download([answer("200 OK", VIDEO, MP4)], tmp_path / "v")
    assert (tmp_path / "v").read_bytes() == VIDEO
    assert (fetched.size, fetched.sha256) == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
    assert fetched.content_type == "video/mp4"
    assert "authorization" not in sent.lower()
    assert KEY not in sent


async def test_a_broken_download_goes_on_where_it_stopped(tmp_path):
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
async def test_a_server_without_ranges_is_asked_for_the_whole_again(tmp_path, headers):
    fetched, _ = await download(
        [answer("200 OK", VIDEO[:5000], *headers, length=len(VIDEO)), answer("200 OK", VIDEO, *headers)],
        tmp_path / "v",
    )
    assert (tmp_path / "v").read_bytes() == VIDEO
    assert fetched.size == len(VIDEO)


async def test_another_part_than_was_asked_for_is_not_taken(tmp_path):
    fetched, _ = await download(
        [
            answer("200 OK", VIDEO[:5000], MP4, 'ETag: "1"', length=len(VIDEO)),
            answer("206 Partial Content", VIDEO[9000:], MP4, 'ETag: "1"', "Content-Range: bytes 9000-1/1"),
            answer("200 OK", VIDEO, MP4),
        ],
        tmp_path / "v",
    )
    assert fetched.sha256 == hashlib.sha256(VIDEO).hexdigest()


async def test_a_download_without_length_is_taken(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConnection: close\r\n\r\n"
    fetched, _ = await download([head + VIDEO], tmp_path / "v")
    assert fetched.size == len(VIDEO)


@pytest.mark.parametrize(
    ("script", "text", "status"),
    [
        ([answer("200 OK", b"<html>", "Content-Type: text/html")], "text/html", None),
        ([answer("200 OK", b"GIF89a....", MP4)] * 3, "no whole MP4 video: it does not begin", None),
        ([answer("200 OK", b"", MP4)] * 3, "no whole MP4 video: it is empty", None),
        ([answer("200 OK", VIDEO[:5000], MP4)] * 3, "it ends within the box at byte 32", None),
        ([answer("200 OK", box(b"ftyp") + box(b"mdat"), MP4)] * 3, "no table of contents", None),
        ([answer("200 OK", box(b"ftyp") + box(b"moov"), MP4)] * 3, "no content", None),
        ([answer("403 Forbidden")], "403", 403),
        ([answer("404 Not Found")], "404", 404),
        ([answer("500 Internal Server Error")] * 3, "500", 500),
        ([answer("200 OK", VIDEO[:50], MP4, length=99)] * 3, "broke after", None),
    ],
)
async def test_what_is_no_whole_video_is_refused(tmp_path, script, text, status):
    error, sent = await download(script, tmp_path / "v")
    assert type(error) is DownloadError
    assert text in str(error)
    assert error.http_status == status
    assert "s3cr3t" not in str(error)
    assert len(sent) == len(script)


async def test_half_a_file_that_http_takes_for_whole_is_fetched_anew(tmp_path):
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
async def test_every_form_of_a_whole_mp4_is_taken(tmp_path, rest):
    fetched, _ = await download([answer("200 OK", box(b"ftyp") + box(b"moov") + rest, MP4)], tmp_path / "v")
    assert fetched.size == 16 + len(rest)


async def test_a_disk_that_takes_no_more_is_a_storage_error(tmp_path):
    error, _ = await download([answer("200 OK", VIDEO, MP4)], Path("/dev/full"))
    assert type(error) is StorageError
    assert "No space left" in str(error)


@pytest.mark.parametrize("base_url", ["http://api.x.ai/v1", "api.x.ai/v1", "ftp://api.x.ai"])
def test_the_key_is_never_sent_in_clear(base_url):
    with pytest.raises(InvalidRequest, match="base_url"):
        XaiVideoClient(KEY, base_url)


@pytest.mark.parametrize("key", ["", "two words", "a\nb", "kéy"])
def test_what_can_not_be_a_key_is_never_sent_nor_repeated(key):
    with pytest.raises(MissingCredentials) as caught:
        XaiVideoClient(key)
    assert not key or key not in str(caught.value)


async def test_a_request_id_can_not_lead_elsewhere():
    with ScriptedServer([answer("404 Not Found")]) as server:
        async with client(server) as xai:
            with pytest.raises(RequestRejected):
                await xai.get("../api-key?\n")
    assert server.requests[0].startswith("GET /v1/videos/..%2Fapi-key%3F%0A HTTP")


async def test_a_base_url_that_is_none_is_a_refusal():
    with pytest.raises(InvalidRequest, match="base_url"):
        XaiVideoClient(KEY, "https://127.0.0.1:port/v1")
