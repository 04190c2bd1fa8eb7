"""Submitting without waiting, and collecting later: nothing is lost, and nothing is paid twice."""

import asyncio
from pathlib import Path

import pytest
from prefect import flow

from prefect_xai_video import (
    acollect_videos,
    agenerate_video,
    agenerate_videos,
    astart_video,
    asubmit_videos,
    collect_videos,
)
from prefect_xai_video.engine.open_keys import OpenKeys
from prefect_xai_video.errors import BatchFailed, StorageError, SubmissionUnknown, VideoModerated
from prefect_xai_video.orchestration.storage import open_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def rows(count, **options):
    return [{"key": f"cats/{number}", "prompt": f"Cat {number}", "duration": 1} | options for number in range(count)]


def marks(storage):
    async def names():
        return [name async for name, _ in open_store(storage, Path()).marks()]

    return names()


async def collect_until(storage, xai, result, count):
    """Repeat passes until as many keys have come to a result."""
    found, collected = 0, None
    while found < count:
        collected = await acollect_videos(storage=storage, credentials=xai)
        found += collected.counts.get(result, 0)
        await asyncio.sleep(0.2)
    return collected


async def test_submitted_videos_are_collected_by_a_later_run(storage, xai, submissions):
    report = await asubmit_videos(rows(3), storage=storage, credentials=xai)
    assert (report.open, report.stored, report.new, submissions()) == (3, 0, 3, 3)
    assert [row.state for row in report.rows] == ["open"] * 3
    assert len(await marks(storage)) == 3
    await collect_until(storage, xai, "stored", 3)
    assert {name for name in await marks(storage) if not name.startswith(".")} == set()
    again = await agenerate_videos(rows(3), storage=storage, credentials=xai)
    assert (again.stored, again.new, submissions()) == (3, 0, 3)


async def test_a_pass_over_a_store_without_open_keys_does_nothing(directory, xai, emulator):
    await agenerate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)
    sent = len(emulator.requests())
    collected = await acollect_videos(storage=directory, credentials=xai)
    assert str(collected) == "No key is open"
    assert len(emulator.requests()) == sent


async def test_single_videos_are_collected_too_and_ends_are_told(directory, xai):
    @flow
    async def start(prompt, key):
        return await astart_video(prompt, duration=1, key=key, storage=directory, credentials=xai)

    await start("A cat", "cat")
    await start("A bad cat [fault:moderated]", "bad")
    with pytest.raises(SubmissionUnknown):
        await start("A lost cat [fault:start-accepted-cut]", "lost")
    stored = ended = 0
    while stored + ended < 2:
        collected = await acollect_videos(storage=directory, credentials=xai)
        stored += collected.counts.get("stored", 0)
        ended += collected.counts.get("ended", 0)
        # Without direct delivery nothing can be found of a lost reply: only a person can go on.
        assert "lost" not in str(collected.keys)
    assert (stored, ended) == (1, 1)
    with pytest.raises(VideoModerated):
        options = {"duration": 1, "key": "bad", "storage": directory, "credentials": xai}
        await agenerate_video("A bad cat [fault:moderated]", **options)


async def test_a_key_for_which_a_living_run_waits_is_left_alone(directory, xai, emulator):
    making = asyncio.create_task(
        agenerate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai, timeout_seconds=60)
    )
    while not await marks(directory):
        await asyncio.sleep(0.02)
    seen = []
    while not making.done():
        collected = await acollect_videos(storage=directory, credentials=xai)
        seen += collected.keys
    assert set(seen) <= {"held"}
    assert (await making).key == "cat"


async def test_a_store_of_before_the_index_is_read_once(directory, xai):
    await asubmit_videos(rows(2), storage=directory, credentials=xai)
    for mark in (Path(directory.basepath) / ".open").rglob("*.*"):
        mark.unlink()
    first = await acollect_videos(storage=directory, credentials=xai)
    assert first.indexed == 2
    assert sum(first.counts.values()) == 2
    second = await acollect_videos(storage=directory, credentials=xai)
    assert second.indexed == 0
    stored = sum(collected.counts.get("stored", 0) for collected in (first, second))
    await collect_until(directory, xai, "stored", 2 - stored)


