import asyncio
import hashlib
import json
import os
import threading
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from prefect_xai_video import Retries, Timeouts, XaiVideoClient
from prefect_xai_video.api.client import Accepted
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine import accounts, journal, posting
from prefect_xai_video.engine.accounts import account_of
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule, RenderTimes
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import (
    DownloadError,
    InvalidRequest,
    KeyConflict,
    RateLimited,
    RequestRejected,
    StorageError,
    SubmissionUnknown,
    VideoExpired,
    VideoFailed,
    VideoModerated,
    VideoTimeout,
    XaiVideoError,
)
from prefect_xai_video.orchestration.storage import open_store

from ..support.api_key import API_KEY
from ..support.scripted import CUT, NOT_HERE, SILENCE, ScriptedServer, answer, mp4

REQUEST = build_request("A cat", duration=1)
OTHER = build_request("A dog", duration=1)
QUICK = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)
ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
ACCEPTED = answer("200 OK", f'{{"request_id":"{ID}"}}'.encode())
TOO_MANY = answer("429 Too Many Requests", b'{"error":"Too many"}', "Retry-After: 0")
VIDEO = mp4(bytes(1000))


def done(url):
    return answer("200 OK", json.dumps({"status": "done", "video": {"url": url, "duration": 1}}).encode())


@pytest.fixture
async def engine(emulator, storage, tmp_path):
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        yield Generation(client, open_store(storage, tmp_path), SCHEDULE)


@asynccontextmanager
async def scripted(script, store, me=NOT_HERE, **timeouts):
    """An engine whose xAI answers exactly the script."""
    with ScriptedServer(script, me) as server:
        async with XaiVideoClient(
            API_KEY, f"{server.url}/v1", retries=QUICK, timeouts=Timeouts(**timeouts)
        ) as client:
            yield Generation(client, store, SCHEDULE), server


def elsewhere(coroutine):
    """Run what somebody else does meanwhile."""
    thread = threading.Thread(target=asyncio.run, args=(coroutine,))
    thread.start()
    thread.join()


@pytest.fixture
def local(tmp_path):
    return LocalStore(tmp_path)


async def age(store, key, **elapsed):
    """Have the current attempt of a receipt begun so long ago."""
    held = await store.read(key)
    attempts = [
        attempt.model_copy(update={"started_at": attempt.started_at - timedelta(**elapsed)})
        for attempt in held.receipt.attempts
    ]
    await store.replace(held, held.receipt.model_copy(update={"attempts": tuple(attempts)}))


async def make(engine, key, request=REQUEST, **options):
    await engine.start(request, key, **options)
    await engine.wait(key, timeout=30)
    return await engine.save(key)


async def test_a_video_is_made_stored_and_paid_for_once(engine, submissions):
    video = await make(engine, "cats/one")
    held = await engine.store.read("cats/one")
    assert held.receipt.state == "stored"
    assert held.receipt.file.sha256 == video.sha256
    assert (video.duration, str(video.cost_usd)) == (1, "0.05")
    assert video.request_id == held.receipt.request_id
    assert submissions() == 1


async def test_the_same_key_again_sends_nothing_and_returns_the_same_video(engine, submissions):
    assert await make(engine, "cat") == await make(engine, "cat")
    assert submissions() == 1


async def test_another_request_under_a_paid_key_is_a_conflict(engine, submissions):
    await engine.start(REQUEST, "cat")
    with pytest.raises(KeyConflict, match="another request") as caught:
        await engine.start(OTHER, "cat")
    assert caught.value.resend_safe
    assert submissions() == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"duration": 2}, "duration"),
        ({"duration": 2, "aspect_ratio": "9:16", "prompt": "Another secret cat"}, "prompt, duration, aspect_ratio"),
        ({"image_url": "https://example.com/cat.png?X-Amz-Signature=s3cr3t"}, "mode, image_url"),
        ({"video_url": "https://example.com/cat.mp4", "duration": None}, "mode, duration, the input clip"),
        ({"user": "u-1", "generate_audio": True}, "user"),
    ],
)
async def test_the_options_in_which_another_request_differs_are_named_without_their_values(engine, options, named):
    await engine.start(build_request("A secret cat", duration=1), "cat")
    given = {"prompt": "A secret cat", "duration": 1} | options
    with pytest.raises(KeyConflict) as caught:
        await engine.start(build_request(**given), "cat")
    assert f" UTC). This one differs in {named}. Nothing was sent. Use another key." in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_racing_for_a_key_sends_one_post(engine, submissions):
    videos = await asyncio.gather(*(make(engine, "cat") for _ in range(8)))
    assert len(set(videos)) == 1
    assert submissions() == 1


