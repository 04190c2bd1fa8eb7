"""The URLs of finished videos."""

import uuid

import pytest

from .emulator_api import CAT


@pytest.fixture(scope="module")
def url(api):
    return api.url(**CAT)


def test_a_result_needs_no_key(api, url):
    response = api.anonymous.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    assert int(response.headers["content-length"]) == len(response.content) > 10_000
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"]


def test_a_head_tells_the_length_without_the_content(api, url):
    response = api.anonymous.head(url)
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) == len(api.anonymous.get(url).content)


def test_a_part_can_be_asked_for(api, url):
    whole = api.anonymous.get(url)
    size = len(whole.content)
    for asked, part in {
        "bytes=0-99": slice(0, 100),
        "bytes=1000-": slice(1000, None),
        "bytes=-10": slice(size - 10, None),
    }.items():
        response = api.anonymous.get(url, headers={"Range": asked, "If-Range": whole.headers["etag"]})
        assert response.status_code == 206
        assert response.content == whole.content[part]
        first = part.start
        assert response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{size}"


def test_a_part_of_another_version_is_the_whole(api, url):
    response = api.anonymous.get(url, headers={"Range": "bytes=0-99", "If-Range": '"another"'})
    assert response.status_code == 200
    assert len(response.content) > 10_000


def test_a_part_beyond_the_end_is_416(api, url):
    response = api.anonymous.get(url, headers={"Range": "bytes=99999999-"})
    assert response.status_code == 416
    assert response.headers["content-range"].startswith("bytes */")


def test_each_poll_hands_out_another_url_of_the_same_video(api):
    request_id = api.submit(**CAT)
    urls = [api.wait(request_id).json()["video"]["url"] for _ in range(3)]
    assert len(set(urls)) == 3
    contents = {api.anonymous.get(url).content for url in urls}
    etags = {api.anonymous.head(url).headers["etag"] for url in urls}
    assert len(contents) == len(etags) == 1


def test_a_url_expires_and_the_next_poll_hands_out_one_that_works(running, clock):
    with running(url_ttl_seconds=60) as api:
        request_id = api.submit(**CAT)
        first = api.wait(request_id).json()["video"]["url"]
        assert api.anonymous.get(first).status_code == 200
        clock.now += 60
        assert api.anonymous.head(first).status_code == 403
        assert api.anonymous.get(first).status_code == 403
        second = api.wait(request_id).json()["video"]["url"]
        assert api.anonymous.get(second).status_code == 200
        assert api.anonymous.get(first).status_code == 403


def test_nobody_can_guess_a_url(running):
    with running(render_seconds=60) as api:
        root = api.base_url.removesuffix("/v1")
        request_id = api.submit(**CAT)
        for path in (f"xai-video-{request_id}", f"2/xai-video-{request_id}", f"xai-video-{uuid.uuid4()}"):
            assert api.anonymous.get(f"{root}/xai-vidgen-bucket/{path}.mp4").status_code == 404


def test_the_log_shows_whether_a_key_went_to_the_download_host(api, emulator, url):
    api.anonymous.get(url)
    api.http.get(url)
    assert [entry["authorization"] for entry in emulator.requests()[-2:]] == [False, True]
