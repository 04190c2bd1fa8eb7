import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_xai_video.api.redaction import Redaction
from prefect_xai_video.api.responses import (
    VideoStatus,
    is_request_id,
    parse_error,
    parse_request_id,
    parse_retry_after,
    parse_status,
)

ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
URL = f"https://vidgen.x.ai/xai-vidgen-bucket/xai-video-{ID}.mp4"
REDACT = Redaction()


def status(http_status, body=None):
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return parse_status(ID, http_status, content, REDACT)


def test_a_done_status_has_url_duration_model_and_cost():
    parsed = status(
        200,
        {
            "status": "done",
            "video": {"url": URL, "duration": 6, "respect_moderation": True},
            "model": "grok-imagine-video",
            "usage": {"cost_in_usd_ticks": 500000000},
            "progress": 100,
        },
    )
    assert (parsed.state, parsed.duration, parsed.model, parsed.progress) == ("done", 6, "grok-imagine-video", 100)
    assert parsed.cost_usd == Decimal("0.05")
    assert parsed.url.get_secret_value() == URL


def test_printing_a_status_does_not_show_its_url():
    parsed = status(200, {"status": "done", "video": {"url": URL}})
    assert URL not in repr(parsed)
    assert URL not in parsed.model_dump_json()


@pytest.mark.parametrize(
    ("http_status", "body", "state", "progress"),
    [
        (202, {"status": "pending", "progress": 24}, "pending", 24),
        (202, None, "pending", None),
        (202, b"not json", "pending", None),
        (202, {"status": "done", "video": {"url": URL}}, "pending", None),
        (200, {"status": "pending"}, "pending", None),
        (200, {"status": "queued_in_a_way_nobody_knows", "progress": 5}, "pending", 5),
        (200, {"video": {"url": URL, "duration": 6}, "model": "grok-imagine-video"}, "done", None),
        (200, {"status": "done", "video": {}}, "done", None),
        (200, {"status": "done", "video": {"url": "", "respect_moderation": False}}, "moderated", None),
        (200, {"video": {"respect_moderation": False}}, "moderated", None),
        (200, {"status": "expired"}, "expired", None),
        (200, {"status": "failed", "error": {"code": "internal_error", "message": "Oops"}}, "failed", None),
        (200, {"status": "failed", "error": "Oops"}, "failed", None),
        (
            200,
            {"status": "failed", "error": {"code": "invalid_argument", "message": "Rejected by content moderation."}},
            "moderated",
            None,
        ),
        (200, {"status": "failed", "error": {"code": "content_moderated"}}, "moderated", None),
        (200, {"status": "failed", "error": "The video was moderated."}, "moderated", None),
        (200, {"error": "The video was moderated."}, "moderated", None),
        (200, {"status": "failed", "error": {"message": "Use moderate motion"}}, "failed", None),
        (403, {"code": "imagine:content-moderated", "error": "Rejected."}, "moderated", None),
        (200, {"status": "failed"}, "failed", None),
        (400, {"code": "imagine:content-moderated", "error": "Rejected."}, "moderated", None),
        (
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "Generated video rejected by content moderation.",
            },
            "moderated",
            None,
        ),
    ],
)
def test_every_state_is_parsed_in_every_observed_shape(http_status, body, state, progress):
    parsed = status(http_status, body)
    assert (parsed.state, parsed.progress) == (state, progress)


@pytest.mark.parametrize(
    ("http_status", "body"),
    [
        (200, None),
        (200, b"<html>"),
        (200, []),
        (400, {"code": "invalid-argument", "error": "Malformed request ID"}),
        (404, None),
        (500, b"error code: 502"),
        (429, {"code": "resource-exhausted", "error": "Too many requests"}),
    ],
)
def test_an_error_or_an_unreadable_response_is_not_a_status(http_status, body):
    assert status(http_status, body) is None


