"""Recovery by files: a submission whose reply was lost is recognised by its file in xAI's Files API."""

import asyncio
import logging

import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine import inquiry, journal
from prefect_xai_video.engine.collecting import Collector
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import (
    AccessDenied,
    DownloadError,
    InvalidRequest,
    ServiceUnavailable,
    SubmissionUnknown,
    VideoExpired,
)

from ..support.api_key import API_KEY

SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)


@pytest.fixture
def emulator():
    """An emulator of its own: the faults of a file strike in each listing."""
    with Emulator(render_seconds=0.3, api_key=API_KEY) as running:
        yield running


@pytest.fixture
async def engine(emulator, tmp_path):
    quick = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=quick) as client:
        yield Generation(client, LocalStore(tmp_path), SCHEDULE)


def asked(text):
    return build_request(text, duration=1)


async def make(engine, text, key="cat", timeout=20, **options):
    await engine.start(asked(text), key, **{"recovery": "files"} | options)
    await engine.wait(key, timeout=timeout)
    return await engine.save(key)


async def names(engine):
    return [file.name async for file in engine.client.files.listed()]


async def receipt_of(engine, key="cat"):
    return (await engine.store.read(key)).receipt


async def test_xai_keeps_the_video_under_a_name_of_its_own_until_it_is_stored(engine, emulator):
    begun = len(emulator.requests())
    receipt = await engine.start(asked("A kept cat"), "cat", recovery="files")
    name = f"prefect-xai-video-{receipt.attempt.claim}.mp4"
    assert emulator.requests()[begun + 1]["body"]["storage_options"] == {"filename": name, "expires_after": 2592000}
    assert receipt.attempt.xai_file.name == name
    await engine.wait("cat", timeout=20)
    assert name in await names(engine)
    video = await engine.save("cat")
    assert (video.request_id, str(video.cost_usd)) == (receipt.request_id, "0.05")
    assert name not in await names(engine)
    again = build_request("A kept cat", duration=1)
    assert receipt.fingerprint == again.fingerprint


@pytest.mark.parametrize("fault", ["start-accepted-cut", "start-accepted-502", "start-accepted-unreadable"])
async def test_a_submission_whose_reply_was_lost_is_recognised_by_its_file(engine, submissions, fault):
    text = f"A lost cat [fault:{fault}] [fault:file-list-lags] [fault:file-list-500] [fault:download-cut]"
    video = await make(engine, text)
    assert (video.request_id, video.cost_usd, video.price) == (None, None, "about $0.05 (an estimate)")
    # The file itself tells how long it is.
    assert (video.duration, video.size > 1000) == (1, True)
    assert (await receipt_of(engine)).attempt.duration is None
    assert (await receipt_of(engine)).attempt.xai_file.name not in await names(engine)
    assert await make(engine, text) == video
    assert submissions() == 1


async def test_the_next_run_looks_for_the_file_of_a_crashed_one(engine, submissions, monkeypatch):
    text = "A crashed cat [fault:start-accepted-cut]"
    await engine.start(asked(text), "cat", recovery="files")
    held = await engine.store.read("cat")
    sending = held.receipt.attempt.model_copy(update={"outcome": "sending", "failure": None})
    await engine.store.replace(held, held.receipt.model_copy(update={"attempts": (sending,)}))
    monkeypatch.setattr(journal, "CLAIM_SECONDS", 0)
    # Recovery is a matter of the submission: the next run need not ask for it.
    assert (await make(engine, text, recovery="none")).size > 1000
    assert submissions() == 1


async def test_a_resubmission_finds_the_file_first(engine, submissions):
    text = "Again a cat [fault:start-accepted-cut]"
    receipt = await engine.start(asked(text), "cat", recovery="files")
    while receipt.attempt.xai_file.name not in await names(engine):
        await asyncio.sleep(0.05)
    assert (await engine.start(asked(text), "cat", on_unknown="resubmit")).state == "done"
    assert submissions() == 1


