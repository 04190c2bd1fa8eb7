"""Receipts that version 1 wrote, in every state: they are carried on, and nothing is paid for again."""

import math
import os
import time
from pathlib import Path

import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.sources import ResolvedInput
from prefect_xai_video.engine import inquiry, journal
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import (
    KeyConflict,
    SubmissionUnknown,
    VideoExpired,
    VideoFailed,
    VideoModerated,
)

from ..support.api_key import API_KEY
from ..support.scripted import ScriptedServer, answer

WRITTEN = Path(__file__).parent / "receipts_version_1"
CAT = build_request("A cat playing with a ball", duration=6, aspect_ratio="9:16")
DOG = build_request("A dog in the snow", duration=6, aspect_ratio="9:16")
SIGNED = (
    "https://shop.s3.eu-central-1.amazonaws.com/cats/one.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=new"
)
MOVING = build_request("Make it move", image_url="s3://shop/cats/one.png", duration=6).resolved(
    {"s3://shop/cats/one.png": ResolvedInput(SIGNED, "s3://shop/cats/one.png#etag=1")}
)
GOES_ON = {
    "submitted": CAT,
    "done": CAT,
    "saving": CAT,
    "stored": CAT,
    "adopted": DOG,
    "adopted_stored": DOG,
    "resubmitted": CAT,
    "late_reply_beside": CAT,
    "late_reply_is_current_again": CAT,
    "regenerated_with_another_prompt": DOG,
    "direct_delivered": CAT,
    "from_s3_submitted": MOVING,
    "from_s3_stored": MOVING,
}
ENDS = {
    "sending": (CAT, SubmissionUnknown),
    "unknown": (CAT, SubmissionUnknown),
    "from_s3_unknown": (MOVING, SubmissionUnknown),
    "failed": (CAT, VideoFailed),
    "moderated": (CAT, VideoModerated),
    "expired": (CAT, VideoExpired),
    "refused_repetition": (CAT, VideoFailed),
}
EXPIRED = answer("200 OK", b'{"status":"expired"}')
ACCEPTED = answer("200 OK", b'{"request_id":"paid-now"}')


@pytest.fixture
def start(tmp_path):
    """Starts a request under a key whose receipt version 1 wrote, which is as old as a claim left by a crash."""

    async def begin(name, request, server, **options):
        path = tmp_path / "cat.json"
        path.write_bytes((WRITTEN / f"{name}.json").read_bytes())
        long_ago = time.time() - journal.CLAIM_SECONDS - 1
        os.utime(path, (long_ago, long_ago))
        async with XaiVideoClient(API_KEY, f"{server.url}/v1", retries=Retries(attempts=1)) as client:
            return await Generation(client, LocalStore(tmp_path)).start(request, "cat", **options)

    return begin


def test_every_kept_receipt_is_tested():
    tried = {*GOES_ON, *ENDS, "refused", "direct_unknown"}
    assert {path.stem for path in WRITTEN.glob("*.json")} == tried


@pytest.mark.parametrize("name", GOES_ON)
async def test_a_paid_request_continues_without_a_post(start, name):
    with ScriptedServer([]) as server:
        receipt = await start(name, GOES_ON[name], server)
    assert receipt.state in {"submitted", "done", "stored"}
    assert server.requests == []


@pytest.mark.parametrize("name", ENDS)
async def test_a_failed_request_is_the_same_error_without_a_post(start, name):
    request, error = ENDS[name]
    with ScriptedServer([EXPIRED]) as server, pytest.raises(error):
        await start(name, request, server)
    assert not any(asked.startswith("POST") for asked in server.requests)


async def test_an_expected_delivery_is_still_expected(start, monkeypatch):
    # The receipt that was kept gets older; a delivery is waited for six hours only.
    monkeypatch.setattr(inquiry, "UPLOAD_SECONDS", math.inf)
    with ScriptedServer([]) as server:
        receipt = await start("direct_unknown", CAT, server)
    assert (receipt.state, len(receipt.undelivered)) == ("unknown", 1)
    assert server.requests == []


async def test_a_refused_request_is_sent(start):
    with ScriptedServer([ACCEPTED]) as server:
        receipt = await start("refused", CAT, server)
    assert (receipt.state, receipt.request_id) == ("submitted", "paid-now")


@pytest.mark.parametrize("name", [*GOES_ON, *ENDS])
async def test_another_request_does_not_get_the_key(start, name):
    other = build_request("A fish", duration=6)
    with ScriptedServer([EXPIRED]) as server:
        if name.startswith("adopted"):
            assert (await start(name, other, server)).state in {"submitted", "stored"}
        else:
            with pytest.raises(KeyConflict):
                await start(name, other, server)
    assert server.requests == []
