import base64
import json
import re
from decimal import Decimal

import pytest

from prefect_xai_video.api import sources
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.requests import ReferenceRequest
from prefect_xai_video.api.sources import ResolvedInput
from prefect_xai_video.api.validation import check_limits
from prefect_xai_video.errors import InvalidRequest

IMAGE = "https://example.com/cat.png"
VIDEO = "https://example.com/cat.mp4"
CLASSIC, NEWEST, LITE = "grok-imagine-video", "grok-imagine-video-1.5", "grok-imagine-video-1.5-lite"


def test_a_text_request_has_exactly_the_documented_fields():
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


@pytest.mark.parametrize("generate_audio", [True, False])
@pytest.mark.parametrize("image", [{}, {"image_url": "https://example.com/cat.png"}])
def test_sound_can_be_switched_on_and_off(generate_audio, image):
    body = build_request("A cat", generate_audio=generate_audio, **image).body()
    assert body["generate_audio"] is generate_audio
    assert "generate_audio" not in build_request("A cat", **image).body()


def test_sound_by_default_is_the_same_request_and_silence_is_another():
    plain, loud, silent = (build_request("A cat", generate_audio=value).fingerprint for value in (None, True, False))
    assert plain == loud != silent


def test_a_complete_request_is_used_unchanged_and_takes_no_options():
    request = build_request("A cat", duration=3)
    assert build_request(request) is request
    assert build_request(request, resolution=None) is request
    with pytest.raises(InvalidRequest, match=r"^duration: "):
        build_request(request, duration=4)


def test_a_misspelled_option_is_rejected_and_the_options_are_listed():
    with pytest.raises(InvalidRequest, match=r"^durration: there is no such option .*duration, aspect_ratio"):
        build_request("A cat", durration=3)


def test_unset_fields_are_omitted():
    assert build_request("A cat").body() == {"model": "grok-imagine-video", "prompt": "A cat"}


def test_an_image_is_a_nested_object_and_needs_no_prompt():
    request = build_request("", image_url=IMAGE)
    assert request.endpoint == "/videos/generations"
    assert request.body() == {"model": "grok-imagine-video", "image": {"url": IMAGE}}