@pytest.mark.parametrize("fault", ["start-cut", "start-accepted-cut] [fault:moderated"])
async def test_a_missing_file_proves_nothing(engine, submissions, fault):
    text = f"No cat [fault:{fault}]"
    found_again = r"not in xAI's Files API, which proves nothing; run again with the same key to look once more\."
    with pytest.raises(SubmissionUnknown, match=found_again) as caught:
        await make(engine, text, timeout=0.5)
    assert caught.value.key == "cat"
    assert not caught.value.resend_safe
    with pytest.raises(SubmissionUnknown):
        await make(engine, text, timeout=0.5)
    receipt = await receipt_of(engine)
    assert (submissions(), receipt.state) == (1, "unknown")
    assert receipt.next_step.startswith("run again with this key: that looks for the video, without paying again; if")


async def test_files_that_can_not_be_listed_lead_to_no_resubmission(engine, submissions):
    text = "A hidden cat [fault:start-accepted-cut] [fault:file-list-500*99]"
    receipt = await engine.start(asked(text), "cat", recovery="files")
    with pytest.raises(ServiceUnavailable):
        await engine.wait("cat", timeout=20)
    with pytest.raises(ServiceUnavailable):
        await engine.start(asked(text), "cat", on_unknown="resubmit", recovery="files")
    assert (submissions(), (await receipt_of(engine)).attempt.claim) == (1, receipt.attempt.claim)


async def test_a_list_of_files_that_is_denied_leaves_the_decision_to_a_person(engine, submissions, monkeypatch):
    async def denied(*_):
        raise AccessDenied("xAI denied access.")

    monkeypatch.setattr("prefect_xai_video.api.files.XaiFiles.find", denied)
    text = "A cat without files [fault:start-cut]"
    with pytest.raises(SubmissionUnknown):
        await make(engine, text, timeout=0.3)
    assert (await make(engine, text, recovery="none", on_unknown="resubmit")).size > 1000
    assert submissions() == 2


async def test_a_similar_name_is_another_video(engine, emulator):
    receipt = await engine.start(asked("A lost cat [fault:start-cut]"), "cat", recovery="files")
    name = receipt.attempt.xai_file.name
    file = await engine.client.files.upload(f"{name[:-5]}x.mp4", b"content", "video/mp4", 3600)
    assert await engine.client.files.find(file.name) == file
    with pytest.raises(SubmissionUnknown):
        await engine.wait("cat", timeout=0.3)


async def test_a_failed_deletion_is_logged_and_fails_nothing(engine, monkeypatch, caplog):
    async def fail(*_):
        raise ServiceUnavailable("No usable response.")

    monkeypatch.setattr("prefect_xai_video.api.files.XaiFiles.delete", fail)
    with caplog.at_level(logging.WARNING):
        assert (await make(engine, "A cat that stays")).size > 1000
    assert "could not be deleted at xAI" in caplog.text


async def test_a_file_that_could_not_be_deleted_restores_a_lost_video(engine, submissions, monkeypatch):
    async def fail(*_):
        raise AccessDenied("No.")

    monkeypatch.setattr("prefect_xai_video.api.files.XaiFiles.delete", fail)
    text = "A cat that stays [fault:start-accepted-cut]"
    video = await make(engine, text)
    (engine.store.root / "cat.mp4").unlink()
    assert (await make(engine, text)).sha256 == video.sha256
    assert submissions() == 1


async def expired(_, request_id, **_options):
    return VideoStatus(request_id=request_id, state="expired")