async def test_a_step_out_of_order_names_the_step_before_it(engine):
    with pytest.raises(StorageError, match="start the video first"):
        await engine.wait("cat", timeout=1)
    await engine.start(REQUEST, "cat")
    with pytest.raises(StorageError, match="wait for it first") as caught:
        await engine.save("cat")
    assert caught.value.key == "cat"


async def test_a_moderated_video_is_the_same_error_without_paying_until_regenerated(engine, submissions):
    blocked = build_request("A [fault:moderated] cat", duration=1)
    for _ in range(2):
        with pytest.raises(VideoModerated) as caught:
            await make(engine, "cat", blocked)
    assert (caught.value.key, str(caught.value.cost_usd)) == ("cat", "0.05")
    assert caught.value.request_id
    assert submissions() == 1
    with pytest.raises(VideoModerated):
        await make(engine, "cat", blocked, regenerate=True)
    assert submissions() == 2
    held = await engine.store.read("cat")
    assert [attempt.number for attempt in held.receipt.attempts] == [1, 2]


async def test_another_prompt_may_regenerate_a_moderated_video(engine):
    with pytest.raises(VideoModerated):
        await make(engine, "cat", build_request("A [fault:moderated] cat", duration=1))
    assert (await make(engine, "cat", REQUEST, regenerate=True)).key == "cat"


async def test_a_retried_run_regenerates_only_once(engine, submissions):
    blocked = build_request("A [fault:moderated] cat", duration=1)
    for _ in range(4):
        with pytest.raises(VideoModerated):
            await make(engine, "cat", blocked, flow_run_id="run-1", regenerate=True)
    assert submissions() == 2


async def test_regenerate_does_not_change_a_stored_video(engine, submissions):
    video = await make(engine, "cat")
    assert await make(engine, "cat", regenerate=True) == video
    assert submissions() == 1


async def test_a_time_out_keeps_the_request_and_the_same_key_continues(engine, submissions):
    request = build_request("A cat [fault:poll-404*2]", duration=1)
    await engine.start(request, "cat")
    with pytest.raises(VideoTimeout) as caught:
        await engine.wait("cat", timeout=0.01)
    assert caught.value.request_id == (await engine.store.read("cat")).receipt.request_id
    assert (await make(engine, "cat", request)).request_id == caught.value.request_id
    assert submissions() == 1


async def test_a_failed_render_is_an_error_with_all_ids(engine):
    with pytest.raises(VideoFailed) as caught:
        await make(engine, "cat", build_request("A cat", image_url="data:image/png;base64,aGVsbG8="))
    assert caught.value.key == "cat"
    assert caught.value.request_id


async def test_a_missing_stored_video_is_downloaded_again_without_paying(engine, submissions, local):
    mine = Generation(engine.client, local, SCHEDULE)
    first = await make(mine, "cat")
    (local.root / "cat.mp4").unlink()
    assert await make(mine, "cat") == first
    assert hashlib.sha256((local.root / "cat.mp4").read_bytes()).hexdigest() == first.sha256
    assert submissions() == 1


async def test_a_file_that_replaced_a_stored_video_is_set_aside_and_not_returned(engine, submissions, local):
    mine = Generation(engine.client, local, SCHEDULE)
    first = await make(mine, "cat")
    path = local.root / "cat.mp4"
    other = bytes(first.size)
    path.write_bytes(other)
    assert await make(mine, "cat") == first
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first.sha256
    assert [moved.read_bytes() for moved in local.root.glob("cat.replaced-*.mp4")] == [other]
    assert submissions() == 1


@pytest.mark.parametrize("status", [answer("200 OK", b'{"status":"expired"}'), answer("404 Not Found")])
async def test_a_stored_video_that_xai_lost_too_is_not_paid_for_again(local, status):
    async with scripted([ACCEPTED], local) as (engine, server):
        server.extend([done(f"{server.url}/v.mp4"), answer("200 OK", VIDEO, "Content-Type: video/mp4"), status])
        await make(engine, "cat")
        (local.root / "cat.mp4").unlink()
        await age(local, "cat", hours=1)
        with pytest.raises(StorageError, match="no longer has it") as caught:
            await make(engine, "cat")
    assert caught.value.request_id == ID
    assert sum(request.startswith("POST") for request in server.requests) == 1


