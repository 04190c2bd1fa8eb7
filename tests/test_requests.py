import base64
import json
from decimal import Decimal

import pytest

from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.requests import ResolvedInput, build_request, check_limits

IMAGE = "https://example.com/cat.png"
VIDEO = "https://example.com/cat.mp4"


def test_a_text_request_has_exactly_the_fields_of_the_contract():
    request = build_request("A cat", duration=6, aspect_ratio="9:16", resolution="720p", user="u-1")
    assert request.endpoint == "/videos/generations"
    assert request.body() == {
        "model": "grok-imagine-video",
        "prompt": "A cat",
        "user": "u-1",
        "duration": 6,
        "aspect_ratio": "9:16",
        "resolution": "720p",
    }


def test_what_was_not_asked_for_is_left_out():
    assert build_request("A cat").body() == {"model": "grok-imagine-video", "prompt": "A cat"}


def test_an_image_is_a_nested_object_and_needs_no_prompt():
    request = build_request("", image_url=IMAGE)
    assert request.endpoint == "/videos/generations"
    assert request.body() == {"model": "grok-imagine-video", "image": {"url": IMAGE}}


def test_an_edit_goes_to_its_own_endpoint_without_the_fields_of_a_clip():
    request = build_request("Larger ball", video_url=VIDEO)
    assert request.endpoint == "/videos/edits"
    assert request.body() == {"model": "grok-imagine-video", "prompt": "Larger ball", "video": {"url": VIDEO}}


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"prompt": ""}, ["prompt", "''"]),
        ({"prompt": "  "}, ["prompt"]),
        ({"prompt": None}, ["prompt", "None"]),
        ({"duration": "ten"}, ["duration", "'ten'", "whole number"]),
        ({"duration": 6.5}, ["duration", "6.5"]),
        ({"duration": 0}, ["duration", "0", "1-15"]),
        ({"duration": True}, ["duration", "True"]),
        ({"prompt": "a \udc80 b"}, ["prompt"]),
        ({"image_url": "https://example.com/\udc80"}, ["image_url"]),
        ({"image_url": IMAGE, "video_url": VIDEO}, ["image_url", "video_url"]),
        ({"video_url": VIDEO, "duration": 6}, ["duration", "6", "edit"]),
        ({"video_url": VIDEO, "aspect_ratio": "16:9"}, ["aspect_ratio", "edit"]),
        ({"video_url": VIDEO, "resolution": "480p"}, ["resolution", "edit"]),
        ({"video_url": VIDEO, "prompt": ""}, ["prompt"]),
        ({"model": ""}, ["model"]),
    ],
)
def test_what_makes_no_request_is_refused_by_name_and_value(parameters, names):
    with pytest.raises(InvalidRequest) as caught:
        build_request(**({"prompt": "A cat"} | parameters))
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"duration": 16}, ["duration", "16", "1-15"]),
        ({"aspect_ratio": "5:3"}, ["aspect_ratio", "'5:3'", "16:9", "2:3"]),
        ({"resolution": "1080p"}, ["resolution", "'1080p'", "480p, 720p"]),
        ({"resolution": "4k"}, ["resolution", "'4k'"]),
        ({"prompt": "x" * 4097}, ["prompt", "4097", "4096"]),
        ({"video_url": VIDEO, "model": "grok-imagine-video-1.5"}, ["model", "edit"]),
        ({"duration": 99, "aspect_ratio": "5:3"}, ["duration", "aspect_ratio"]),
    ],
)
def test_the_table_of_models_is_enforced_or_warned_of(parameters, names):
    request = build_request(**({"prompt": "A cat"} | parameters))
    with pytest.raises(InvalidRequest) as caught:
        check_limits(request, "strict")
    warned = " ".join(check_limits(request, "warn"))
    for name in names:
        assert name in str(caught.value)
        assert name in warned


def test_what_the_table_allows_passes_without_a_word():
    for duration in (1, 15):
        assert check_limits(build_request("A cat", duration=duration, resolution="720p")) == []
    assert check_limits(build_request("A cat", resolution="1080p", model="grok-imagine-video-1.5")) == []
    assert check_limits(build_request("x" * 4096)) == []


def test_an_unknown_model_is_passed_on_with_a_warning():
    request = build_request("A cat", model="grok-imagine-video-9", duration=60, resolution="8k")
    assert "grok-imagine-video-9" in check_limits(request, "strict")[0]
    assert request.body()["model"] == "grok-imagine-video-9"


def test_an_alias_has_the_limits_of_its_model():
    request = build_request("A cat", model="grok-imagine-video-1.5-preview", duration=16)
    with pytest.raises(InvalidRequest, match="duration"):
        check_limits(request)


@pytest.mark.parametrize(
    ("parameters", "usd"),
    [
        ({}, "0.40"),
        ({"duration": 6}, "0.30"),
        ({"duration": 6, "resolution": "720p"}, "0.42"),
        ({"duration": 1, "image_url": IMAGE}, "0.052"),
        ({"duration": 2, "resolution": "1080p", "model": "grok-imagine-video-1.5"}, "0.50"),
    ],
)
def test_the_cost_is_estimated_by_the_price_table(parameters, usd):
    assert build_request("A cat", **parameters).estimated_cost_usd == Decimal(usd)


def test_there_is_no_estimate_where_the_table_can_not_say():
    assert build_request("A cat", model="grok-imagine-video-9").estimated_cost_usd is None
    assert build_request("A cat", video_url=VIDEO).estimated_cost_usd is None


