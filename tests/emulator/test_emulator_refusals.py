"""What the emulator refuses, in which shape, and what it lets through although it should cost money."""

import json
import uuid

import pytest

from .emulator_api import CAT, KEY

HTTPS = {"url": "https://example.com/a.png"}
CLASSIC = "grok-imagine-video"
NEWER = "grok-imagine-video-1.5"
LITE = "grok-imagine-video-1.5-lite"
KEYFRAME = {"image": HTTPS, "timestamp_s": 1}
REFERENCE_MODE = (
    {"image": HTTPS, "last_frame": HTTPS},
    {"image": HTTPS, "keyframes": [KEYFRAME]},
    {"image": HTTPS, "reference_images": [HTTPS]},
    {"image": HTTPS, "reference_audios": [{"voice_id": "eve"}]},
    {"reference_audios": [{"voice_id": "eve"}]},
)
"""Some of what makes reference mode of the newer model, besides references by themselves."""


def is_flat(response, status, code):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"code", "error"}
    assert response.json()["code"] == code
    return True


@pytest.mark.parametrize("kind", ["generations", "edits", "extensions"])
def test_a_body_that_is_not_declared_as_json_is_415_and_empty(api, kind):
    response = api.http.post(f"/videos/{kind}", content=b'{"prompt":"A cat"}')
    assert (response.status_code, response.content) == (415, b"")


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("generations", b"{", "EOF"),
        ("generations", b"", "EOF"),
        ("generations", b"[]", "invalid type: sequence"),
        ("generations", b'{"prompt": 1}', "prompt: invalid type: number"),
        ("generations", b'{"prompt": "A", "duration": "6.5"}', 'duration: invalid type: string "6.5"'),
        ("generations", b'{"prompt": "A", "seconds": "six"}', 'seconds: invalid type: string "six"'),
        ("generations", b'{"prompt": "A", "duration": 6.0}', "duration: invalid type"),
        ("generations", b'{"prompt": "A", "duration": true}', "duration: invalid type: boolean `true`"),
        ("generations", b'{"prompt": "A", "duration": 3000000000}', "duration: invalid"),
        ("generations", b'{"prompt": "A", "model": 3}', "model: invalid type"),
        ("generations", b'{"prompt": "A", "aspect_ratio": "auto"}', "aspect_ratio: unknown variant `auto`"),
        ("generations", b'{"prompt": "A", "image": "https://a/b.png"}', "image: invalid type: string"),
        ("generations", b'{"prompt": "A", "image": {"uri": "x"}}', "image: missing field `url`"),
        ("generations", b'{"prompt": "A", "reference_images": ["https://a"]}', "reference_images.0: invalid type"),
        (
            "generations",
            b'{"keyframes": [{"image": {"url": "https://a"}}]}',
            "keyframes.0: missing field `timestamp_s`",
        ),
        ("generations", b'{"prompt": "A", "reference_audios": ["eve"]}', "reference_audios.0: invalid type: string"),
        ("generations", b'{"prompt": "A", "input_reference": "https://a"}', "input_reference: invalid type: string"),
        ("generations", b'{"prompt": "A", "storage_options": {}}', "storage_options: missing field `filename`"),
        ("edits", b'{"video": {"url": "https://a/b.mp4"}}', "missing field `prompt`"),
        ("edits", b'{"prompt": "A", "video_url": "https://a/b.mp4"}', "missing field `video`"),
        ("edits", b'{"prompt": "A", "video": "https://a/b.mp4"}', "video: invalid type: string"),
        ("extensions", b'{"prompt": "A"}', "missing field `video`"),
        ("extensions", b'{"prompt": "A", "video": {}}', "video: missing field `url`"),
    ],
)
def test_a_body_of_the_wrong_shape_is_422_in_plain_text_before_the_key_is_looked_at(api, kind, body, problem):
    response = api.anonymous.post(f"/videos/{kind}", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text.startswith(f"Failed to deserialize the JSON body into the target type: {problem}")


@pytest.mark.parametrize("authorization", [None, "Bearer", "Basic abc", "xai-key"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/videos/generations"),
        ("GET", "/videos/3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11"),
        ("GET", "/video-generation-models"),
        ("GET", "/video-generation-models/grok-imagine-video"),
        ("GET", "/api-key"),
        ("GET", "/me"),
    ],
)
def test_without_a_key_the_answer_is_401_and_flat(api, method, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    body = {"prompt": "A cat"} if method == "POST" else None
    assert is_flat(api.anonymous.request(method, path, json=body, headers=headers), 401, "unauthenticated")


def test_the_key_is_checked_before_the_sense_of_the_request(api):
    assert api.anonymous.post("/videos/generations", json={"prompt": ""}).status_code == 401


def test_with_a_key_of_its_own_the_emulator_accepts_no_other(running):
    with running(api_key="xai-the-right-one") as api:
        assert api.post(prompt="A cat").status_code == 401
        right = {"Authorization": "Bearer xai-the-right-one"}
        assert api.anonymous.post("/videos/generations", json={"prompt": "A"}, headers=right).status_code == 200


def test_requests_beyond_the_rate_are_429_and_polls_count(running, clock):
    with running(requests_per_second=2) as api:
        request_id = api.submit(**CAT)
        assert api.poll(request_id).status_code != 429
        for actual, response in ((3, api.poll(request_id)), (4, api.post(**CAT))):
            assert is_flat(response, 429, "resource-exhausted")
            assert response.json()["error"].startswith("Too many requests for team ")
            assert f"Requests per Second (actual/limit): {actual}/2." in response.json()["error"]
        assert api.ledger()["submissions"] == 1


def test_refused_requests_do_not_use_up_the_rate_for_ever(running, clock):
    with running(requests_per_second=1) as api:
        assert [api.post(**CAT).status_code for _ in range(5)] == [200, 429, 429, 429, 429]
        clock.now += 1
        assert api.post(**CAT).status_code == 200


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "Prompt cannot be empty"),
        ({"prompt": ""}, "Prompt cannot be empty"),
        ({"prompt": "  \n"}, "Prompt cannot be empty"),
        ({"prompt": "A" * 4097}, "Prompt length"),
        ({"prompt": "A", "duration": 0}, "Duration"),
        ({"prompt": "A", "duration": 16}, "Duration"),
        ({"prompt": "A", "duration": -1}, "Duration"),
        ({"prompt": "A", "duration": 11, "reference_images": [HTTPS]}, "Duration"),
        ({"prompt": "A", "aspect_ratio": "17:3"}, "Invalid aspect ratio"),
        ({"prompt": "A", "aspect_ratio": "9:21"}, "Invalid aspect ratio"),
        ({"prompt": "A", "resolution": "4k"}, "Invalid resolution"),
        ({"prompt": "A", "resolution": "1080p"}, "Resolution 1080p is not supported"),
        ({"prompt": "A", "model": NEWER, "resolution": "1080p", "reference_images": [HTTPS]}, "Resolution 1080p"),
        ({"prompt": "A", "image": HTTPS, "reference_images": [HTTPS]}, "cannot be combined"),
        ({"prompt": "A", "model": NEWER, "reference_images": [HTTPS] * 15}, "At most 14 reference_images"),
        ({"prompt": "A", "model": CLASSIC, "reference_images": [HTTPS] * 8}, "At most 7 reference_images"),
        ({"model": NEWER, "reference_images": [HTTPS]}, "Prompt cannot be empty"),
        ({"model": NEWER, "reference_audios": [{"voice_id": "eve"}]}, "Prompt cannot be empty"),
        *(
            ({"prompt": "A", "model": NEWER, "resolution": "1080p"} | more, "Resolution 1080p")
            for more in REFERENCE_MODE
        ),
        ({"prompt": "A", "model": LITE, "reference_images": [HTTPS]}, "does not support reference"),
        ({"prompt": "A", "last_frame": HTTPS}, "last_frame is not supported"),
        ({"prompt": "A", "keyframes": [{"image": HTTPS, "timestamp_s": 1}]}, "keyframes is not supported"),
        ({"prompt": "A", "model": LITE, "last_frame": HTTPS}, "last_frame is not supported"),
        ({"prompt": "A", "reference_audios": [{"voice_id": "eve"}]}, "reference_audios is not supported"),
        (
            {"prompt": "A", "model": LITE, "reference_audios": [{"voice_id": "eve"}]},
            "reference_audios is not supported",
        ),
        *(
            ({"prompt": "A", "model": NEWER, "reference_audios": voices}, problem)
            for voices, problem in (
                ([{"voice_id": "eve"}] * 4, "At most 3 reference_audios"),
                ([{}], "exactly one of voice_id and url"),
                ([{"voice_id": "eve", "url": "https://example.com/a.mp3"}], "exactly one of voice_id and url"),
                ([{"voice_id": "bob"}], "Available voices: ara, eve, leo, rex, sal."),
            )
        ),
        *(
            ({"prompt": "A", "storage_options": {"filename": "a.mp4"} | options}, problem)
            for options, problem in (
                ({"filename": " "}, "filename"),
                ({"expires_after": 2592001}, "expires_after"),
                ({"expires_after": 0}, "expires_after"),
                ({"public_url": {"expires_after": 3599}}, "public_url: expires_after"),
                ({"public_url": {"expires_after": 2592001}}, "public_url: expires_after"),
                ({"public_url": {"expires_after": 7200}, "expires_after": 7199}, "remaining life"),
            )
        ),
    ],
)
def test_a_generation_that_makes_no_sense_is_400(api, body, problem):
    response = api.post(**body)
    assert is_flat(response, 400, "invalid-argument")
    assert problem in response.json()["error"]


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        ([1, 2, 3, 4, 5], "At most 4"),
        ([0], "strictly inside the clip"),
        ([6], "strictly inside the clip"),
        ([-1], "strictly inside the clip"),
        ([1, 1], "at least 1/3 second apart"),
        ([2, 1, 1.3], "at least 1/3 second apart"),
    ],
)
def test_keyframes_must_keep_their_rules(api, times, problem):
    keyframes = [{"image": HTTPS, "timestamp_s": time} for time in times]
    response = api.post(model=NEWER, duration=6, keyframes=keyframes)
    assert is_flat(response, 400, "invalid-argument")
    assert problem in response.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": NEWER, "image": HTTPS, "last_frame": HTTPS},
        {"model": NEWER, "keyframes": [{"image": HTTPS, "timestamp_s": 0.333}]},
        {"model": f"{NEWER}-preview", "prompt": "A", "reference_images": [HTTPS] * 14},
        {"model": CLASSIC, "prompt": "A", "reference_images": [HTTPS] * 7},
        {"model": NEWER, "prompt": "A", "reference_audios": [{"voice_id": "Eve"}] * 3},
        {"model": NEWER, "keyframes": [{"image": HTTPS, "timestamp_s": time} for time in (0.05, 0.4, 0.95)]},
        {"model": NEWER, "last_frame": HTTPS, "resolution": "720p"},
        {"prompt": "A", "storage_options": {"filename": "a.mp4", "expires_after": 60, "public_url": False}},
        {"model": LITE, "image": {"file_id": "file_1"}},
        {"prompt": None, "model": None, "image": HTTPS},
        {"prompt": "A" * 4096, "reference_images": []},
    ],
)
def test_what_a_model_can_do_is_accepted(api, body):
    assert api.post(duration=1, aspect_ratio="1:1", generate_audio=False, **body).status_code == 200


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("edits", {"prompt": " "}, "Prompt cannot be empty"),
        ("edits", {"prompt": "A", "model": NEWER}, "does not support edit"),
        ("edits", {"prompt": "A", "model": f"{NEWER}-2026-05-30"}, "does not support edit"),
        ("extensions", {"prompt": ""}, "Prompt cannot be empty"),
        ("extensions", {"prompt": "A", "model": NEWER}, "does not support extend"),
        ("extensions", {"prompt": "A", "duration": 1}, "Duration"),
        ("extensions", {"prompt": "A", "duration": 11}, "Duration"),
    ],
)
def test_an_edit_or_extension_that_makes_no_sense_is_400(api, kind, body, problem):
    response = api.post(kind, video={"url": "https://example.com/a.mp4"}, **body)
    assert is_flat(response, 400, "invalid-argument")
    assert problem in response.json()["error"]