def test_an_edit_goes_to_its_own_endpoint_without_the_fields_of_a_clip():
    request = build_request("Larger ball", video_url=VIDEO, generate_audio=True)  # As the classic UI sends it.
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
        ({"generate_audio": "no"}, ["generate_audio", "'no'", "true or false"]),
        ({"generate_audio": 1}, ["generate_audio", "1", "true or false"]),
        ({"video_url": VIDEO, "generate_audio": False}, ["generate_audio", "False", "video_url"]),
        ({"prompt": "a \udc80 b"}, ["prompt"]),
        ({"image_url": "https://example.com/\udc80"}, ["image_url"]),
        ({"image_url": IMAGE, "video_url": VIDEO}, ["image_url", "video_url"]),
        ({"video_url": VIDEO, "duration": 6}, ["duration", "6", "edit"]),
        ({"video_url": VIDEO, "aspect_ratio": "16:9"}, ["aspect_ratio", "edit"]),
        ({"video_url": VIDEO, "resolution": "480p"}, ["resolution", "edit"]),
        ({"video_url": VIDEO, "prompt": ""}, ["prompt"]),
        ({"model": ""}, ["model"]),
        ({"extend_video_url": VIDEO, "video_url": VIDEO}, ["extend_video_url", "video_url", "can't be combined"]),
        ({"extend_video_url": VIDEO, "image_url": IMAGE}, ["extend_video_url", "image_url"]),
        ({"extend_video_url": VIDEO, "resolution": "720p"}, ["resolution", "720p", "extension"]),
        ({"extend_video_url": VIDEO, "user": "u-1"}, ["user", "'u-1'", "extend_video_url"]),
        ({"video_url": VIDEO, "reference_image_urls": [IMAGE]}, ["reference_image_urls", "video_url"]),
        ({"reference_image_urls": IMAGE}, ["reference_image_urls", "a list of images"]),
        ({"reference_image_urls": [7]}, ["reference_image_urls[0]", "7"]),
        ({"reference_image_urls": ["https://example.com/\udc80"]}, ["reference_image_urls"]),
        ({"keyframes": ["cat.png"]}, ["keyframes[0]", "'cat.png'", "SECONDS=IMAGE"]),
        ({"keyframes": ["soon=cat.png"]}, ["keyframes[0].timestamp", "'soon'", "a number of seconds"]),
        ({"keyframes": [{"image_url": IMAGE}]}, ["keyframes[0].timestamp", "required"]),
        ({"keyframes": [{"image_url": IMAGE, "timestamp": True}]}, ["keyframes[0]", "True"]),
        ({"keyframes": [{"image_url": IMAGE, "timestamp": float("nan")}]}, ["keyframes[0].timestamp", "nan"]),
        ({"keyframes": [{"image_url": IMAGE, "timestamp_s": 1}]}, ["keyframes[0].timestamp_s", "no such field"]),
        ({"reference_audios": [{"voice": "eve"}]}, ["reference_audios[0].voice", "no such field"]),
        ({"reference_audios": [{"voice_id": "eve", "url": IMAGE}]}, ["reference_audios[0]", "voice_id or url"]),
        ({"reference_audios": [{}]}, ["reference_audios[0]", "voice_id or url"]),
    ],
)
def test_an_invalid_combination_is_rejected_by_name_and_value(parameters, names):
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
        ({"last_frame_url": IMAGE}, ["last_frame_url", CLASSIC, "allowed with grok-imagine-video-1.5"]),
        ({"keyframes": [f"1={IMAGE}"]}, ["keyframes", "allowed with grok-imagine-video-1.5"]),
        ({"reference_audios": ["eve"]}, ["reference_audios", "allowed with grok-imagine-video-1.5"]),
        ({"reference_image_urls": [IMAGE], "model": LITE}, ["reference mode", CLASSIC, "grok-imagine-video-1.5"]),
        ({"reference_image_urls": [IMAGE], "image_url": IMAGE}, ["image_url", "reference_image_urls", CLASSIC]),
        ({"reference_image_urls": [IMAGE] * 8}, ["reference_image_urls", "a list of 8", "at most 7"]),
        ({"reference_image_urls": [IMAGE] * 15, "model": NEWEST}, ["a list of 15", "at most 14"]),
        ({"reference_image_urls": [IMAGE], "duration": 11}, ["duration", "11", "1-10 seconds"]),
        ({"reference_image_urls": [IMAGE], "model": NEWEST, "resolution": "1080p"}, ["resolution", "480p, 720p"]),
        ({"reference_image_urls": [IMAGE], "prompt": ""}, ["prompt", "''", "references"]),
        ({"reference_image_urls": [IMAGE], "prompt": "<IMAGE_2> runs"}, ["prompt", "<IMAGE_2>", "1 given"]),
        ({"prompt": "<IMAGE_0> runs"}, ["prompt", "<IMAGE_0>", "reference_image_urls has none"]),
        ({"prompt": "<AUDIO_0> sings", "image_url": IMAGE}, ["prompt", "<AUDIO_0>", "reference_audios has none"]),
        ({"image_url": IMAGE, "last_frame_url": IMAGE, "model": NEWEST, "resolution": "1080p"}, ["resolution"]),
        ({"reference_audios": ["eve"] * 4, "model": NEWEST}, ["reference_audios", "a list of 4", "at most 3"]),
        ({"keyframes": [f"{n}={IMAGE}" for n in range(1, 6)], "model": NEWEST}, ["a list of 5", "at most 4"]),
        ({"keyframes": [f"8={IMAGE}"], "model": NEWEST}, ["keyframes[0].timestamp", "8", "below 8 s"]),
        ({"keyframes": [f"0={IMAGE}"], "model": NEWEST}, ["keyframes[0].timestamp", "0", "above 0"]),
        ({"keyframes": [f"1={IMAGE}", f"1.2={IMAGE}"], "model": NEWEST}, ["keyframes", "0.20 s", "third"]),
        ({"extend_video_url": VIDEO, "duration": 11}, ["duration", "11", "2-10 seconds"]),
        ({"extend_video_url": VIDEO, "model": NEWEST}, ["model", "extend", "needs grok-imagine-video."]),
    ],
)
def test_limits_of_models_are_enforced_or_warned_about(parameters, names):
    request = build_request(**({"prompt": "A cat"} | parameters))
    with pytest.raises(InvalidRequest) as caught:
        check_limits(request, "strict")
    warned = " ".join(check_limits(request, "warn"))
    for name in names:
        assert name in str(caught.value)
        assert name in warned