def test_a_fingerprint_is_equal_for_equal_requests_only():
    same = {build_request("A cat", duration=6).fingerprint for _ in range(2)}
    others = {
        build_request("A dog", duration=6).fingerprint,
        build_request("A cat", duration=7).fingerprint,
        build_request("A cat", image_url=IMAGE).fingerprint,
        build_request("A cat", video_url=VIDEO).fingerprint,
    }
    assert len(same) == 1
    assert len(same | others) == 5


def test_a_request_recognises_its_own_fingerprint_only():
    request = build_request("A cat", duration=6)
    assert request.has_fingerprint(build_request("A cat", duration=6).fingerprint)
    assert not request.has_fingerprint(build_request("A cat", duration=7).fingerprint)


@pytest.mark.parametrize(
    "signature",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261122&X-Amz-Signature={}&X-Amz-Expires=60",
        "AWSAccessKeyId=AKIA&Signature={}&Expires=1790000000",
        "sv=2024-01-01&se=2026-11-22&sr=b&sp=r&sig={}",
        "X-Goog-Signature={}&X-Goog-Date=20261122",
    ],
)
def test_a_new_signature_is_the_same_request_and_is_written_nowhere(signature):
    one, two = (
        build_request("A cat", image_url=f"{IMAGE}?{signature.format(secret)}") for secret in ("s3cr3t1", "s3cr3t2")
    )
    assert one.fingerprint == two.fingerprint
    assert "s3cr3t" not in json.dumps(one.record())
    assert "s3cr3t1" in one.body()["image"]["url"]


def test_short_names_are_signatures_only_beside_one():
    one, two = (build_request("A cat", image_url=f"{IMAGE}?st={n}&expires={n}&policy={n}") for n in (1, 2))
    assert one.fingerprint != two.fingerprint


def test_another_query_is_another_request_but_its_values_are_not_written():
    one, two = (build_request("A cat", image_url=f"{IMAGE}?token=t0k3n{n}") for n in (1, 2))
    assert one.fingerprint != two.fingerprint
    assert "t0k3n" not in json.dumps(one.record())


def test_inline_data_is_recorded_by_its_digest():
    record = build_request("A cat", image_url="data:image/png;base64,aGVsbG8=").record()
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert record["image"] == {"url": f"sha256:{digest}"}


@pytest.mark.parametrize("url", ["http://example.com/cat.png", "ftp://example.com/cat.png", "cat.png", "s3://b/k"])
def test_a_body_never_carries_what_the_service_can_not_fetch(url):
    with pytest.raises(InvalidRequest, match="https"):
        build_request("A cat", image_url=url).body()


def test_plain_http_is_for_this_machine_only():
    url = "http://127.0.0.1:9000/bucket/cat.png"
    assert build_request("A cat", image_url=url).body()["image"]["url"] == url


PNG_CONTENT = b"\x89PNG\r\n\x1a\n" + bytes(40)
MP4_CONTENT = b"\x00\x00\x00\x18ftypmp42" + bytes(40)
PNG = f"data:image/png;base64,{base64.b64encode(PNG_CONTENT).decode()}"
MP4 = f"data:video/mp4;base64,{base64.b64encode(MP4_CONTENT).decode()}"


@pytest.mark.parametrize(
    ("parameters", "fingerprint"),
    [
        (
            {"duration": 6, "aspect_ratio": "9:16", "resolution": "720p", "user": "u-1"},
            "3ef0bb35769fbd74ee2c6ee8a8fd6987c2a0c9849d54541134e81ffae4eff620",
        ),
        ({"prompt": "Kätzchen"}, "daeb72e0a947470cf1bf059e37f6ee5e349882704bf04e2d04f0bc6b2d80e235"),
        ({"prompt": "", "image_url": IMAGE}, "6193414243e5f0f437d4cd0f4fe06a445eaacb206417fbc35a8e1379e744d47e"),
        (
            {"image_url": f"{IMAGE}?token=1&X-Amz-Signature=abc"},
            "2d2f9177d93b66fb8692c189886fecffd680a026465f49988b74d67059cd5d9e",
        ),
        ({"image_url": PNG}, "d899e40c44b872d2ef6a90dcba575ba6102b83db78b7710e578d955f28b39f5b"),
        ({"video_url": MP4}, "da1857831640fc181a61d40a36eac266bb442abf789c0cc199303360893968f8"),
        (
            {"video_url": "https://user:pw@example.com/cat.mp4?sv=1&sig=2&a=3"},
            "f03f8bc5f68a6754b82abc4204f53b8907c0f6981f13b841a8abbe5ae074f2ca",
        ),
    ],
)
def test_the_fingerprints_in_old_receipts_stay_valid(parameters, fingerprint):
    assert build_request(**{"prompt": "A cat"} | parameters).fingerprint == fingerprint


def test_the_fingerprint_of_an_s3_input_in_an_old_receipt_stays_valid():
    signed = "https://videos.s3.eu-central-1.amazonaws.com/inputs/a%20cat.png?X-Amz-Expires=21600&X-Amz-Signature=0b"
    asked = build_request("A cat", image_url="s3://videos/inputs/a cat.png")
    request = asked.resolved({"image_url": ResolvedInput(signed, "s3://videos/inputs/a cat.png#etag=1")})
    assert request.has_fingerprint("5cfb1e80f5c1c0a973e4440419255e07ccb0d40b0c7794778af18f5664b1916a")
    assert request.fingerprint != "5cfb1e80f5c1c0a973e4440419255e07ccb0d40b0c7794778af18f5664b1916a"
