"""The client of the Files API."""

import json
import logging
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.files import parse_file
from prefect_xai_video.api.redaction import Redaction
from prefect_xai_video.errors import ApiError, DownloadError, RequestRejected, ServiceUnavailable

from ..support.scripted import CUT, ScriptedServer, answer, mp4

KEY = "xai-very-secret"
QUICK = Retries(attempts=3, first_wait=0.01, longest_wait=0.02)
NAME = "prefect-xai-video-0.mp4"
MP4 = "Content-Type: video/mp4"


def client(server):
    return XaiVideoClient(KEY, f"{server.url}/v1", retries=QUICK)


def page(*names, token="next", **fields):
    data = [{"id": f"file_{name}", "filename": name} | fields for name in names]
    return answer("200 OK", json.dumps({"data": data, "pagination_token": token}).encode())


async def result(script, call):
    with ScriptedServer(script) as server:
        async with client(server) as xai:
            try:
                return await call(xai.files), server
            except ApiError as error:
                return error, server


def query(request):
    return {name: value for name, [value] in parse_qs(urlsplit(request.split()[1]).query).items()}


async def test_only_the_exact_name_counts_however_many_pages_it_takes():
    similar = [f"prefect-xai-video-0{number}.mp4" for number in range(100)]
    found, server = await result([page(*similar), page(*similar[1:], NAME)], lambda files: files.find(NAME))
    assert found.id == f"file_{NAME}"
    first, second = map(query, server.requests)
    assert first == {"limit": "100", "order": "desc", "sort_by": "created_at", "filter": f'name:"{NAME}"'}
    assert second == first | {"pagination_token": "next"}


@pytest.mark.parametrize(
    "script",
    [
        [page()],
        [answer("200 OK", b'{"pagination_token": "next"}')],
        [page(*["other"] * 99)],
        # The token is always there; one that does not go on ends the listing.
        [page(*["other"] * 100), page(*["other"] * 100)],
        [page(*["other"] * 100, token=None)],
        [answer("200 OK", json.dumps({"data": [None, {"filename": NAME}, {"id": KEY, "filename": NAME}]}).encode())],
        [answer("500 Oops"), CUT, page("other")],
    ],
)
async def test_a_listing_without_the_name_ends_without_a_file(script):
    found, server = await result(script, lambda files: files.find(NAME))
    assert found is None
    assert len(server.requests) == len(script)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([answer("200 OK", b"<html>")] * 3, ServiceUnavailable),
        ([answer("200 OK", b'{"data": 7}')] * 3, ServiceUnavailable),
        ([answer("502 Bad Gateway")] * 3, ServiceUnavailable),
        ([answer("400 Bad Request", b'{"code":"invalid-argument","error":"no"}')], RequestRejected),
    ],
)
async def test_a_listing_that_can_not_be_read_is_an_error_and_not_an_empty_one(script, kind):
    error, _ = await result(script, lambda files: files.find(NAME))
    assert type(error) is kind


async def test_errors_do_not_repeat_the_api_key():
    body = json.dumps({"code": KEY, "error": f"Incorrect API key {KEY}"}).encode()
    error, _ = await result([answer("401 Unauthorized", body)], lambda files: files.get("file_1"))
    assert KEY not in f"{error} {error.code}"


async def test_an_upload_has_its_lifetime_before_its_content(emulator):
    async with XaiVideoClient("xai-secret-key", emulator.base_url) as xai:
        with pytest.raises(ApiError):
            await xai.files.upload("cat.png", b"content", "image/png", 3600)
    with ScriptedServer([answer("200 OK", b'{"id": "file_1", "filename": "cat.png", "bytes": "7"}')]) as server:
        async with client(server) as xai:
            file = await xai.files.upload("cat.png", b"content", "image/png", 3600)
    assert (file.id, file.size) == ("file_1", 7)
    assert server.received.index(b'name="expires_after"') < server.received.index(b'name="file"')


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "404 Not Found"])
async def test_a_file_that_is_gone_counts_as_deleted(status):
    done, server = await result([answer(status)], lambda files: files.delete("file/1"))
    assert done is None
    (request,) = server.requests
    assert request.startswith("DELETE /v1/files/file%2F1 HTTP/1.1\r\n")


async def test_the_key_goes_with_a_content_and_not_with_its_redirect(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with ScriptedServer([answer("200 OK", mp4(b"cat"), MP4)]) as elsewhere:
        moved = answer("302 Found", b"", f"Location: {elsewhere.url}/cat.mp4?X-Amz-Signature=abc")
        with ScriptedServer([moved]) as server:
            async with client(server) as xai:
                fetched = await xai.files.content("file_1", tmp_path / "cat.mp4")
    assert fetched.size == len(mp4(b"cat"))
    assert [request.partition("\r\n")[0] for request in server.requests] == ["GET /v1/files/file_1/content HTTP/1.1"]
    assert f"Bearer {KEY}".encode() in server.received
    assert KEY.encode() not in elsewhere.received
    assert KEY not in caplog.text
    assert "X-Amz" not in caplog.text


async def test_a_content_is_checked_like_a_download(tmp_path):
    for reply in (answer("200 OK", b"not a video", MP4), answer("404 Not Found")):
        with ScriptedServer([reply] * 3) as server:
            async with client(server) as xai:
                with pytest.raises(DownloadError):
                    await xai.files.content("file_1", tmp_path / "cat.mp4")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bytes": 7, "created_at": 1_800_000_000}, (7, datetime(2027, 1, 15, 8, tzinfo=UTC), None)),
        ({"size": "7", "created_at": "2027-01-15T08:00:00Z"}, (7, datetime(2027, 1, 15, 8, tzinfo=UTC), None)),
        ({"bytes": -1, "created_at": 10**39, "public_url": "ftp://x"}, (None, None, None)),
        ({"bytes": True, "created_at": "soon", "public_url": f"https://x/{KEY}"}, (None, None, None)),
        ({"public_url": "https://files.x.ai/cat.mp4"}, (None, None, "https://files.x.ai/cat.mp4")),
    ],
)
def test_facts_that_are_not_understood_are_left_out(fields, expected):
    file = parse_file({"id": "file_1", "filename": NAME} | fields, Redaction(KEY))
    assert (file.size, file.created_at, file.public_url) == expected
