"""The Files API: uploads, stored videos, their listing, and files as inputs."""

from datetime import UTC, datetime, timedelta

import pytest

from .emulator_api import CAT, faulty, frames_of

NAMES = [f"cat-{number:02}.mp4" for number in range(5)]


def upload(api, content=b"content", name="cat.png", **fields):
    return api.http.post("/files", data=fields, files={"file": (name, content, "image/png")})


def stored(api, name="cat.mp4", *faults, **options):
    """Make a video that is stored. Returns its part of the done response."""
    return api.make(**faulty(*faults), storage_options={"filename": name} | options).json()["video"]


def pages(api, **query):
    """The names of all files, page by page, until one has fewer than the limit."""
    found, token = [], None
    while True:
        given = query | ({} if token is None else {"pagination_token": token})
        response = api.http.get("/files", params=given).json()
        found.append([file["filename"] for file in response["data"]])
        token = response["pagination_token"]
        if len(found[-1]) < query["limit"]:
            return found


def test_an_upload_can_be_read_listed_and_deleted(running):
    with running() as api:
        file = upload(api, b"\r\n--content\r\n", expires_after="3600").json()
        assert (file["filename"], file["bytes"], file["expires_at"] - file["created_at"]) == ("cat.png", 13, 3600)
        content = api.http.get(f"/files/{file['id']}/content")
        assert (content.content, content.headers["Content-Type"]) == (b"\r\n--content\r\n", "image/png")
        assert api.http.get(f"/files/{file['id']}").json() == file
        assert api.http.get("/files").json()["data"] == [file]
        assert api.http.delete(f"/files/{file['id']}").json()["deleted"] is True
        assert api.http.get("/files").json()["data"] == []
        for path in (f"/files/{file['id']}", f"/files/{file['id']}/content"):
            assert api.http.get(path).status_code == 404
        assert list(api.emulator._service.directory.iterdir()) == []