def test_a_request_within_the_limits_has_no_warnings():
    for duration in (1, 15):
        assert check_limits(build_request("A cat", duration=duration, resolution="720p")) == []
    assert check_limits(build_request("A cat", resolution="1080p", model="grok-imagine-video-1.5")) == []
    assert check_limits(build_request("x" * 4096)) == []


@pytest.mark.parametrize(
    ("parameters", "doubt"),
    [
        ({"aspect_ratio": "21:9"}, "aspect_ratio: .* 21:9"),
        ({"extend_video_url": VIDEO, "duration": 1}, "duration: .* extension of 1 s"),
        ({"prompt": "<IMAGE_1> runs", "reference_image_urls": [IMAGE]}, "prompt: <IMAGE_1> .* counts from 1"),
    ],
)
def test_a_value_on_which_the_sources_disagree_is_sent_with_a_warning(parameters, doubt):
    [warning] = check_limits(build_request(**{"prompt": "A cat"} | parameters))
    assert re.match(doubt, warning)


def test_an_empty_list_is_as_good_as_none():
    empty = build_request("A cat", reference_image_urls=[], keyframes=(), reference_audios=[])
    assert empty.body() == build_request("A cat").body()


def test_an_unknown_model_is_sent_with_a_warning():
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
        ({"duration": 2, "reference_image_urls": [IMAGE] * 3}, "0.106"),
        ({"duration": 2, "image_url": IMAGE, "keyframes": [f"1={IMAGE}"], "model": NEWEST}, "0.18"),
    ],
)
def test_the_cost_is_estimated_from_the_price_table(parameters, usd):
    assert build_request("A cat", **parameters).estimated_cost_usd == Decimal(usd)


def test_there_is_no_estimate_without_a_price():
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
def test_a_new_signature_is_the_same_request_and_is_not_recorded(signature):
    one, two = (
        build_request("A cat", image_url=f"{IMAGE}?{signature.format(secret)}") for secret in ("s3cr3t1", "s3cr3t2")
    )
    assert one.fingerprint == two.fingerprint
    assert "s3cr3t" not in json.dumps(one.record())
    assert "s3cr3t1" in one.body()["image"]["url"]


def test_short_parameter_names_are_signatures_only_next_to_one():
    one, two = (build_request("A cat", image_url=f"{IMAGE}?st={n}&expires={n}&policy={n}") for n in (1, 2))
    assert one.fingerprint != two.fingerprint


def test_another_query_is_another_request_but_its_values_are_not_recorded():
    one, two = (build_request("A cat", image_url=f"{IMAGE}?token=t0k3n{n}") for n in (1, 2))
    assert one.fingerprint != two.fingerprint
    assert "t0k3n" not in json.dumps(one.record())


def test_inline_data_is_recorded_by_its_digest():
    record = build_request("A cat", image_url="data:image/png;base64,aGVsbG8=").record()
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert record["image"] == {"url": f"sha256:{digest}"}


@pytest.mark.parametrize("url", ["http://example.com/cat.png", "ftp://example.com/cat.png", "cat.png", "s3://b/k"])
def test_a_body_has_only_urls_that_xai_can_fetch(url):
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


def test_inline_data_is_hashed_once_however_often_its_request_is_identified(monkeypatch):
    hashed = []
    identify = sources.identity_of
    monkeypatch.setattr(sources, "identity_of", lambda url: hashed.append(url) or identify(url))
    data = f"data:image/png;base64,{base64.b64encode(bytes(1000)).decode()}"
    request = build_request("A cat", image_url=data).resolved({data: ResolvedInput(data)})
    assert request.fingerprint == request.resolved({}).fingerprint
    assert request.has_fingerprint(request.fingerprint)
    assert request.record()["image"]["url"].startswith("sha256:")
    assert hashed == [data]