async def test_a_refused_post_is_recorded_and_retried(local):
    async with scripted([TOO_MANY, ACCEPTED], local) as (engine, server):
        receipt = await engine.start(REQUEST, "cat")
    assert [attempt.outcome for attempt in receipt.attempts] == ["refused", "submitted"]
    assert len(server.requests) == 2


async def test_a_refusal_is_left_as_refused_and_may_be_sent_again(local):
    async with scripted([TOO_MANY, TOO_MANY], local) as (engine, _):
        with pytest.raises(RateLimited) as caught:
            await engine.start(REQUEST, "cat")
    assert caught.value.key == "cat"
    assert (await local.read("cat")).receipt.state == "refused"
    async with scripted([ACCEPTED], local) as (engine, _):
        assert (await engine.start(REQUEST, "cat")).state == "submitted"


async def test_a_key_under_which_nothing_was_accepted_is_free_for_another_request(local):
    async with scripted([answer("400 Bad Request", b'{"error":"No"}'), ACCEPTED], local) as (engine, _):
        with pytest.raises(RequestRejected):
            await engine.start(REQUEST, "cat")
        receipt = await engine.start(OTHER, "cat")
    assert (receipt.state, receipt.fingerprint) == ("submitted", OTHER.fingerprint)


@pytest.mark.parametrize("outcome", [CUT, SILENCE, answer("500 Oops"), answer("200 OK", b"?")])
async def test_an_unknown_outcome_is_never_sent_again_automatically(local, outcome):
    async with scripted([outcome, ACCEPTED], local, start=0.3) as (engine, server):
        for _ in range(3):
            with pytest.raises(SubmissionUnknown, match="on_unknown") as caught:
                await engine.start(REQUEST, "cat")
    assert caught.value.key == "cat"
    assert len(server.requests) == 1
    assert (await local.read("cat")).receipt.state == "unknown"


async def test_an_unknown_outcome_is_resubmitted_on_request_but_once_per_run(local):
    async with scripted([CUT, CUT, ACCEPTED], local) as (engine, server):
        for _ in range(3):
            with pytest.raises(SubmissionUnknown):
                await engine.start(REQUEST, "cat", flow_run_id="run-1", on_unknown="resubmit")
        assert len(server.requests) == 2
        receipt = await engine.start(REQUEST, "cat", flow_run_id="run-2", on_unknown="resubmit")
    assert [attempt.reason for attempt in receipt.attempts] == ["first", "resubmit", "resubmit"]


async def test_a_run_waits_for_a_recent_claim_of_another_run(local, monkeypatch):
    monkeypatch.setattr(journal, "CLAIM_WAIT_SECONDS", 0.05)
    held = await local.create(Receipt.claim("cat", REQUEST))
    async with scripted([], local) as (engine, server):
        starting = asyncio.create_task(engine.start(REQUEST, "cat"))
        await asyncio.sleep(0.2)
        await local.replace(held, held.receipt.submitted("theirs"))
        assert (await starting).request_id == "theirs"
    assert server.requests == []


async def test_a_claim_left_by_a_crash_has_unknown_outcome(local):
    await local.create(Receipt.claim("cat", REQUEST))
    long_ago = time.time() - journal.CLAIM_SECONDS - 1
    os.utime(local.root / "cat.json", (long_ago, long_ago))
    async with scripted([ACCEPTED], local) as (engine, server):
        with pytest.raises(SubmissionUnknown, match="ended before it recorded a response"):
            await engine.start(REQUEST, "cat")
        assert server.requests == []
        assert (await engine.start(REQUEST, "cat", on_unknown="resubmit")).state == "submitted"


async def test_a_reply_that_comes_after_its_claim_was_given_up_is_not_lost(local):
    async with scripted([ACCEPTED], local) as (engine, _):
        submit = engine.client.submit

        async def give_up():
            held = await local.read("cat")
            await local.replace(held, held.receipt.unknown(SubmissionUnknown("given up")))

        def slow(request, **options):
            elsewhere(give_up())
            return submit(request, **options)

        engine.client.submit = slow
        receipt = await engine.start(REQUEST, "cat")
    assert receipt.state == "submitted"
    assert (await local.read("cat")).receipt.request_id == receipt.request_id


async def test_a_cancelled_start_still_records_its_request_id(local):
    async with scripted([ACCEPTED], local) as (engine, server):
        submit = engine.client.submit

        def slow(request, **options):
            accepted = submit(request, **options)
            time.sleep(0.3)
            return accepted

        engine.client.submit = slow
        starting = asyncio.create_task(engine.start(REQUEST, "cat"))
        while not server.requests:
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert (await local.read("cat")).receipt.state == "submitted"
    assert len(server.requests) == 1


