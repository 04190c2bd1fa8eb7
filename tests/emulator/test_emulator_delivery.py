"""Videos that are put to a URL of one's own, or kept in the Files API."""

import pytest

from .emulator_api import CAT, frames_of


def test_a_video_is_put_to_the_upload_url_and_answered_with_it(api, local_server):
    url = f"{local_server.url}/videos/cat.mp4?signature=abc"
    answer = api.make(**CAT, output={"upload_url": url}).json()
    assert (answer["status"], answer["video"]["url"]) == ("done", url)
    ((path, headers, content),) = local_server.puts
    assert path == "/videos/cat.mp4?signature=abc"
    assert headers["Content-Type"] == "video/mp4"
    assert "Authorization" not in headers
    assert len(frames_of(content)) == 24


def test_edits_are_delivered_too(api, local_server, clip_url):
    url = f"{local_server.url}/cat.mp4"
    answer = api.make("edits", prompt="Red", video={"url": clip_url}, output={"upload_url": url}).json()
    assert answer["video"]["url"] == url
    assert len(local_server.puts) == 1


def test_an_upload_that_is_refused_fails_the_request_without_costs(api, local_server):
    local_server.put_status = 403
    request_id = api.submit(**CAT, output={"upload_url": local_server.url})
    answer = api.wait(request_id).json()
    assert (answer["status"], answer["error"]["code"]) == ("failed", "failed_precondition")
    assert "403" in answer["error"]["message"]
    assert api.row(request_id)["cost_usd"] == "0.00"


@pytest.mark.parametrize("url", ["https://example.invalid/cat.mp4", "http://127.0.0.1:1/cat.mp4", "http://["])
def test_an_upload_url_that_can_not_be_reached_fails_the_request(api, url):
    answer = api.make(**CAT, output={"upload_url": url}).json()
    assert (answer["status"], answer["error"]["code"]) == ("failed", "failed_precondition")


def test_a_moderated_video_is_not_delivered(api, local_server):
    response = api.make(prompt="[fault:moderated]", duration=1, output={"upload_url": local_server.url})
    assert response.status_code == 400
    assert local_server.puts == []


def test_storage_options_keep_the_video_as_a_file_with_a_public_url(api):
    options = {"filename": "cat.mp4", "expires_after": 7200, "public_url": {"expires_after": 3600}}
    video = api.make(**CAT, storage_options=options).json()["video"]
    file = video["file_output"]
    assert file.keys() == {"file_id", "filename", "expires_at", "public_url", "public_url_expires_at"}
    assert file["filename"] == "cat.mp4"
    assert file["expires_at"] - file["public_url_expires_at"] == 3600
    assert api.anonymous.get(file["public_url"]).content == api.anonymous.get(video["url"]).content


def test_without_storage_options_there_is_no_file_and_without_public_url_no_url(api):
    plain = api.make(**CAT)
    private = api.make(**CAT, storage_options={"filename": "cat.mp4"})
    assert "file_output" not in plain.json()["video"]
    assert private.json()["video"]["file_output"].keys() == {"file_id", "filename"}
    request_id = private.json()["video"]["file_output"]["file_id"].removeprefix("file_")
    guessed = f"{api.base_url.removesuffix('/v1')}/xai-files/{request_id}.mp4"
    assert api.anonymous.get(guessed).status_code == 404
