"""Downloads that break off, are something else, or come from somewhere else."""

import socket
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from .emulator_api import faulty, frames_of


def ordinary(api, url):
    """The whole video, once its faults have happened."""
    response = api.anonymous.get(url)
    assert response.status_code == 200
    assert len(response.content) == int(response.headers["Content-Length"]) > 10_000
    return response.content


def broken(api, url, **headers):
    """The answer and what could be read of a download that breaks off."""
    received = bytearray()
    with api.anonymous.stream("GET", url, headers=headers) as response, pytest.raises(httpx.RemoteProtocolError):
        for piece in response.iter_raw():
            received.extend(piece)
    return response, bytes(received)


def test_a_download_can_be_cut_halfway_and_its_rest_be_asked_for(api):
    url = api.url(**faulty("download-cut"))
    response, half = broken(api, url)
    length = int(response.headers["Content-Length"])
    assert len(half) == length // 2
    rest = api.anonymous.get(url, headers={"Range": f"bytes={len(half)}-", "If-Range": response.headers["ETag"]})
    assert rest.status_code == 206
    assert half + rest.content == ordinary(api, url)


def test_the_half_arrives_however_slowly_it_is_read(api, emulator):
    request_id = api.submit(**faulty("download-cut"))
    url = urlsplit(api.wait(request_id).json()["video"]["url"])
    # More than one write, and more than the server buffers itself.
    (emulator._service.directory / f"{request_id}.mp4").write_bytes(bytes(8_000_000))
    received = bytearray()
    with socket.create_connection((url.hostname, url.port)) as client:
        client.sendall(f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
        time.sleep(0.3)
        while piece := client.recv(2**20):
            received.extend(piece)
    head, _, half = received.partition(b"\r\n\r\n")
    assert b"content-length: 8000000\r\n" in head
    assert len(half) == 4_000_000


def test_the_rest_can_be_cut_as_well(api):
    url = api.url(**faulty("download-cut*2"))
    response, half = broken(api, url)
    _, quarter = broken(api, url, Range=f"bytes={len(half)}-", **{"If-Range": response.headers["ETag"]})
    whole = ordinary(api, url)
    assert half + quarter == whole[: len(half) + (len(whole) - len(half)) // 2]


def test_a_download_can_be_truncated_so_that_http_can_not_tell(api):
    url = api.url(**faulty("download-truncated"))
    half = ordinary(api, url)
    whole = ordinary(api, url)
    assert half == whole[: len(whole) // 2]


def test_a_download_can_end_too_soon(api):
    url = api.url(**faulty("download-short"))
    response, half = broken(api, url)
    assert response.headers["Connection"] == "close"
    whole = ordinary(api, url)
    assert (int(response.headers["Content-Length"]), half) == (len(whole), whole[: len(whole) // 2])


def test_a_download_can_be_slow(api):
    url = api.url(**faulty("download-slow"))
    begun = time.monotonic()
    with api.anonymous.stream("GET", url) as response:
        times, pieces = zip(*((time.monotonic() - begun, piece) for piece in response.iter_raw()), strict=True)
    slow = time.monotonic()
    assert slow - begun >= 3
    assert len({round(at, 1) for at in times}) >= 2
    assert b"".join(pieces) == ordinary(api, url)
    assert time.monotonic() - slow < slow - begun


@pytest.mark.parametrize(("fault", "status"), [("download-403", 403), ("download-404", 404)])
def test_a_url_can_be_gone_for_good_and_another_one_works(api, fault, status):
    request_id = api.submit(**faulty(fault))
    first = api.wait(request_id).json()["video"]["url"]
    assert [api.anonymous.get(first).status_code for _ in range(2)] == [status, status]
    second = api.wait(request_id).json()["video"]["url"]
    ordinary(api, second)
    assert api.anonymous.get(first).status_code == status


def test_several_urls_can_be_gone(api):
    request_id = api.submit(**faulty("download-403*2"))
    urls = [api.wait(request_id).json()["video"]["url"] for _ in range(3)]
    assert [api.anonymous.get(url).status_code for url in urls] == [403, 403, 200]
    assert api.anonymous.get(urls[0]).text == "The URL has expired"


def test_a_download_can_be_answered_with_an_error(api):
    url = api.url(**faulty("download-500"))
    assert api.anonymous.get(url).status_code == 500
    ordinary(api, url)


def test_a_download_can_be_answered_with_a_page(api):
    url = api.url(**faulty("download-html"))
    page = api.anonymous.get(url)
    assert (page.status_code, page.headers["Content-Type"].partition(";")[0]) == (200, "text/html")
    assert page.text.startswith("<!DOCTYPE html>")
    ordinary(api, url)


def test_downloads_can_be_redirected_to_another_host(api):
    url = api.url(**faulty("download-redirect", "signed-url"))
    for _ in range(2):
        redirect = api.anonymous.get(url)
        assert redirect.status_code == 302
        assert redirect.headers["Location"] == url.replace("127.0.0.1", "localhost", 1)
    ordinary(api, redirect.headers["Location"])


def test_downloads_can_lack_a_length(api):
    url = api.url(**faulty("download-chunked"))
    first, second = api.anonymous.get(url), api.anonymous.get(url)
    for response in (first, second):
        assert "Content-Length" not in response.headers
        assert response.headers["Transfer-Encoding"] == "chunked"
    assert first.content == second.content
    assert first.content[4:8] == b"ftyp"


def test_a_download_without_length_can_be_cut(api):
    url = api.url(**faulty("download-chunked", "download-cut"))
    response, half = broken(api, url)
    assert "Content-Length" not in response.headers
    whole = api.anonymous.get(url).content
    assert half == whole[: len(whole) // 2]


def test_downloads_can_know_no_parts(api):
    url = api.url(**faulty("download-cut", "download-no-range"))
    response, half = broken(api, url)
    assert len(half) == int(response.headers["Content-Length"]) // 2
    again = api.anonymous.get(url, headers={"Range": f"bytes={len(half)}-"})
    assert again.status_code == 200
    assert len(again.content) == int(response.headers["Content-Length"])
    for answer in (response, again):
        assert not {"etag", "accept-ranges", "last-modified"} & answer.headers.keys()


def test_a_signed_url_works_with_its_signature_only(api):
    request_id = api.submit(**faulty("signed-url"))
    first, second = (api.wait(request_id).json()["video"]["url"] for _ in range(2))
    queries = [parse_qs(urlsplit(url).query) for url in (first, second)]
    assert [query["X-Amz-Expires"] for query in queries] == [["3600"], ["3600"]]
    signatures = [query["X-Amz-Signature"][0] for query in queries]
    assert signatures[0] != signatures[1]
    assert all(len(bytes.fromhex(signature)) == 32 for signature in signatures)
    assert ordinary(api, first) == ordinary(api, second)
    bare = first.partition("?")[0]
    assert [api.anonymous.get(url).status_code for url in (bare, bare + "?X-Amz-Signature=00")] == [403, 403]
    assert api.anonymous.get(first.replace(*signatures)).status_code == 403


def test_a_public_url_can_be_cut_as_well(api):
    url = api.make(**faulty("public-url-only", "download-cut")).json()["video"]["file_output"]["public_url"]
    response, half = broken(api, url)
    assert len(half) == int(response.headers["Content-Length"]) // 2
    ordinary(api, url)


def test_a_look_at_the_headers_uses_no_fault_up(api):
    url = api.url(**faulty("download-500", "download-403"))
    assert api.anonymous.head(url).status_code == 200
    assert [api.anonymous.get(url).status_code for _ in range(2)] == [403, 403]


def test_downloads_can_go_wrong_one_after_the_other(api):
    url = api.url(**faulty("download-500", "download-html", "download-truncated"))
    whole = [api.anonymous.get(url) for _ in range(4)]
    assert [response.status_code for response in whole] == [500, 200, 200, 200]
    assert len(whole[2].content) == len(whole[3].content) // 2


def test_a_download_can_be_put_off_for_a_day(api):
    url = api.url(**faulty("download-retry-after"))
    response = api.anonymous.get(url)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "86400")
    assert ordinary(api, url)


@pytest.mark.parametrize(
    ("fault", "location"),
    [
        ("download-redirect-http", "http://192.0.2.1/cat.mp4"),
        ("download-redirect-private", "https://10.255.255.1/cat.mp4"),
    ],
)
def test_a_download_can_be_redirected_to_where_nobody_should_go(api, fault, location):
    url = api.url(**faulty(fault))
    response = api.anonymous.get(url)
    assert (response.status_code, response.headers["Location"]) == (302, location)
    assert ordinary(api, url)


def test_the_rest_of_a_download_can_be_that_of_another_file(api):
    url = api.url(**faulty("download-etag"))
    response, half = broken(api, url)
    etag = response.headers["ETag"]
    rest = api.anonymous.get(url, headers={"Range": f"bytes={len(half)}-", "If-Range": etag})
    assert rest.status_code == 206
    assert rest.headers["Content-Range"].startswith(f"bytes {len(half)}-")
    assert rest.headers["ETag"] != etag
    whole = ordinary(api, url)
    assert len(half + rest.content) == len(whole)
    assert half + rest.content != whole


def test_a_download_can_have_bytes_behind_the_video(api):
    request = faulty("download-trailing")
    content = ordinary(api, api.url(**request))
    assert content.endswith(bytes(5))
    assert frames_of(content[:-5])


def test_a_download_can_be_endless_until_the_client_leaves(api):
    url = api.url(**faulty("download-endless"))
    received = 0
    with api.anonymous.stream("GET", url) as response:
        assert "Content-Length" not in response.headers
        for piece in response.iter_raw():
            received += len(piece)
            if received > 2**22:
                break
    assert api.http.get("/api-key").status_code == 200
    assert ordinary(api, url)
