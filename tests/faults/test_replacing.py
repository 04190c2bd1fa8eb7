"""Receipts in a directory are replaced by exactly one, without locks, whoever races, is suspended or is killed."""

import asyncio
import fcntl
import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from prefect_xai_video.api.download import Download
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore, WriteConflict
from prefect_xai_video.errors import StorageError

from .replacing import REQUEST, changed

PATIENCE_SECONDS = 60


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def begin(forking, store, tmp_path):
    """Starts `replacing.py` with the store and a file for its result, which it gives; at the end none is left."""

    def run(name, **job) -> Path:
        result = tmp_path / f"{name}.result"
        argv = [json.dumps({"store": str(store.root), "key": "cat", "result": str(result)} | job)]
        forking.begin([{"module": "tests.faults.replacing", "argv": argv, "env": {}, "log": str(tmp_path / "log")}])
        return result

    yield run
    for marker in tmp_path.glob("*.pid"):
        with suppress(ProcessLookupError):
            pid = int(marker.read_text())
            if is_stopped(pid):
                os.kill(pid, signal.SIGKILL)
    forking.end()


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)


def shown(store, key="cat") -> Receipt:
    return Receipt.from_json((store.root / f"{key}.json").read_bytes())


async def again(store, times=2):
    for _ in range(times):
        held = await store.read("cat")
        held = await store.replace(held, changed(held.receipt))
    return held


@pytest.mark.slow
async def test_processes_that_race_replace_each_version_once(forking, begin, store, tmp_path):
    (tmp_path / "gate").mkdir()
    racers = [begin(n, rounds=25, gate=str(tmp_path / "gate"), racers=4) for n in range(4)]
    codes = await asyncio.to_thread(forking.end)
    assert codes == [0] * 4, (tmp_path / "log").read_text()
    steps = [tuple(step) for racer in racers for step in json.loads(racer.read_text())]
    following = dict(steps)
    assert len(following) == len(steps) == 100, "a version was replaced twice"
    version, length = following[None], 1
    while version in following:
        version, length = following[version], length + 1
    assert length == 100, "a version is not in the chain"
    held = await store.read("cat")
    assert held.version == version
    assert shown(store) == held.receipt
    assert [key async for key in store.keys("")] == ["cat"]
    assert not list(store.root.glob(".*.part"))


def stopped_process(result: Path) -> int:
    """The id of the process that has stopped itself."""
    marker = result.with_suffix(".pid")
    wait_until(lambda: marker.exists() and marker.read_text())
    pid = int(marker.read_text())
    wait_until(lambda: is_stopped(pid))
    return pid


def is_stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2].startswith("T")


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", ["before link", "after link", "before rename"])
async def test_a_suspended_process_does_no_harm_when_it_resumes(forking, begin, store, tmp_path, stop_at):
    first = await store.create(Receipt.claim("cat", REQUEST))
    result = begin("suspended", stop_at=stop_at)
    pid = stopped_process(result)
    theirs = await store.read("cat")
    assert (theirs == first) == (stop_at == "before link"), "the link is what counts"
    last = await again(store)
    os.kill(pid, signal.SIGCONT)
    assert await asyncio.to_thread(forking.end) == [0], (tmp_path / "log").read_text()
    assert json.loads(result.read_text()) == ("overtaken" if stop_at == "before link" else "replaced")
    assert await store.read("cat") == last
    assert shown(store) == last.receipt
    for old in (first, theirs):
        with pytest.raises(WriteConflict):
            await store.replace(old, changed(old.receipt))


@pytest.mark.slow
async def test_an_old_receipt_restored_by_a_killed_process_is_not_current(forking, begin, store):
    await store.create(Receipt.claim("cat", REQUEST))
    pid = stopped_process(begin("killed", stop_at="before rename", killed=True))
    theirs = await store.read("cat")
    last = await again(store)
    os.kill(pid, signal.SIGCONT)
    assert await asyncio.to_thread(forking.end) == [9]
    assert shown(store) == theirs.receipt, "what people see is an old one"
    assert await store.read("cat") == last
    with pytest.raises(WriteConflict):
        await store.replace(theirs, changed(theirs.receipt))
    last = await again(store)
    assert shown(store) == last.receipt