async def test_a_start_that_is_cancelled_repeatedly_still_records_its_request_id(local, monkeypatch):
    monkeypatch.setattr(posting, "CLEANUP_SECONDS", 0.1)
    reply = threading.Event()

    def late():
        reply.wait()
        return ACCEPTED

    async with scripted([late], local) as (engine, server):
        starting = asyncio.create_task(engine.start(REQUEST, "cat"))
        while not server.requests:
            await asyncio.sleep(0.01)
        for _ in range(3):
            starting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await starting
        await engine.client.aclose()
        reply.set()
        while (await local.read("cat")).receipt.state != "submitted":
            await asyncio.sleep(0.01)


async def test_an_accepted_request_that_can_not_be_recorded_is_an_error_with_its_id(local):
    async with scripted([ACCEPTED], local) as (engine, _):

        async def broken(held, receipt):
            raise StorageError("The disk is gone.", transient=True)

        engine.store.replace = broken
        with pytest.raises(StorageError, match="disk is gone") as caught:
            await engine.start(REQUEST, "cat")
    assert caught.value.request_id == "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
    assert not caught.value.resend_safe


async def test_a_request_id_that_xai_does_not_know_yet_is_polled_again(local):
    unknown = answer("404 Not Found", b'{"code":"not-found","error":"?"}')
    async with scripted([ACCEPTED, unknown, done("https://vidgen.x.ai/v.mp4")], local) as (engine, _):
        await engine.start(REQUEST, "cat")
        assert (await engine.wait("cat", timeout=60)).state == "done"


async def test_an_expired_url_is_requested_again_once(local):
    gone, video = answer("403 Forbidden"), answer("200 OK", VIDEO, "Content-Type: video/mp4")
    async with scripted([ACCEPTED], local) as (engine, server):
        url = f"{server.url}/v.mp4"
        server.extend([done(url), gone, done(url), video])
        assert (await make(engine, "cat")).size == len(VIDEO)
    async with scripted([ACCEPTED], local) as (engine, server):
        url = f"{server.url}/v.mp4"
        server.extend([done(url), gone, done(url), gone])
        with pytest.raises(DownloadError, match="403") as caught:
            await make(engine, "dog")
    assert caught.value.request_id
    assert (await local.read("dog")).receipt.state == "done"


async def test_a_signed_url_is_requested_again_rather_than_recorded(local):
    async with scripted([ACCEPTED], local) as (engine, server):
        url = f"{server.url}/v.mp4?Signature=s3cr3t"
        server.extend([done(url), done(url), answer("200 OK", VIDEO, "Content-Type: video/mp4")])
        await make(engine, "cat")
    assert "s3cr3t" not in (local.root / "cat.json").read_text()


async def test_done_without_a_url_is_an_error_with_the_request_id(local):
    nothing = answer("200 OK", b'{"status":"done","video":{}}')
    async with scripted([ACCEPTED, nothing, nothing], local) as (engine, _):
        with pytest.raises(DownloadError, match="no URL") as caught:
            await make(engine, "cat")
    assert caught.value.request_id


async def test_a_run_whose_claim_was_replaced_waits_for_the_new_claim(local, monkeypatch):
    monkeypatch.setattr(journal, "CLAIM_WAIT_SECONDS", 0.05)
    async with scripted([ACCEPTED], local) as (engine, _):
        submit = engine.client.submit

        async def replace_claim():
            held = await local.read("cat")
            held = await local.replace(held, held.receipt.unknown(SubmissionUnknown("given up")))
            await local.replace(held, held.receipt.sent_again("resubmit", REQUEST))

        def slow(request, **options):
            elsewhere(replace_claim())
            return submit(request, **options)

        engine.client.submit = slow
        starting = asyncio.create_task(engine.start(REQUEST, "cat"))
        while (held := await local.read("cat")) is None or held.receipt.attempts[0].request_id is None:
            await asyncio.sleep(0.01)
        await local.replace(held, held.receipt.submitted("second"))
        receipt = await starting
    assert receipt.request_id == "second"
    assert receipt.attempts[0].request_id == "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"


@pytest.mark.parametrize("flags", [{"regenerate": "false"}, {"on_unknown": "Resubmit"}, {"on_unknown": True}])
async def test_flags_that_cost_money_must_have_the_right_type(local, flags):
    async with scripted([], local) as (engine, _):
        with pytest.raises(InvalidRequest, match=next(iter(flags))):
            await engine.start(REQUEST, "cat", **flags)
    assert await local.read("cat") is None