@pytest.mark.parametrize(
    ("http_status", "body"),
    [
        (200, {"error": "Oops"}),
        (200, {"error": "upstream request timeout"}),
        (200, {"error": {"code": 503, "message": "no healthy upstream"}}),
        (403, b"<html>Blocked. Category: Unmoderated Forums, see our moderation policy</html>"),
        (
            403,
            {
                "code": "permission-denied",
                "error": "Team suspended until its content moderation inquiry ends",
            },
        ),
        (400, {"error": "Moderation is not available now"}),
        (422, b"Failed to deserialize: unknown field `moderated`"),
        (451, b"moderation"),
        (429, {"code": "resource-exhausted", "error": "Too many moderated requests"}),
    ],
)
def test_a_temporary_error_never_ends_a_request(http_status, body):
    assert status(http_status, body) is None


@pytest.mark.parametrize("request_id", ["req_2026/11+ab==", "~abc", "a b", ".hidden", "vidéo-1", "x" * 300])
def test_a_request_id_that_is_accepted_can_be_collected(request_id):
    body = json.dumps({"request_id": request_id}).encode()
    assert parse_request_id(body, Redaction()) == request_id
    assert is_request_id(request_id)


@pytest.mark.parametrize("request_id", [None, 7, "", " ", "a\nb", "https://x.ai/v", "x" * 501])
def test_an_invalid_request_id_is_not_accepted(request_id):
    assert not is_request_id(request_id)


def test_a_moderated_response_has_cost_code_and_text():
    parsed = status(
        400,
        {
            "code": "imagine:content-moderated",
            "error": "Generated video rejected by content moderation.",
            "usage": {"cost_in_usd_ticks": 2500000000},
        },
    )
    assert parsed.cost_usd == Decimal("0.25")
    assert parsed.code == "imagine:content-moderated"
    assert "rejected" in parsed.message


@pytest.mark.parametrize(
    ("ticks", "usd"),
    [
        (1, "0.0000000001"),
        (4200000000, "0.42"),
        (0, "0"),
        ("500000000", "0.05"),
        (-1, None),
        ("x", None),
        (True, None),
        (10**16, "1000000"),
        (10**16 + 1, None),
        (10**400, None),
        ("9" * 5000, None),
        ("1_0", None),
        (1e300, None),
        (float("nan"), None),
        (float("inf"), None),
        ({"n": 1}, None),
    ],
)
def test_ticks_become_exact_dollars(ticks, usd):
    cost = status(200, {"status": "done", "usage": {"cost_in_usd_ticks": ticks}}).cost_usd
    assert cost == (None if usd is None else Decimal(usd))


@pytest.mark.parametrize(
    ("told", "progress"),
    [(24, 24), (24.6, 25), ("24", 24), (-5, 0), (140, 100), (None, None), ("soon", None)]
    + [(10**400, None), (float("inf"), None), (1e300, 100), ("9" * 5000, None), ([24], None)],
)
def test_progress_is_a_percentage_or_nothing(told, progress):
    assert status(202, {"progress": told}).progress == progress


@pytest.mark.parametrize(
    ("told", "duration"),
    [(6, 6), (6.04, 6), ("6", 6), (0, 0), (-1, None), (10**6, None), (float("nan"), None)],
)
def test_duration_is_in_seconds_or_missing(told, duration):
    parsed = status(200, {"status": "done", "video": {"url": URL, "duration": told}})
    assert (parsed.state, parsed.duration) == ("done", duration)


def test_a_number_of_thousands_of_digits_is_ignored_and_the_rest_is_read():
    body = json.dumps({"status": "done", "video": {"url": URL, "duration": 7}}).replace(": 7", ": " + "9" * 5000)
    parsed = status(200, body.encode())
    assert (parsed.state, parsed.duration) == ("done", None)


def test_a_failure_by_moderation_has_its_cost():
    error = {"code": "invalid_argument", "message": "Rejected by content moderation."}
    parsed = status(200, {"status": "failed", "error": error, "usage": {"cost_in_usd_ticks": 500000000}})
    assert (parsed.state, parsed.cost_usd, parsed.code) == ("moderated", Decimal("0.05"), "invalid_argument")


NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400)]), st.text("0123456789.-e", max_size=40)
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(st.characters(), max_size=20)),
    lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(st.text(max_size=5), part, max_size=3)),
    max_leaves=5,
)
STATES = st.sampled_from(["done", "pending", "failed", "expired", "new"])
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "status": STATES | JSON,
        "progress": JSON,
        "model": JSON,
        "error": JSON | st.fixed_dictionaries({}, optional={"code": JSON, "message": JSON}),
        "usage": JSON | st.fixed_dictionaries({"cost_in_usd_ticks": JSON}),
        "video": JSON | st.fixed_dictionaries({}, optional={"url": JSON, "duration": JSON}),
        "request_id": JSON,
    },
)


@given(http_status=st.sampled_from([200, 202, 400, 404, 500]), body=ANSWERS | st.binary(max_size=50))
def test_any_response_is_parsed_to_something_storable(http_status, body):
    parsed = status(http_status, body)
    if parsed is not None:
        assert VideoStatus.model_validate_json(parsed.model_dump_json()).state == parsed.state
        assert parsed.cost_usd is None or 0 <= parsed.cost_usd <= 10**6
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    for text in (*parse_error(content, REDACT), parse_request_id(content, REDACT)):
        assert text is None or text.encode()


@given(st.text("0123456789.-+eE naMoJuGT:,", max_size=40) | st.sampled_from(["9" * 5000, "1e400", "nan", "-1"]))
def test_any_retry_after_is_parsed(value):
    for headers in {"Retry-After": value}, {"Retry-After": "Thu, 26 Nov 2026 10:00:00 GMT", "Date": value}:
        wait = parse_retry_after(headers)
        assert wait is None or 0 <= wait < math.inf


@pytest.mark.parametrize(
    "url", ["https://x/\u00e9", "https://x/\ud800", "https://x/\n", "https://x/" + "a" * 20000, "", 7]
)
def test_an_invalid_url_is_none(url):
    assert status(200, {"status": "done", "video": {"url": url}}).url is None


def test_a_public_url_is_used_if_there_is_no_other():
    parsed = status(200, {"status": "done", "video": {"file_output": {"file_id": "f", "public_url": URL}}})
    assert (parsed.state, parsed.url.get_secret_value()) == ("done", URL)


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b'{"code":"invalid-argument","error":"Bad"}', "invalid-argument", "Bad"),
        (b'{"error":{"message":"Bad","code":"c","type":"t","param":null}}', "c", "Bad"),
        (b'{"error":{"code":404,"message":"No route"}}', "404", "No route"),
        (b'{"error":"Bad"}', None, "Bad"),
        (b"Failed to deserialize the JSON body", None, "Failed to deserialize the JSON body"),
        (b"error code: 502", None, "error code: 502"),
        (b"", None, None),
        (b"\xff\xfe", None, "\ufffd\ufffd"),
    ],
)
def test_an_error_is_read_in_all_its_shapes(body, code, text):
    assert parse_error(body, REDACT) == (code, text)


def test_an_error_text_has_neither_signature_nor_inline_image():
    _, text = parse_error(
        b'{"error":"Cannot fetch https://b.amazonaws.com/k.png?X-Amz-Signature=abc or data:image/png;base64,aGVs"}',
        REDACT,
    )
    assert text == "Cannot fetch https://b.amazonaws.com/k.png?\u2026 or data:\u2026"


def test_a_request_id_is_not_redacted():
    for request_id in ID, "a" * 300, "a?b=c":
        assert (
            parse_request_id(json.dumps({"request_id": request_id}).encode(), Redaction("k" * 20, ID)) == request_id
        )


@pytest.mark.parametrize(
    ("body", "request_id"),
    [
        (b'{"request_id":"abc"}', "abc"),
        (b'{"request_id":""}', None),
        (b'{"request_id":7}', None),
        (b'{"request_id":" "}', None),
        (b'{"request_id":"a\\nb"}', None),
        (b'{"request_id":"\\ud800"}', None),
        (b'{"request_id":"' + b"a" * 501 + b'"}', None),
        (b'{"request_id":["abc"]}', None),
        (b'{"id":"abc"}', None),
        (b'{"request_id":"abc"', None),
        (b"{}", None),
        (b"", None),
        (b"[1]", None),
        (b"<html>", None),
    ],
)
def test_a_request_id_is_a_text_or_nothing(body, request_id):
    assert parse_request_id(body, REDACT) == request_id