def test_the_fingerprint_of_an_s3_input_in_an_old_receipt_stays_valid():
    signed = "https://videos.s3.eu-central-1.amazonaws.com/inputs/a%20cat.png?X-Amz-Expires=21600&X-Amz-Signature=0b"
    asked = build_request("A cat", image_url="s3://videos/inputs/a cat.png")
    request = asked.resolved(
        {"s3://videos/inputs/a cat.png": ResolvedInput(signed, "s3://videos/inputs/a cat.png#etag=1")}
    )
    assert request.has_fingerprint("5cfb1e80f5c1c0a973e4440419255e07ccb0d40b0c7794778af18f5664b1916a")
    assert request.fingerprint != "5cfb1e80f5c1c0a973e4440419255e07ccb0d40b0c7794778af18f5664b1916a"


SIGNED = "https://example.com/cat.png?X-Amz-Signature=s3cr3t"


@pytest.mark.parametrize(
    "given", [{IMAGE}, (url for url in [IMAGE]), {IMAGE: 1}, IMAGE, b"cat.png", [IMAGE, None], [[IMAGE]], ["\udcff"]]
)
def test_references_are_a_list_of_texts_that_keeps_its_order(given):
    pinned = {"image_url": IMAGE, "last_frame_url": IMAGE, "model": NEWEST}
    with pytest.raises(InvalidRequest, match=r"^reference_image_urls(\[\d\])?: .* is not allowed; allowed: "):
        build_request("A cat", reference_image_urls=given, **pinned)


@pytest.mark.parametrize(
    "options",
    [
        {"reference_audios": [{"voice_id": SIGNED}]},
        {"reference_audios": [{"voice_id": "eve", "url": SIGNED}]},
        {"keyframes": f"1={SIGNED}"},
        {"image_url": [SIGNED]},
        {"reference_images": [SIGNED]},
        {"video_url": {"url": "https://user:s3cr3t@example.com/cat.mp4"}},
    ],
)
def test_an_error_never_quotes_what_a_url_hides(options):
    with pytest.raises(InvalidRequest, match=f"^{next(iter(options))}.*allowed: ") as caught:
        build_request("A cat", model=NEWEST, **options)
    assert "s3cr3t" not in str(caught.value)


def test_nor_does_an_error_of_a_request_class():
    with pytest.raises(ValueError, match="voice_id") as caught:
        ReferenceRequest(prompt="A cat", reference_audios=({"voice_id": SIGNED},))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("voice", ["  ", "my voice", "\udcff", "e" * 129])
def test_the_id_of_a_voice_is_one_word(voice):
    with pytest.raises(InvalidRequest, match=r"^reference_audios\[0\]\.voice_id: "):
        build_request("A cat", reference_audios=[voice], model=NEWEST)


@pytest.mark.parametrize(
    "options",
    [
        {"reference_image_urls": [7] * 10_000},
        {"keyframes": [{"image_url": IMAGE, "timestamp": 0}] * 10_000},
        {"reference_image_urls": [IMAGE], "prompt": "".join(f"<IMAGE_{number}>" for number in range(300))},
    ],
)
def test_an_error_stays_short_however_long_the_list_is(options):
    with pytest.raises(InvalidRequest) as caught:
        check_limits(build_request(**{"prompt": "A cat"} | options, model=NEWEST))
    assert len(str(caught.value)) < 600


def test_keyframes_in_another_order_are_the_same_request_and_references_are_another():
    frames = [f"1={IMAGE}", f"2={VIDEO}"]
    one, two = (build_request("A cat", keyframes=given, model=NEWEST) for given in (frames, frames[::-1]))
    assert one.fingerprint == two.fingerprint
    assert [frame["timestamp_s"] for frame in two.body()["keyframes"]] == [2, 1]
    one, two = (
        build_request("A cat", reference_image_urls=given) for given in ([IMAGE, IMAGE + "2"], [IMAGE + "2", IMAGE])
    )
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize("url", [f" {IMAGE}", f"{IMAGE}\n", "https://example.com/\tcat.png"])
def test_a_url_with_characters_that_readers_of_urls_drop_is_refused(url):
    with pytest.raises(InvalidRequest, match="control character"):
        build_request("A cat", image_url=url).body()