def test_an_unknown_model_is_404(api):
    response = api.post(model="grok-imagine-movie", prompt="A cat")
    assert is_flat(response, 404, "not-found")
    assert response.json()["error"].startswith("The model grok-imagine-movie does not exist")
    assert is_flat(api.http.get("/video-generation-models/grok-imagine-movie"), 404, "not-found")


def test_a_clip_as_voice_is_for_trusted_partners_only(api):
    voices = [{"url": "https://example.com/a.mp3"}]
    assert is_flat(api.post(model=NEWER, prompt="A", reference_audios=voices), 403, "permission-denied")


@pytest.mark.parametrize("inputs", REFERENCE_MODE)
def test_a_first_frame_with_other_inputs_is_reference_mode_and_so_are_voices_alone(api, inputs):
    request_id = api.submit(model=NEWER, prompt="A", duration=2, generate_audio=False, **inputs)
    assert api.row(request_id)["mode"] == "reference"


@pytest.mark.parametrize(
    ("body", "mode", "cost"),
    [
        ({"seconds": 2}, "text", "0.10"),
        ({"duration": "2"}, "text", "0.10"),
        ({"seconds": "2"}, "text", "0.10"),
        ({"duration": 1, "seconds": 2}, "text", "0.05"),
        ({"duration": 1, "input_reference": HTTPS}, "image", "0.052"),
        ({"duration": 1, "image": {"image_url": "https://example.com/a.png"}}, "image", "0.052"),
        ({"duration": 1, "reference_images": [{"image_url": "https://a"}]}, "reference", "0.052"),
    ],
)
def test_fields_have_aliases(api, body, mode, cost):
    row = api.row(api.submit(prompt="A", aspect_ratio="1:1", generate_audio=False, **body))
    assert (row["mode"], row["cost_usd"]) == (mode, cost)