async def test_a_receipt_that_could_not_be_read_while_a_store_is_indexed_is_found_later(directory, xai, monkeypatch):
    await asubmit_videos(rows(2), storage=directory, credentials=xai)
    for mark in (Path(directory.basepath) / ".open").rglob("*.*"):
        mark.unlink()
    kind, broken = type(open_store(directory, Path())), True
    read = kind.read

    async def unreadable(self, key):
        if broken and key == "cats/1":
            raise StorageError("The server is busy.", transient=True)
        return await read(self, key)

    monkeypatch.setattr(kind, "read", unreadable)
    first = await acollect_videos(storage=directory, credentials=xai)
    assert first.errors["cats/1"].startswith("The server is busy.")
    broken = False
    await collect_until(directory, xai, "stored", 2 - first.counts.get("stored", 0))


async def test_only_keys_with_the_prefix_are_collected(directory, xai):
    table = [*rows(1), {"key": "dogs/0", "prompt": "A dog", "duration": 1}]
    await asubmit_videos(table, storage=directory, credentials=xai)
    collected = await acollect_videos("dogs/", storage=directory, credentials=xai)
    assert [key for keys in collected.keys.values() for key in keys] == ["dogs/0"]


async def test_an_unreadable_receipt_stops_no_other(directory, xai):
    await asubmit_videos(rows(2), storage=directory, credentials=xai)
    (Path(directory.basepath) / "cats" / "0.json").write_text("{")
    for hidden in (Path(directory.basepath) / "cats").glob(".0.*.json"):
        hidden.unlink()
    collected = await collect_until(directory, xai, "stored", 1)
    assert collected.counts.get("failed") == 1
    assert "can't be read" in collected.errors["cats/0"]


async def test_the_synchronous_name_does_the_same(directory, xai):
    report = await asubmit_videos(rows(1), storage=directory, credentials=xai)
    assert report.open == 1
    assert (
        sum((await asyncio.to_thread(lambda: collect_videos(storage=directory, credentials=xai))).counts.values())
        == 1
    )


async def test_rows_that_could_not_be_submitted_fail_the_run(directory, xai):
    table = rows(2)
    table[1]["prompt"] += " that is not collected [fault:start-accepted-cut]"
    with pytest.raises(BatchFailed, match=r"0 of 2 videos stored \(1 open, 1 unknown\)"):
        await asubmit_videos(table, storage=directory, credentials=xai)


async def test_no_open_key_is_ever_without_a_mark(directory, xai, monkeypatch):
    """At each change of a receipt, whoever lists the marks finds all open keys."""
    store = open_store(directory, Path())
    missing = []
    replace, create = type(store).replace, type(store).create

    async def check(key):
        marked = {name.rpartition(".")[0] async for name, _ in store.marks()}
        held = await store.read(key)
        if held.receipt.state in {"sending", "submitted", "done"} and key not in marked:
            missing.append((key, held.receipt.state))

    async def checked_replace(self, held, receipt):
        written = await replace(self, held, receipt)
        await check(receipt.key)
        return written

    async def checked_create(self, receipt):
        written = await create(self, receipt)
        await check(receipt.key)
        return written

    monkeypatch.setattr(type(store), "replace", checked_replace)
    monkeypatch.setattr(type(store), "create", checked_create)
    await agenerate_videos(rows(3), storage=directory, credentials=xai)
    bad = {"prompt": "Bad [fault:failed]", "duration": 1, "key": "bad"}
    for regenerate in (False, True):
        await agenerate_videos([bad], storage=directory, credentials=xai, allow_failures=True, regenerate=regenerate)
    assert missing == []
    assert [key async for key, _ in OpenKeys(store).marks()] == []