async def test_a_foreign_file_is_not_overwritten(engine, local, submissions):
    mine = Generation(engine.client, local, SCHEDULE)
    (local.root / "cat.mp4").write_bytes(b"an original")
    with pytest.raises(StorageError, match=r"cat\.mp4 already exists without a receipt"):
        await make(mine, "cat")
    assert (local.root / "cat.mp4").read_bytes() == b"an original"
    assert submissions() == 0


async def test_a_foreign_object_is_not_overwritten(bucket, aws, emulator, submissions):
    aws.get_s3_client().put_object(Bucket="videos", Key=f"{bucket.bucket_folder}/cat.mp4", Body=b"an original")
    async with XaiVideoClient(API_KEY, emulator.base_url) as client:
        with pytest.raises(StorageError, match="without a receipt"):
            await make(Generation(client, open_store(bucket, None), SCHEDULE), "cat")
    assert submissions() == 0


UNKNOWN_ID = answer("404 Not Found", b'{"code":"not-found","error":"?"}')
AN_HOUR_LATER = "Date: " + format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
EMULATED = {"api": "emulator", "team": "ours"}


def team(name):
    return answer("200 OK", json.dumps({"team_id": name, "emulator": True}).encode())


async def submit_long_ago(store, key="cat", hours=48, **account):
    await store.create(Receipt.claim(key, REQUEST, **account).submitted("aged"))
    await age(store, key, hours=hours)


@pytest.mark.parametrize(
    ("hours", "account", "me", "unknown", "expected"),
    [
        (48, EMULATED, team("ours"), UNKNOWN_ID, VideoExpired),
        (1, EMULATED, team("ours"), UNKNOWN_ID, RequestRejected),
        (48, EMULATED, team("ours"), answer("404 Not Found", b"{}", AN_HOUR_LATER), VideoExpired),
        (48, EMULATED, NOT_HERE, UNKNOWN_ID, RequestRejected),
        (48, {}, team("ours"), UNKNOWN_ID, RequestRejected),
        (48, EMULATED, team("theirs"), UNKNOWN_ID, KeyConflict),
    ],
    ids=["aged", "young", "aged by xAI's clock", "team unknown", "receipt of version 1", "another team"],
)
async def test_a_404_expires_only_an_old_request_of_the_own_account(local, hours, account, me, unknown, expected):
    await submit_long_ago(local, hours=hours, **account)
    async with scripted([unknown] * 3, local, me) as (engine, _):
        with pytest.raises(expected) as caught:
            await engine.wait("cat", timeout=60)
    assert (caught.value.key, caught.value.request_id) == ("cat", "aged")


async def test_a_wrong_clock_does_not_expire_a_request(local):
    """By this machine's clock it was sent two days ago; by that of xAI's response it has not been sent yet."""
    await submit_long_ago(local, **EMULATED)
    before = "Date: " + format_datetime(datetime.now(UTC) - timedelta(hours=47), usegmt=True)
    async with scripted([answer("404 Not Found", b"{}", before)] * 3, local, team("ours")) as (engine, _):
        with pytest.raises(RequestRejected, match="does not know this request id"):
            await engine.wait("cat", timeout=60)
    assert (await local.read("cat")).receipt.is_not_found


async def test_a_few_404s_do_not_end_the_waiting(local):
    await submit_long_ago(local, hours=1, **EMULATED)
    statuses = [UNKNOWN_ID, UNKNOWN_ID, done("https://vidgen.x.ai/v.mp4")]
    async with scripted(statuses, local, team("ours")) as (engine, _):
        assert (await engine.wait("cat", timeout=60)).state == "done"


@pytest.mark.parametrize("way", ["start", "wait", "save", "adopt"])
@pytest.mark.parametrize(
    ("status", "state"),
    [
        (answer("202 Accepted", b"{}"), "submitted"),
        (done("https://vidgen.x.ai/v.mp4"), "done"),
        (UNKNOWN_ID, "expired"),
    ],
    ids=["pending", "done", "gone"],
)
async def test_an_expired_video_is_polled_again(local, way, status, state):
    await submit_long_ago(local, **EMULATED)
    held = await local.read("cat")
    await local.replace(held, held.receipt.finished(VideoStatus(request_id="aged", state="expired")))
    calls = {
        "start": lambda engine: engine.start(REQUEST, "cat"),
        "wait": lambda engine: engine.wait("cat", timeout=0.2),
        "save": lambda engine: engine.save("cat"),
        "adopt": lambda engine: engine.adopt("aged", "cat"),
    }
    async with scripted([status] * 20, local, team("ours")) as (engine, server):
        with suppress(XaiVideoError):
            await calls[way](engine)
        assert server.requests[0].startswith("GET /v1/videos/aged ")
    assert (await local.read("cat")).receipt.state == state