def test_the_duration_of_an_extension_may_be_a_string(api, clip_url):
    request_id = api.submit("extensions", prompt="More", duration="2", video={"url": clip_url}, user="someone")
    assert api.wait(request_id).json()["video"]["duration"] == 4


def test_a_team_has_so_many_public_urls(running, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.emulator.files.MAX_PUBLIC_URLS", 1)
    with running() as api:
        options = {"storage_options": {"filename": "a.mp4", "public_url": True}}
        assert api.make(**CAT, **options).status_code == 200
        assert is_flat(api.post(**CAT, **options), 429, "resource-exhausted")
        assert api.post(**CAT, storage_options={"filename": "a.mp4"}).status_code == 200


def test_unknown_fields_are_ignored_at_every_level_and_the_video_is_paid_for(api):
    request_id = api.submit(
        **CAT,
        Duration=3,
        length=3,
        n=4,
        seed=7,
        image_url="https://example.com/a.png",
        storage_options={"filename": "cat.mp4", "file_name": "dog.mp4"},
        output={"url": "http://127.0.0.1:1/"},
    )
    assert api.wait(request_id).json()["status"] == "done"
    row = api.row(request_id)
    assert (row["mode"], row["cost_usd"]) == ("text", "0.05")


def test_a_request_id_is_a_uuid(api):
    response = api.post(**CAT)
    assert set(response.json()) == {"request_id"}
    assert str(uuid.UUID(response.json()["request_id"])) == response.json()["request_id"]


def test_polling_a_malformed_id_is_400(api):
    response = api.poll("not-a-uuid")
    assert response.status_code == 400
    assert response.json() == {"code": "invalid-argument", "error": "Malformed request ID"}


def test_polling_an_unknown_id_is_404(api):
    assert is_flat(api.poll("3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/videos"),
        ("GET", "/videos/generations"),
        ("PUT", "/videos/edits"),
        ("DELETE", "/videos/3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11"),
        ("POST", "/videos/3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11"),
        ("POST", "/videos/3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11/cancel"),
    ],
)
def test_there_is_no_list_and_no_cancel(api, method, path):
    response = api.http.request(method, path)
    assert (response.status_code, response.content) == (405, b"")