@pytest.mark.parametrize("options", [{"recovery": "files"}, {"recovery": "none", "keep_at_xai": True}])
@pytest.mark.parametrize("is_expired", [True, False], ids=["expired", "not known"])
async def test_a_request_that_xai_no_longer_has_is_found_by_its_file(
    engine, submissions, monkeypatch, options, is_expired
):
    text = "A cat of last week" if is_expired else "A forgotten cat [fault:poll-404-always]"
    receipt = await engine.start(asked(text), "cat", **options)
    while receipt.attempt.xai_file.name not in await names(engine):
        await asyncio.sleep(0.05)
    if is_expired:
        monkeypatch.setattr(XaiVideoClient, "get", expired)
    # A key that had expired before is found, too, instead of being paid for again.
    if options["recovery"] == "none":
        held = await engine.store.read("cat")
        gone = VideoStatus(request_id=receipt.request_id, state="expired")
        await engine.store.replace(held, held.receipt.finished(gone))
    video = await make(engine, text, regenerate=True)
    assert (video.request_id, video.size > 1000, submissions()) == (receipt.request_id, True, 1)


async def test_a_video_without_a_url_is_taken_from_its_file(engine, submissions):
    assert (await make(engine, "A cat without a link [fault:done-without-url]")).size > 1000
    assert submissions() == 1


async def test_a_video_that_another_run_has_stored_and_deleted_meanwhile_is_returned(engine, monkeypatch):
    text = "A cat of two [fault:start-accepted-cut]"
    await engine.start(asked(text), "cat", recovery="files")
    await engine.wait("cat", timeout=20)
    fetch, other = XaiVideoClient._download_with_key, []

    async def late(self, *args):
        if not other:
            other.append(None)
            other.append(await engine.save("cat"))
        return await fetch(self, *args)

    monkeypatch.setattr(XaiVideoClient, "_download_with_key", late)
    assert await engine.save("cat") == other[1]


async def test_a_found_file_that_is_gone_again_is_an_expired_video(engine, submissions):
    text = "A cat that leaves [fault:start-accepted-cut]"
    await engine.start(asked(text), "cat", recovery="files")
    found = await engine.wait("cat", timeout=20)
    await engine.client.files.delete(found.attempt.xai_file.id)
    for _ in range(2):
        with pytest.raises(VideoExpired, match="no longer in the Files API"):
            await make(engine, text)
    assert (await make(engine, text, regenerate=True)).request_id
    assert submissions() == 2


async def test_a_file_that_is_there_after_all_is_not_paid_for_again(engine, submissions, monkeypatch):
    async def not_found(*_):
        raise DownloadError("The file does not exist.", http_status=404)

    text = "A cat that hides [fault:start-accepted-cut]"
    with monkeypatch.context() as at_first:
        at_first.setattr("prefect_xai_video.api.files.XaiFiles.content", not_found)
        with pytest.raises(VideoExpired, match="no longer in the Files API"):
            await make(engine, text)
    assert (await make(engine, text, regenerate=True)).size > 1000
    assert submissions() == 1


async def test_the_collector_finds_the_file_as_long_as_it_may_appear(engine, submissions, monkeypatch):
    async def nobody(_):
        return set()

    collector = Collector(engine, nobody, nobody)
    await engine.start(asked("A late cat [fault:start-accepted-cut]"), "cat", recovery="files")
    await engine.start(asked("No cat [fault:start-cut]"), "lost", recovery="files")
    while (found := (await collector.collect()).keys).get("stored") != ["cat"]:
        assert found["unknown"]
        await asyncio.sleep(0.05)
    assert (await receipt_of(engine)).state == "stored"
    assert (await collector.collect()).keys == {"unknown": ["lost"]}
    monkeypatch.setattr(inquiry, "FILE_SECONDS", -1)
    assert (await collector.collect()).keys == {}
    assert submissions() == 2


async def test_recovery_and_direct_delivery_exclude_each_other_before_anything_is_spent(engine, submissions):
    with pytest.raises(InvalidRequest, match="recovery: 'files' with direct delivery is not allowed"):
        await engine.start(asked("A cat"), "cat", recovery="files", delivery="direct")
    with pytest.raises(InvalidRequest, match="recovery: 'file' is not allowed; allowed: none or files"):
        await engine.start(asked("A cat"), "cat", recovery="file")
    assert (submissions(), await engine.store.read("cat")) == (0, None)