async def test_an_unknown_request_is_given_up_only_on_request_after_it_was_reported(local):
    await submit_long_ago(local, hours=1, **EMULATED)
    script = [*[UNKNOWN_ID] * 3, UNKNOWN_ID, ACCEPTED]
    async with scripted(script, local, team("ours")) as (engine, server):
        # Not yet: nobody has been told that it is gone.
        assert (await engine.start(REQUEST, "cat", regenerate=True)).request_id == "aged"
        with pytest.raises(RequestRejected, match="regenerate switched on"):
            await engine.wait("cat", timeout=60)
        assert (await engine.start(REQUEST, "cat")).request_id == "aged"
        receipt = await engine.start(REQUEST, "cat", regenerate=True)
    assert [(attempt.request_id, attempt.outcome) for attempt in receipt.attempts] == [
        ("aged", "expired"),
        (ID, "submitted"),
    ]
    assert len(server.requests) == len(script)


async def test_a_request_that_becomes_known_again_is_not_given_up(local):
    await submit_long_ago(local, hours=1, **EMULATED)
    script = [*[UNKNOWN_ID] * 3, answer("202 Accepted", b"{}")]
    async with scripted(script, local, team("ours")) as (engine, _):
        with pytest.raises(RequestRejected):
            await engine.wait("cat", timeout=60)
        receipt = await engine.start(REQUEST, "cat", regenerate=True)
    assert (receipt.request_id, receipt.is_not_found) == ("aged", False)


@pytest.mark.parametrize("step", ["start", "wait", "save", "adopt"])
@pytest.mark.parametrize(
    ("account", "me", "text"),
    [
        ({"api": "api.x.ai"}, team("ours"), "api.x.ai"),
        ({"api": "emulator"}, answer("200 OK", b'{"team_id":"ours"}'), "the emulator"),
        ({"api": "proxy.example:443"}, team("ours"), "proxy.example"),
    ],
    ids=["xAI's", "the emulator's", "a proxy's"],
)
async def test_a_key_of_another_api_is_a_conflict_and_nothing_is_sent(local, account, me, text, step):
    await local.create(Receipt.claim("cat", REQUEST, **account).submitted("aged"))
    calls = {
        "start": lambda engine: engine.start(REQUEST, "cat"),
        "wait": lambda engine: engine.wait("cat", timeout=60),
        "save": lambda engine: engine.save("cat"),
        "adopt": lambda engine: engine.adopt("aged", "cat"),
    }
    async with scripted([], local, me) as (engine, server):
        with pytest.raises(KeyConflict, match=text) as caught:
            await calls[step](engine)
    assert "Use another key" in str(caught.value)
    assert server.requests == []


async def test_a_key_of_another_team_is_not_paid_for_again(local):
    await submit_long_ago(local, **EMULATED)
    held = await local.read("cat")
    await local.replace(held, held.receipt.finished(VideoStatus(request_id="aged", state="failed")))
    async with scripted([], local, team("theirs")) as (engine, server):
        with pytest.raises(KeyConflict, match="team ours at the emulator"):
            await engine.start(REQUEST, "cat", regenerate=True)
    assert server.requests == []


async def test_the_emulator_is_the_same_on_any_port_and_is_recorded_with_its_team(local):
    async with scripted([ACCEPTED], local, team("ours")) as (engine, _):
        receipt = await engine.start(REQUEST, "cat")
    assert (receipt.api, receipt.team) == ("emulator", "ours")
    async with scripted([], local, team("ours")) as (engine, _):
        assert (await engine.start(REQUEST, "cat")).request_id == ID


async def test_an_unidentified_api_on_this_machine_is_not_xai(local):
    async with scripted([ACCEPTED], local) as (engine, _):
        assert (await engine.start(REQUEST, "cat")).api == "localhost"
    async with XaiVideoClient(API_KEY) as client:
        with pytest.raises(KeyConflict, match=r"api\.x\.ai"):
            await Generation(client, local, SCHEDULE).start(REQUEST, "cat")
    async with scripted([], local, team("ours")) as (engine, _):
        assert (await engine.start(REQUEST, "cat")).request_id == ID