def test_an_unknown_route_is_404_in_the_other_shape(api):
    response = api.http.get("/pictures")
    assert response.status_code == 404
    assert response.json() == {"error": {"code": 404, "message": "The requested path /v1/pictures does not exist."}}


def test_the_models_are_described(api):
    models = {model["id"]: model for model in api.http.get("/video-generation-models").json()["models"]}
    assert set(models) == {CLASSIC, NEWER, LITE}
    assert api.http.get(f"/video-generation-models/{NEWER}-preview").json() == models[NEWER]


def test_a_key_can_be_checked_without_spending_and_is_not_repeated(api):
    before = api.ledger()["submissions"]
    answer = api.http.get("/api-key").json()
    assert answer.keys() >= {"acls", "name", "redacted_api_key"}
    assert [answer[name] for name in ("team_blocked", "api_key_blocked", "api_key_disabled")] == [False] * 3
    assert KEY not in json.dumps(answer)
    assert api.ledger()["submissions"] == before


def test_a_key_can_be_asked_whose_it_is(api, running):
    answer = api.http.get("/me").json()
    assert answer["api_key"].keys() >= {"acls", "name", "api_key_blocked", "api_key_disabled"}
    del answer["api_key"]
    assert answer == {
        "user_id": "emulator",
        "team_id": "emulator",
        "zdr_status": "no_zdr",
        "team_blocked": False,
        "emulator": True,
    }
    with running(team="another") as other:
        assert other.http.get("/me").json()["team_id"] == "another"