def test_what_is_wrong_with_an_upload(api, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.emulator.file_routes.MAX_MEDIA_BYTES", 10)
    late = {"file": ("cat.png", b"content"), "expires_after": (None, b"3600")}
    assert api.http.post("/files", files=late).status_code == 400
    assert upload(api, expires_after="2592001").status_code == 400
    assert api.http.post("/files", files={"other": (None, b"1")}).status_code == 400
    assert api.http.post("/files", json={}).status_code == 415
    assert upload(api, b"12345678901").status_code == 413
    assert upload(api, b"12345678901", name="requests.jsonl").status_code == 200
    assert api.anonymous.get("/files").status_code == 401


def test_a_listing_has_pages_and_an_order(running):
    with running() as api:
        for name in NAMES:
            upload(api, name=name)
        ascending = pages(api, limit=2, order="asc", sort_by="filename")
        assert ascending == [NAMES[:2], NAMES[2:4], NAMES[4:]]
        assert pages(api, limit=5, order="desc", sort_by="filename") == [NAMES[::-1], []]
        for query in ({"limit": 101}, {"order": "up"}, {"sort_by": "id"}, {"pagination_token": "x"}, {"filter": "x"}):
            assert api.http.get("/files", params=query).status_code == 400


def test_a_filter_is_fuzzy_and_knows_times(running):
    with running() as api:
        for name in ("cat-1.mp4", "cat-2.mp4", "submarine.png"):
            upload(api, name=name)
        assert sorted(pages(api, limit=9, filter='name:"cat-1.mp4"')[0]) == ["cat-1.mp4", "cat-2.mp4"]
        times = [(datetime.now(UTC) + timedelta(hours=hours)).isoformat() for hours in (-1, 1)]
        counts = [len(pages(api, limit=9, filter=f'name:"cat" AND created_at > "{time}"')[0]) for time in times]
        assert counts == [2, 0]


def test_a_stored_video_is_a_file(api):
    video = stored(api, "dog.mp4", expires_after=7200)
    file = video["file_output"]
    content = api.http.get(f"/files/{file['file_id']}/content")
    assert content.content == api.anonymous.get(video["url"]).content
    assert api.http.get(f"/files/{file['file_id']}").json()["expires_at"] == file["expires_at"]
    api.http.delete(f"/files/{file['file_id']}")
    assert api.http.get(f"/files/{file['file_id']}/content").status_code == 404
    assert api.anonymous.get(video["url"]).status_code == 200


def test_a_file_expires(running, monkeypatch):
    with running() as api:
        file_id = stored(api, expires_after=3600)["file_output"]["file_id"]
        late = type(api.emulator._service.clock)(ahead_seconds=3601)
        monkeypatch.setattr(api.emulator._service, "clock", late)
        assert api.http.get(f"/files/{file_id}").status_code == 404
        assert api.http.get("/files").json()["data"] == []


def test_a_public_url_can_be_made_and_revoked(running, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.emulator.files.MAX_PUBLIC_URLS", 1)
    with running() as api:
        file_id, other = (stored(api, name, expires_after=7200)["file_output"]["file_id"] for name in NAMES[:2])
        for seconds in (3599, 7300):
            assert api.http.post(f"/files/{file_id}/public-url", json={"expires_after": seconds}).status_code == 400
        public = api.http.post(f"/files/{file_id}/public-url", json={"expires_after": 3600}).json()
        assert public.keys() == {"public_url", "expires_at"}
        assert api.anonymous.get(public["public_url"]).status_code == 200
        assert api.http.post(f"/files/{other}/public-url", json={}).status_code == 429
        assert api.http.post(f"/files/{file_id}/public-url/revoke").status_code == 200
        assert api.anonymous.get(public["public_url"]).status_code == 404
        assert api.http.post(f"/files/{other}/public-url", json={}).status_code == 200


def test_an_input_is_read_from_its_file(api, red_png, clip):
    image = upload(api, red_png).json()["id"]
    frame = frames_of(api.clip(prompt="A", duration=1, image={"file_id": image}))[0]
    assert frame.width < frame.height
    video = upload(api, clip, name="clip.mp4").json()["id"]
    assert len(frames_of(api.clip("edits", prompt="Red", video={"file_id": video}))) == 48


def test_an_unknown_file_as_input_fails_on_the_poll_like_an_unreachable_url(api):
    request_id = api.submit(**CAT, image={"file_id": "file_1"})
    answer = api.wait(request_id).json()
    assert (answer["status"], answer["error"]["message"]) == ("failed", "The image file does not exist.")
    assert api.row(request_id)["cost_usd"] == "0.00"


@pytest.mark.parametrize("fault", ["moderated", "failed-internal-error", "storage-failed"])
def test_these_videos_leave_no_file(running, fault):
    with running() as api:
        answer = api.make(**faulty(fault), storage_options={"filename": "cat.mp4"}).json()
        assert ("storage_error" in answer.get("video", {})) == (fault == "storage-failed")
        assert "file_output" not in answer.get("video", {})
        assert api.http.get("/files").json()["data"] == []


def test_a_file_that_is_too_large_is_not_stored(running, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.emulator.files.MAX_MEDIA_BYTES", 1000)
    with running() as api:
        assert "maximum file size" in stored(api)["storage_error"]


def test_a_file_can_be_stored_without_its_public_url(api):
    output = stored(api, "cat.mp4", "public-url-failed", public_url=True)["file_output"]
    assert output.keys() == {"file_id", "filename", "public_url_error"}


def test_a_listing_can_lag_and_fail(running):
    with running() as api:
        stored(api, "cat.mp4", "file-list-lags*2", "file-list-500")
        responses = [api.http.get("/files") for _ in range(4)]
        assert [response.status_code for response in responses] == [500, 200, 200, 200]
        assert [len(response.json()["data"]) for response in responses[1:]] == [0, 0, 1]


def test_a_download_from_the_files_has_the_faults_of_downloads(api):
    file_id = stored(api, "cat.mp4", "download-500")["file_output"]["file_id"]
    assert [api.http.get(f"/files/{file_id}/content").status_code for _ in range(2)] == [500, 200]


def test_files_outlive_the_emulator(running, tmp_path):
    with running(state=tmp_path) as api, running(state=tmp_path) as other:
        file_id = stored(api, "cat.mp4", "file-list-lags*9", public_url=True)["file_output"]["file_id"]
        uploaded = upload(api).json()
        assert api.http.get("/files").json()["data"] == [uploaded]
        assert other.http.get(f"/files/{uploaded['id']}/content").content == b"content"
        other.http.delete(f"/files/{uploaded['id']}")
        assert api.http.get(f"/files/{uploaded['id']}").status_code == 404
    with running(state=tmp_path) as later:
        assert later.http.get("/files").json()["data"] == []
        file = later.http.get(f"/files/{file_id}").json()
        assert later.anonymous.get(file["public_url"]).status_code == 200
        assert len(frames_of(later.http.get(f"/files/{file_id}/content").content)) == 24
    with running(state=tmp_path, team="another") as others:
        assert others.http.get(f"/files/{file_id}").status_code == 404