@pytest.mark.slow
async def test_a_process_that_is_killed_after_linking_has_written(forking, begin, store):
    first = await store.create(Receipt.claim("cat", REQUEST))
    pid = stopped_process(begin("killed", stop_at="after link"))
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.to_thread(forking.end) == [-signal.SIGKILL]
    assert shown(store) == first.receipt
    held = await store.read("cat")
    assert held.receipt.state == "refused"
    assert (await again(store, 1)).receipt == shown(store)


@pytest.mark.parametrize("error", [FileExistsError(17, "File exists"), OSError(5, "Input/output error")])
async def test_a_link_that_is_reported_as_failed_counts_if_it_exists(store, monkeypatch, error):
    link = os.link

    def reply_lost(source, target):
        link(source, target)
        raise error

    monkeypatch.setattr(os, "link", reply_lost)
    held = await store.create(Receipt.claim("cat", REQUEST))
    held = await store.replace(held, changed(held.receipt))
    assert await store.read("cat") == held
    with store.workspace("cat") as path:
        path.write_bytes(b"video")
        file = store.file("cat", Download(5, hashlib.sha256(b"video").hexdigest(), "video/mp4"))
        assert await store.holds_video("cat", await store.put_video(held, path, file))


async def test_a_recurring_receipt_is_another_version(store):
    one = await store.create(Receipt.claim("cat", REQUEST))
    other = changed(one.receipt)
    held = one
    for receipt in (other, one.receipt, other, one.receipt, one.receipt):
        held = await store.replace(held, receipt)
        assert await store.read("cat") == held
        assert shown(store) == receipt
    with pytest.raises(WriteConflict):
        await store.replace(one, other)


@pytest.mark.parametrize("number", [1, 38, 95], ids=["EPERM", "ENOSYS", "ENOTSUP"])
async def test_a_file_system_without_hard_links_is_an_error_before_anything_is_written(store, monkeypatch, number):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="does not support hard links") as caught:
        await store.create(Receipt.claim("cat", REQUEST))
    assert caught.value.resend_safe
    assert not caught.value.transient
    assert not list(store.root.iterdir())


async def test_no_writer_waits_for_a_lock(store, monkeypatch):
    """Neither one that somebody holds for ever, nor one that the file system does not have."""
    store.root.mkdir()
    with (store.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def missing(*_):
            raise OSError(38, "Function not implemented")

        for name in ("flock", "lockf", "fcntl"):
            monkeypatch.setattr(fcntl, name, missing)
        async with asyncio.timeout(PATIENCE_SECONDS):
            held = await store.create(Receipt.claim("cat", REQUEST))
            assert (await again(store)).receipt == shown(store)
    with pytest.raises(WriteConflict):
        await store.replace(held, changed(held.receipt))


async def test_a_directory_without_successors_can_be_continued(store):
    store.root.mkdir()
    (store.root / ".lock").touch()
    receipt = Receipt.claim("cat", REQUEST)
    (store.root / "cat.json").write_bytes(receipt.to_json())
    assert (await store.read("cat")).receipt == receipt
    last = await again(store)
    assert await store.read("cat") == last
    assert shown(store) == last.receipt


async def test_a_restored_old_copy_of_a_receipt_leads_to_the_current_one(store):
    await store.create(Receipt.claim("cat", REQUEST))
    old = (store.root / "cat.json").read_bytes()
    last = await again(store)
    (store.root / "cat.json").unlink()
    assert await store.read("cat") is None
    (store.root / "cat.json").write_bytes(old)
    assert await store.read("cat") == last


async def test_a_writer_whose_receipt_was_moved_away_can_not_replace_the_new_one(store):
    old = await store.create(Receipt.claim("cat", REQUEST))
    (store.root / "cat.json").rename(store.root / "cat.old")
    new = await store.create(Receipt.claim("cat", REQUEST))
    with pytest.raises(WriteConflict):
        await store.replace(old, changed(old.receipt))
    assert await store.read("cat") == new


async def test_the_age_of_a_claim_is_by_the_clock_of_its_directory(store, monkeypatch):
    await store.create(Receipt.claim("cat", REQUEST))
    old = time.time() - 500
    os.utime(store.root / "cat.json", (old, old))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 400 < (await store.read("cat")).age < 600
    assert {path.name for path in store.root.iterdir()} == {"cat.json"}