async def test_a_cancelled_query_of_the_team_is_not_cached(local):
    async with scripted([ACCEPTED], local, team("ours")) as (engine, _):
        me, engine.client.me = engine.client.me, asyncio.Event().wait
        starting = asyncio.create_task(engine.start(REQUEST, "cat"))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        engine.client.me = me
        assert (await engine.start(REQUEST, "cat")).team == "ours"


async def test_an_emulator_is_recognised_whatever_its_key():
    with Emulator(api_key="emulator", render_seconds=0.1) as running:
        async with XaiVideoClient("emulator", running.base_url) as client:
            assert (await account_of(client, with_team=True)).api == "emulator"


@pytest.mark.parametrize("again", [{}, {"regenerate": True}])
async def test_a_foreign_file_is_detected_before_a_key_is_paid_for_again(local, again):
    async with scripted([TOO_MANY, TOO_MANY], local) as (engine, server):
        with pytest.raises(RateLimited):
            await engine.start(REQUEST, "cat")
        (local.root / "cat.mp4").write_bytes(b"an original")
        with pytest.raises(StorageError, match="Nothing was sent"):
            await engine.start(REQUEST, "cat", **again)
        assert len(server.requests) == QUICK.attempts
    assert (local.root / "cat.mp4").read_bytes() == b"an original"


async def test_a_prompt_that_xai_quotes_in_a_poll_is_not_repeated(local):
    quoting = answer("403 Forbidden", b'{"code":"permission-denied","error":"You asked: A cat that nobody may see"}')
    request = build_request("A cat that nobody may see", duration=1)
    async with scripted([ACCEPTED, quoting], local) as (engine, _):
        await engine.start(request, "cat")
        with pytest.raises(XaiVideoError) as caught:
            await engine.wait("cat", timeout=5)
    assert "nobody may see" not in str(caught.value)


async def test_a_request_id_adopted_after_refusals_is_of_an_unknown_request(local):
    async with scripted([TOO_MANY, TOO_MANY, done("https://vidgen.x.ai/v.mp4")], local) as (engine, _):
        with pytest.raises(RateLimited):
            await engine.start(REQUEST, "cat")
        await engine.adopt("found", "cat")
        assert (await engine.start(OTHER, "cat")).request_id == "found"


@pytest.mark.parametrize(
    ("base_url", "api"),
    [
        ("https://api.x.ai/v1", "api.x.ai"),
        ("https://eu-west-1.api.x.ai/v1", "api.x.ai"),
        ("https://api.x.ai.example.com/v1", "api.x.ai.example.com:443"),
        ("https://proxy.example:8443/v1", "proxy.example:8443"),
    ],
)
async def test_an_api_is_known_by_its_host_without_a_query(base_url, api):
    async with XaiVideoClient(API_KEY, base_url) as client:
        assert (await account_of(client, with_team=False)).api == api


async def test_a_process_queries_the_team_once(local):
    asked = []

    def me():
        asked.append(1)
        return {"team_id": "ours", "emulator": True}

    async with scripted([ACCEPTED] * 5, local) as (engine, _):

        async def counted():
            return me()

        engine.client.me = counted
        await asyncio.gather(*(engine.start(REQUEST, f"cat-{n}") for n in range(5)))
    assert asked == [1]


@pytest.mark.parametrize("first", [{"team_id": "theirs", "emulator": True}, None])
async def test_another_team_with_the_same_address_and_key_is_detected_later(local, monkeypatch, first):
    async def me():
        if not said:
            raise RateLimited("Not now.")
        return said

    async with scripted([ACCEPTED] * 3, local) as (engine, _):
        said = first
        engine.client.me = me
        before = await engine.start(REQUEST, "cat-1")
        said = {"team_id": "ours", "emulator": True}
        assert (await engine.start(REQUEST, "cat-2")).team == before.team
        monkeypatch.setattr(accounts, "CACHE_SECONDS", 0)
        assert (await engine.start(REQUEST, "cat-3")).team == "ours"
        if first:
            with pytest.raises(KeyConflict, match="team theirs"):
                await engine.start(REQUEST, "cat-1")


