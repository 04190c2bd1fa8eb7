"""The light mode, for thousands of videos: everything as usual but the pictures."""

import io

import av
import pytest

from .emulator_api import CAT, KEY, bar_of, distance, frames_of

BODIES = [
    {"prompt": "A cat", "duration": 2, "aspect_ratio": "4:3"},
    {"prompt": "A cat", "duration": 1, "resolution": "720p", "generate_audio": False},
    {"model": "grok-imagine-video-1.5", "prompt": "A", "duration": 1, "storage_options": {"filename": "a.mp4"}},
]


def described(content):
    """The size, the number of frames and the number of sound tracks of a clip."""
    frames = frames_of(content)
    with av.open(io.BytesIO(content)) as container:
        return (frames[0].width, frames[0].height), len(frames), len(container.streams.audio)


def report(api, kind, body):
    """The response to the last poll and the ledger's row, without what differs between two requests."""
    request_id = api.submit(kind, **body)
    done = api.wait(request_id).json()
    row = {name: value for name, value in api.row(request_id).items() if name not in ("request_id", "time")}
    if "video" in done:
        assert request_id in done["video"].pop("url")
        done["video"].pop("file_output", None)
    return done, row


@pytest.mark.parametrize("body", BODIES)
def test_a_clip_has_the_shape_that_was_requested(light, api, body):
    assert described(light.clip(**body)) == described(api.clip(**body))
    assert report(light, "generations", body) == report(api, "generations", body)


def test_a_prepared_clip_shows_the_word_emulator_and_the_second_but_no_prompt(light, api):
    prepared, drawn = (bar_of(frames_of(emulator.clip(**CAT))[0]) for emulator in (light, api))
    assert max(distance(prepared.word, drawn.word), distance(prepared.seconds, drawn.seconds)) < 3
    assert distance(prepared.prompt, drawn.prompt) > 10


def test_an_image_and_a_clip_are_inspected_as_usual(light, api, red_url, clip_url):
    image = {"prompt": "A cat", "duration": 1, "image": {"url": red_url}}
    clip = {"prompt": "A cat", "video": {"url": clip_url}}
    for kind, body in (("generations", image), ("edits", clip), ("extensions", clip | {"duration": 2})):
        assert described(light.clip(kind, **body))[:2] == described(api.clip(kind, **body))[:2]
        assert report(light, kind, body) == report(api, kind, body)


@pytest.mark.parametrize("url", ["data:image/png;base64,aGVsbG8=", "http://127.0.0.1:1/nobody.png"])
def test_an_image_that_can_not_be_read_fails_as_usual(light, api, url):
    body = CAT | {"image": {"url": url}}
    done, row = report(light, "generations", body)
    assert (done["status"], row["cost_usd"]) == ("failed", "0.00")
    assert (done, row) == report(api, "generations", body)


def test_requests_of_one_shape_share_one_clip_and_no_file_is_made_for_a_video(running):
    with running(light=True) as api:
        one, other = (api.clip(**CAT | {"prompt": prompt}) for prompt in ("A cat", "A dog"))
        assert one == other
        assert api.clip(**CAT | {"duration": 2}) != one
        for number in range(20):
            api.make(**CAT | {"prompt": str(number)})
        assert len(list(api.emulator._service.directory.iterdir())) == 2


def test_ranges_and_headers_are_those_of_a_file(light, api):
    file, prepared = api.url(**CAT), light.url(**CAT)
    whole = light.anonymous.get(prepared)
    usual = api.anonymous.get(file)
    differing = {"date", "x-request-id", "etag", "last-modified", "content-length"}
    assert whole.headers.keys() == usual.headers.keys()
    assert all(whole.headers[name] == usual.headers[name] for name in whole.headers.keys() - differing)
    assert light.anonymous.head(prepared).headers["etag"] == whole.headers["etag"]
    part = {"Range": "bytes=100-199", "If-Range": whole.headers["etag"]}
    response = light.anonymous.get(prepared, headers=part)
    assert (response.status_code, response.content) == (206, whole.content[100:200])
    response = light.anonymous.get(prepared, headers=part | {"If-Range": '"another"'})
    assert (response.status_code, response.content) == (200, whole.content)


def test_faults_of_downloads_strike_as_usual(light):
    body = CAT | {"prompt": "Cut [fault:download-truncated] [fault:download-trailing]"}
    url = light.url(**body)
    short, whole = (light.anonymous.get(url).content for _ in range(2))
    clip = light.clip(**CAT)
    assert len(short) < len(whole)
    assert whole == clip + bytes(5)


def test_a_video_is_uploaded_as_usual(light, local_server):
    output = {"upload_url": f"{local_server.url}/cat.mp4"}
    assert light.url(**CAT, output=output) == output["upload_url"]
    assert local_server.puts[-1][2] == light.clip(**CAT)


def test_many_videos_pass_through_few_slots(running):
    with running(light=True, render_slots=20, render_seconds=0.01, render_sigma=1) as api:
        ids = [api.submit(**CAT | {"prompt": str(number)}) for number in range(500)]
        assert api.wait(ids[-1]).json()["status"] == "done"
        assert api.ledger()["submissions"] == 500
        assert {api.anonymous.get(api.wait(i).json()["video"]["url"]).status_code for i in ids} == {200}


def test_memory_keeps_the_newest_requests_and_the_file_all(running, tmp_path, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.emulator.server._LIGHT_ENTRIES", 10)
    with running(light=True, log=tmp_path / "log") as api:
        for _ in range(15):
            api.submit(**CAT)
        assert [entry["path"] for entry in api.emulator.requests()] == ["/v1/videos/generations"] * 10
        assert len((tmp_path / "log").read_text().splitlines()) == 15
        assert KEY not in (tmp_path / "log").read_text()


def test_it_keeps_no_state(running, tmp_path):
    with pytest.raises(ValueError, match="leave out either light or state"), running(light=True, state=tmp_path):
        pass
