"""What polls answer while a video is rendered, when it is done, and when it is not to be had."""

import base64
import time

import pytest

from .emulator_api import CAT, grey_clip


def test_a_pending_video_is_202_with_progress_that_rises_with_time(running, clock):
    with running(render_seconds=1e6) as api:
        request_id, begun = api.submit(**CAT), clock.now
        for age, progress in ((0, 0), (9_000, 0), (11_000, 1), (555_000, 55), (999_000, 99), (2_000_000, 99)):
            clock.now = begun + age
            response = api.poll(request_id)
            assert response.status_code == 202
            assert response.json() == {"status": "pending", "progress": progress}


def test_a_render_takes_its_time(running):
    with running(render_seconds=0.3) as api:
        begun = time.monotonic()
        api.make(**CAT)
        assert time.monotonic() - begun >= 0.3


def test_a_done_video_is_answered_exactly_as_in_the_contract(api):
    request_id = api.submit(**CAT, model="grok-imagine-video-1.5-preview")
    response = api.wait(request_id)
    assert response.status_code == 200
    answer = response.json()
    url = answer["video"].pop("url")
    root = api.base_url.removesuffix("/v1")
    assert url.startswith(f"{root}/xai-vidgen-bucket/")
    assert url.endswith(f"/xai-video-{request_id}.mp4")
    assert answer == {
        "status": "done",
        "video": {"duration": 1, "respect_moderation": True},
        "model": "grok-imagine-video-1.5",
        "usage": {"cost_in_usd_ticks": 800_000_000},
        "progress": 100,
    }


def test_polls_are_answered_at_once_while_clips_are_drawn(running):
    with running(render_seconds=0) as api:
        ids = [api.submit(prompt=str(number), duration=15, resolution="720p") for number in range(2)]
        # A poll that waited for the drawing would tell that it is done.
        for _ in range(3):
            response = api.poll(ids[0])
            assert (response.status_code, response.json()["progress"]) == (202, 99)


def test_moderation_is_400_once_rendered_and_billed_in_full(api):
    request_id = api.submit(prompt="Something [fault:moderated]", duration=2)
    response = api.wait(request_id)
    assert response.status_code == 400
    assert response.json() == {
        "code": "imagine:content-moderated",
        "error": "Generated video rejected by content moderation.",
        "usage": {"cost_in_usd_ticks": 1_000_000_000},
    }
    row = api.row(request_id)
    assert (row["cost_usd"], row["outcome"]) == ("0.10", "moderated")


def inline(content, content_type="image/png"):
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        inline(b"hello"),
        inline(b""),
        inline(b"GIF89a", "image/gif"),
        "data:image/png;base64,*not base64*",
        "data:image/png,hello",
        "http://127.0.0.1:1/nobody.png",
        "http://example.com/plain-http.png",
        "cat.png",
        "",
    ],
)
def test_a_bad_image_url_is_accepted_and_fails_on_the_poll_without_costs(api, url):
    request_id = api.submit(**CAT, image={"url": url})
    response = api.wait(request_id)
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"status", "error"}
    assert (answer["status"], answer["error"]["code"]) == ("failed", "invalid_argument")
    assert "image" in answer["error"]["message"]
    row = api.row(request_id)
    assert (row["cost_usd"], row["outcome"]) == ("0.00", "failed")


def test_every_input_image_must_be_a_picture(api, red_url):
    bad = {"url": inline(b"hello")}
    frames = api.make(model="grok-imagine-video-1.5", duration=1, image={"url": red_url}, last_frame=bad)
    references = api.make(**CAT, reference_images=[{"url": red_url}, bad])
    assert [answer.json()["status"] for answer in (frames, references)] == ["failed", "failed"]


def test_a_picture_is_no_clip_and_a_clip_is_no_picture(api, red_png, clip):
    edit = api.make("edits", prompt="A cat", video={"url": inline(red_png, "video/mp4")})
    image = api.make(**CAT, image={"url": inline(clip)})
    assert [answer.json()["status"] for answer in (edit, image)] == ["failed", "failed"]


def test_inputs_on_this_machine_are_fetched_when_the_video_is_rendered(api, local_server, red_png):
    local_server.files["/red.png"] = red_png
    local_server.files["/red.html"] = b"<html>no picture</html>"
    good, bad, missing = (
        api.make(**CAT, image={"url": f"{local_server.url}/{name}"}).json()
        for name in ("red.png", "red.html", "missing.png")
    )
    assert good["status"] == "done"
    assert bad["error"] == {"code": "invalid_argument", "message": "The image could not be decoded."}
    assert missing["error"]["message"] == "The image URL returned HTTP status 404."
    assert local_server.gets == ["/red.png", "/red.html", "/missing.png"]


def test_an_input_clip_of_a_length_that_is_not_taken_fails_on_the_poll(api):
    extension = api.make("extensions", prompt="A cat", video={"url": grey_clip(1, (64, 64))}).json()
    edit = api.make("edits", prompt="A cat", video={"url": grey_clip(9, (64, 64))}).json()
    assert extension["error"]["message"] == "The video is 1.0 seconds long, which is not supported."
    assert edit["error"]["message"] == "The video is 9.0 seconds long, which is not supported."


def test_what_can_not_be_looked_at_is_taken_as_good(api):
    assert api.make(**CAT, image={"url": "https://example.invalid/cat.png"}).json()["status"] == "done"