async def test_two_keys_of_one_address_are_two_teams(local):
    async with scripted([ACCEPTED, ACCEPTED], local, team("ours")) as (engine, server):
        await engine.start(REQUEST, "cat")
        async with XaiVideoClient(f"{API_KEY}-2", engine.client.base_url, retries=QUICK) as other:

            async def me():
                return {"team_id": "theirs", "emulator": True}

            other.me = me
            with pytest.raises(KeyConflict, match="team ours"):
                await Generation(other, local, SCHEDULE).start(REQUEST, "cat")
            assert (await Generation(other, local, SCHEDULE).start(REQUEST, "dog")).team == "theirs"
    assert len(server.requests) == 2


async def test_a_late_reply_to_the_first_prompt_is_not_the_video_of_the_second(local):
    async with scripted([CUT, ACCEPTED], local) as (engine, server):
        with pytest.raises(SubmissionUnknown):
            await engine.start(REQUEST, "cat")
        first = (await local.read("cat")).receipt.attempt
        receipt = await engine.start(REQUEST, "cat", on_unknown="resubmit")
        held = await local.read("cat")
        await local.replace(held, receipt.finished(VideoStatus(request_id=ID, state="failed")))
        second = ACCEPTED.replace(ID.encode(), b"1111" + ID[4:].encode())
        server.extend([second, answer("200 OK", b'{"status":"failed","error":"no"}')])
        await engine.start(OTHER, "cat", regenerate=True)
        held = await local.read("cat")
        await local.replace(held, held.receipt.late_reply(first.claim, "late"))
        with pytest.raises(VideoFailed):
            await engine.wait("cat", timeout=60)
        # The first prompt's video is there all the same: it is not paid for again.
        with pytest.raises(KeyConflict, match="late"):
            await engine.start(REQUEST, "cat", regenerate=True)
    assert sum(request.startswith("POST") for request in server.requests) == 3


async def test_a_receipt_that_can_neither_be_read_nor_created_is_an_error(local, monkeypatch):
    monkeypatch.setattr(journal, "CONFLICT_WAIT_SECONDS", 0)
    local.root.mkdir(exist_ok=True)
    (local.root / "cat.json").symlink_to("nowhere")
    async with scripted([], local) as (engine, _):
        with pytest.raises(StorageError, match="kept changing, or can't be written"):
            await engine.start(REQUEST, "cat")


async def test_an_unexpected_error_during_a_post_has_unknown_outcome(local):
    async with scripted([], local) as (engine, _):
        engine.client.submit = lambda request, **_: {}["a defect"]
        with pytest.raises(SubmissionUnknown, match="KeyError"):
            await engine.start(REQUEST, "cat")
    assert (await local.read("cat")).receipt.state == "unknown"


async def test_a_suspended_machine_continues_to_wait(engine, monkeypatch):
    """Hours pass for the wall clock while it sleeps; the deadline runs on a monotonic one."""

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=8)

    await engine.start(REQUEST, "cat")
    waiting = asyncio.create_task(engine.wait("cat", timeout=20))
    await asyncio.sleep(0.05)
    monkeypatch.setattr("prefect_xai_video.engine.inquiry.datetime", Later)
    assert (await waiting).state == "done"


async def test_the_age_of_a_claim_is_by_the_clock_of_its_store(engine, monkeypatch):
    held = await engine.store.create(Receipt.claim("cat", REQUEST))
    claimed_by_a_clock_that_is_behind = held.receipt.attempt.model_copy(
        update={"started_at": datetime.now(UTC) - timedelta(hours=1)}
    )
    await engine.store.replace(
        held, held.receipt.model_copy(update={"attempts": (claimed_by_a_clock_that_is_behind,)})
    )
    assert (await engine.store.read("cat")).age < 60


async def test_many_slow_posts_do_not_queue_behind_each_other(local):
    async with scripted([], local) as (engine, _):
        under_way = threading.Barrier(40)

        def slow(request, **options):
            under_way.wait(120)
            return Accepted("id")

        engine.client.submit = slow
        receipts = await asyncio.gather(*(engine.start(REQUEST, f"cat-{n}") for n in range(40)))
    assert {receipt.state for receipt in receipts} == {"submitted"}


async def test_a_render_that_nobody_watched_teaches_no_render_time(engine):
    lessons = []

    class Times(RenderTimes):
        def learn(self, kind, schedule, polls, done_at):
            lessons.append(done_at)

    watching = replace(engine, render_times=Times())
    started = await watching.start(REQUEST, "left-alone")
    while (await engine.client.get(started.request_id)).state == "pending":
        await asyncio.sleep(0.1)
    # As in a run that was rescued: the video was done long before somebody looked.
    await watching.wait(started.key, timeout=60)
    assert lessons == []
