"""Stores that fail: whatever a bucket or a disk does, a key is paid for once, and the error says what to do."""

import asyncio
import copy
import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import botocore.retryhandler
import pytest
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine import journal
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore, objects
from prefect_xai_video.engine.stores import bucket as bucket_module
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.errors import StorageError, SubmissionUnknown
from prefect_xai_video.orchestration.storage import open_store

from ..support.api_key import API_KEY
from ..support.scripted import ScriptedServer, answer, mp4
from .http_proxy import LOST, RESET, SILENCE, Fault, HttpProxy

REQUEST = build_request("A cat", duration=1)
QUICK = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)
REQUEST_ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
ACCEPTED = answer("200 OK", json.dumps({"request_id": REQUEST_ID}).encode())
LARGE = mp4(bytes(9 * 2**20))
"""So large that boto3 by itself would send it in two parts."""


def done(url):
    facts = {"status": "done", "video": {"url": url, "duration": 1}, "usage": {"cost_in_usd_ticks": 500000000}}
    return answer("200 OK", json.dumps(facts).encode())


def video(content):
    return answer("200 OK", content, "Content-Type: video/mp4")


async def make(engine, key="cat", **options):
    await engine.start(REQUEST, key, **options)
    await engine.wait(key, timeout=30)
    return await engine.save(key)


# A bucket.


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    """What was seen of other servers does not count, and boto3 sends again at once."""
    monkeypatch.setattr(objects, "_verified", set())
    monkeypatch.setattr(botocore.retryhandler, "delay_exponential", lambda **_: 0)


@pytest.fixture(scope="module")
def _proxy(s3_url):
    """One for all, as is the client of boto3 then, which takes 200 ms to make."""
    with HttpProxy(s3_url) as running:
        yield running


@pytest.fixture
def proxy(_proxy):
    _proxy.forget()
    return _proxy


@pytest.fixture
def store(proxy, bucket) -> S3Store:
    """The bucket, through the proxy."""
    credentials = AwsCredentials(
        aws_access_key_id="access",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url=proxy.url,
            config={
                "s3": {"addressing_style": "path"},
                "signature_version": "s3v4",
                "retries": {"total_max_attempts": 2},
                "read_timeout": 60,
            },
        ),
    )
    return S3Store(
        S3Bucket(bucket_name=bucket.bucket_name, credentials=credentials, bucket_folder=bucket.bucket_folder)
    )


@pytest.fixture
async def engine(emulator, store):
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        yield Generation(client, store, SCHEDULE)


async def check_stored(engine, aws, key="cat"):
    """The receipt is stored, and the object is what it says."""
    receipt = (await engine.store.read(key)).receipt
    name = receipt.file.uri.removeprefix("s3://videos/")
    content = aws.get_s3_client().get_object(Bucket="videos", Key=name)["Body"].read()
    assert receipt.state == "stored"
    assert (len(content), hashlib.sha256(content).hexdigest()) == (receipt.file.size, receipt.file.sha256)


def writing(state, act, **facts):
    """A fault at each write of a receipt in a state."""
    return Fault(act, says=f'"state": "{state}"'.encode(), **facts)


@pytest.mark.parametrize("act", [403, 404, 500, 503, RESET])
async def test_a_claim_that_can_not_be_written_sends_nothing(engine, proxy, aws, submissions, act):
    with proxy.failing(writing("sending", act)), pytest.raises(StorageError, match="'videos'") as caught:
        await make(engine)
    assert (caught.value.key, caught.value.request_id) == ("cat", None)
    assert caught.value.resend_safe
    assert submissions() == 0
    await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("act", [403, 404, 500, 503, RESET])
async def test_a_request_id_that_can_not_be_recorded_is_reported_and_can_be_adopted(
    engine, proxy, aws, submissions, monkeypatch, act
):
    with proxy.failing(writing("submitted", act)), pytest.raises(StorageError, match=r"'videos'.*adopt") as caught:
        await make(engine)
    assert caught.value.key == "cat"
    assert not caught.value.resend_safe
    assert submissions() == 1
    monkeypatch.setattr(journal, "CLAIM_SECONDS", 0)
    with pytest.raises(SubmissionUnknown):
        await make(engine)
    await engine.adopt(caught.value.request_id, "cat")
    assert (await make(engine)).request_id == caught.value.request_id
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("act", [403, 404, 500, 503, RESET])
@pytest.mark.parametrize("fault", ["done", "upload", "stored"])
async def test_a_paid_video_that_can_not_be_stored_is_stored_by_the_next_call(
    engine, proxy, aws, submissions, act, fault
):
    failing = Fault(act, suffix=".mp4") if fault == "upload" else writing(fault, act)
    with proxy.failing(failing), pytest.raises(StorageError, match="'videos'") as caught:
        await make(engine)
    receipt = (await engine.store.read("cat")).receipt
    assert (caught.value.key, caught.value.request_id) == ("cat", receipt.request_id)
    assert fault == "done" or str(caught.value.cost_usd) == "0.05"
    assert caught.value.transient == (act not in {403, 404})
    assert (await make(engine)).request_id == caught.value.request_id
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("state", ["sending", "submitted", "done", "stored"])
async def test_a_receipt_whose_write_had_no_response_is_recognised(engine, proxy, aws, submissions, state):
    with proxy.failing(writing(state, LOST, times=2)):
        await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("state", ["submitted", "done", "stored"])
async def test_a_write_without_response_that_can_not_be_verified_is_found_by_the_next_call(
    engine, proxy, aws, submissions, state
):
    unanswered = writing(state, LOST)

    class Unreadable(Fault):
        def takes(self, *request):
            return unanswered.done > 0 and super().takes(*request)

    with proxy.failing(unanswered, Unreadable(503, "GET")), pytest.raises(StorageError, match="'videos'") as caught:
        await make(engine)
    receipt = (await engine.store.read("cat")).receipt
    assert (receipt.state, receipt.request_id) == (state, caught.value.request_id)
    await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


async def test_an_upload_without_response_counts(engine, proxy, aws, submissions):
    with proxy.failing(Fault(LOST, suffix=".mp4")):
        await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("act", [403, 500, 503, RESET])
@pytest.mark.parametrize("reading", [Fault(0, "GET"), Fault(0, "HEAD", suffix=".mp4")], ids=["receipt", "video"])
async def test_a_bucket_that_can_not_be_read_sends_nothing(engine, proxy, aws, submissions, reading, act):
    fault = copy.copy(reading)
    fault.act = act
    with proxy.failing(fault), pytest.raises(StorageError, match="'videos'") as caught:
        await make(engine)
    assert caught.value.key == "cat"
    assert submissions() == 0
    await make(engine)
    assert submissions() == 1


@pytest.mark.parametrize("act", [403, 404, 503, RESET])
async def test_an_upload_that_can_not_be_verified_is_not_stored_yet(engine, proxy, aws, submissions, act):
    with (
        proxy.failing(Fault(act, "HEAD", suffix=".mp4", skip=1)),
        pytest.raises(StorageError, match="videos") as caught,
    ):
        await make(engine)
    receipt = (await engine.store.read("cat")).receipt
    assert (receipt.state, receipt.request_id) == ("done", caught.value.request_id)
    assert str(caught.value.cost_usd) == "0.05"
    await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("etag", ["ETag: W/{}", "ETag: bare"])
async def test_a_server_with_different_etags_in_a_head_stores_the_paid_video(proxy, engine, submissions, etag):
    await engine.start(REQUEST, "cat")
    await engine.wait("cat", timeout=30)
    if etag == "ETag: bare":
        held = await engine.store.read("cat")
        etag = f"ETag: {held.version.strip(chr(34))}"
    with proxy.failing(Fault(etag, "HEAD", times=1)):
        await engine.save("cat")
    assert submissions() == 1


async def test_a_server_that_returns_no_etag_of_a_write_is_queried_for_it(proxy, engine, submissions):
    with proxy.failing(Fault("ETag: ", "PUT")):
        await make(engine)
    assert submissions() == 1


@pytest.mark.parametrize("date", ["yesterday", "Mon, 02 Nov 2026 10:00:00 -0000"])
async def test_a_server_with_an_odd_date_can_be_read(proxy, engine, date):
    await engine.start(REQUEST, "cat")
    with proxy.failing(Fault(f"Date: {date}", "GET")):
        assert (await engine.store.read("cat")).receipt.state == "submitted"


async def test_a_receipt_of_any_size_is_not_read(proxy, engine, monkeypatch):
    await engine.start(REQUEST, "cat")
    monkeypatch.setattr(objects, "MAX_RECEIPT_BYTES", 100)
    with pytest.raises(StorageError, match="has more than"):
        await engine.store.read("cat")


async def test_a_bucket_that_denies_a_receipt_it_has_sends_nothing_more(engine, proxy, aws, submissions, monkeypatch):
    monkeypatch.setattr(journal, "MAX_CONFLICTS", 3)
    await engine.start(REQUEST, "cat")
    with (
        proxy.failing(Fault(404, "GET")),
        pytest.raises(StorageError, match=r"/cat\.json kept changing, or can't be written"),
    ):
        await make(engine)
    assert submissions() == 1
    await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
async def test_a_server_that_ignores_a_condition_is_rejected_until_it_honours_it(
    engine, proxy, aws, submissions, header
):
    for _ in range(2):
        with proxy.failing(Fault(header)), pytest.raises(StorageError, match=f"'videos' ignores {header}:") as caught:
            await make(engine)
        assert caught.value.key == "cat"
        assert caught.value.resend_safe
        assert (await engine.store.read("cat")).receipt.state == "refused"
    assert submissions() == 0
    await make(engine)
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("act", [503, RESET])
async def test_a_server_that_could_not_be_checked_is_not_trusted(engine, proxy, submissions, act):
    ignoring, trying = Fault("If-None-Match"), writing("sending", act, skip=1, times=2)
    with proxy.failing(ignoring, trying), pytest.raises(StorageError, match="'videos'"):
        await make(engine)
    assert submissions() == 0


async def test_a_server_that_denies_the_check_sends_nothing(engine, proxy, submissions):
    with proxy.failing(writing("sending", 403, skip=1)), pytest.raises(StorageError, match="'videos'"):
        await make(engine)
    assert submissions() == 0


async def test_a_delivery_that_can_not_be_copied_is_copied_by_the_next_call(engine, proxy, aws, submissions):
    moving = Fault(503, suffix="/cat.mp4")
    with proxy.failing(moving), pytest.raises(StorageError, match="'videos'") as caught:
        await make(engine, delivery="direct")
    assert caught.value.request_id
    assert (await make(engine, delivery="direct")).request_id == caught.value.request_id
    await check_stored(engine, aws)
    assert submissions() == 1


@pytest.mark.parametrize("act", [RESET, 503, 403, LOST])
async def test_a_broken_large_upload_is_repeated_and_leaves_nothing_behind(store, proxy, aws, act):
    with ScriptedServer([ACCEPTED]) as server:
        url = f"{server.url}/v.mp4"
        server.extend([done(url), video(LARGE), video(LARGE)])
        async with XaiVideoClient(API_KEY, f"{server.url}/v1", retries=QUICK) as client:
            engine = Generation(client, store, SCHEDULE)
            with proxy.failing(Fault(act, suffix=".mp4")), nullcontext() if act == LOST else told_by_the_bucket():
                await make(engine)
            assert (await make(engine)).size == len(LARGE)
    await check_stored(engine, aws)
    left = aws.get_s3_client().list_multipart_uploads(Bucket="videos").get("Uploads", [])
    assert not [upload for upload in left if upload["Key"].startswith(store.bucket.bucket_folder)]


@contextmanager
def told_by_the_bucket():
    with pytest.raises(StorageError, match="'videos'") as caught:
        yield
    assert caught.value.request_id == REQUEST_ID
    assert str(caught.value.cost_usd) == "0.05"


async def test_a_bucket_that_does_not_reply_ends_in_an_error(store, proxy, monkeypatch, caplog):
    config = store.s3_credentials.aws_client_parameters.config
    longest = config["retries"]["total_max_attempts"] * config["read_timeout"]
    assert longest <= 30, "read once more after a failed write, it is a minute"
    monkeypatch.setattr(bucket_module, "RECEIPT_SECONDS", 0.3)
    monkeypatch.setattr(bucket_module, "SLOW_SECONDS", 0.1)
    impatient = S3Store(store.bucket)
    with proxy.failing(Fault(SILENCE)), pytest.raises(StorageError, match=r"'videos'.*[Rr]ead timeout") as caught:
        await impatient.create(Receipt.claim("cat", REQUEST))
    assert caught.value.transient
    assert "Still waiting for the bucket 'videos'" in caplog.text


# Either of them.


@pytest.fixture
async def either(emulator, storage, tmp_path):
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        yield Generation(client, open_store(storage, tmp_path), SCHEDULE)


async def test_a_foreign_file_that_appears_during_the_render_is_not_overwritten(either, submissions):
    await either.start(REQUEST, "cat")
    write_foreign(either.store, b"a film of mine")
    await either.wait("cat", timeout=30)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cat\.mp4 already.*same key") as caught:
            await either.save("cat")
        assert not caught.value.resend_safe
    aside = await either.store.set_aside("cat")
    assert re.search(r"/cat\.replaced-\d{8}T\d{6}\.\d{6}Z\.mp4$", aside)
    assert await either.store.set_aside("cat") is None
    assert (await make(either)).size > 14
    assert read_beside(either.store, aside.rpartition("/")[2]) == b"a film of mine"
    assert submissions() == 1


async def test_a_stored_video_replaced_by_one_of_the_same_size_is_downloaded_again(either, submissions):
    made = await make(either)
    write_foreign(either.store, bytes(made.size))
    assert await either.save("cat") == made
    assert hashlib.sha256(read_beside(either.store, "cat.mp4")).hexdigest() == made.sha256
    assert submissions() == 1


async def test_two_runs_that_restore_a_video_at_once_both_have_it(either, submissions):
    made = await make(either)
    assert await either.store.set_aside("cat")
    assert await asyncio.gather(either.save("cat"), either.save("cat")) == [made, made]
    assert hashlib.sha256(read_beside(either.store, "cat.mp4")).hexdigest() == made.sha256
    assert submissions() == 1


def write_foreign(store, content):
    if isinstance(store, LocalStore):
        (store.root / "cat.mp4").write_bytes(content)
    else:
        place = {"Bucket": store.bucket.bucket_name, "Key": f"{store.bucket.bucket_folder}/cat.mp4"}
        store.bucket.credentials.get_s3_client().put_object(**place, Body=content)


def read_beside(store, name):
    if isinstance(store, LocalStore):
        return (store.root / name).read_bytes()
    place = {"Bucket": store.bucket.bucket_name, "Key": f"{store.bucket.bucket_folder}/{name}"}
    return store.bucket.credentials.get_s3_client().get_object(**place)["Body"].read()


# A directory.


@pytest.fixture
async def local(emulator, tmp_path):
    """An engine with a directory."""
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        yield Generation(client, LocalStore(tmp_path / "store"), SCHEDULE)


@pytest.fixture
def with_quota(forking, tmp_path_factory):
    """Makes a video in a process that may write no file larger than its quota; gives what it says of an error."""
    directory = tmp_path_factory.mktemp("quota")

    async def run(server, root, quota):
        said = directory / "said"
        argv = [f"{server.url}/v1", str(root), str(quota), str(said)]
        forking.begin([{"module": "tests.faults.quota", "argv": argv, "env": {}, "log": str(directory / "log")}])
        assert await asyncio.to_thread(forking.end) == [0], (directory / "log").read_text()
        return said.read_text()

    return run


@pytest.mark.slow
async def test_a_disk_that_fills_up_during_the_download_keeps_the_paid_video_for_the_next_call(with_quota, tmp_path):
    with ScriptedServer([ACCEPTED]) as server:
        server.extend([done(f"{server.url}/v.mp4"), *[video(mp4(bytes(2**20)))] * 2])
        said = await with_quota(server, tmp_path, 2**16)
        assert said.startswith("StorageError: ")
        assert "cat.mp4" in said
        assert "File too large" in said
        assert f"key cat, request id {REQUEST_ID}" in said
        assert "cost $0.05" in said
        assert (await LocalStore(tmp_path).read("cat")).receipt.state == "done"
        assert not list(tmp_path.glob(".*.part"))
        assert await with_quota(server, tmp_path, 2**24) == ""
    assert [line.split()[0] for line in server.requests].count("POST") == 1


@pytest.mark.slow
async def test_a_disk_that_is_full_before_the_claim_sends_nothing(with_quota, tmp_path):
    with ScriptedServer([]) as server:
        said = await with_quota(server, tmp_path, 100)
    assert "cat.json" in said
    assert "File too large" in said
    assert server.requests == []
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
async def test_a_disk_that_is_full_after_the_claim_reports_the_request_id(with_quota, tmp_path):
    claim = len(Receipt.claim("cat", REQUEST).to_json())
    request_id = "x" * 200
    with ScriptedServer([answer("200 OK", json.dumps({"request_id": request_id}).encode())]) as server:
        said = await with_quota(server, tmp_path, claim + 100)
    assert "cat" in said
    assert request_id in said
    assert "adopt its request id" in said
    assert (await LocalStore(tmp_path).read("cat")).receipt.state == "sending"
    assert len(server.requests) == 1


def places(told, path=()):
    """Every place in a receipt that holds one value."""
    if not isinstance(told, dict | list) or not told:
        return [path]
    items = told.items() if isinstance(told, dict) else enumerate(told)
    return [place for name, value in items for place in places(value, (*path, name))]


def edited(told, path):
    told = copy.deepcopy(told)
    inner = told
    for name in path[:-1]:
        inner = inner[name]
    value = inner[path[-1]]
    inner[path[-1]] = f"{value}0" if isinstance(value, str) else 7 if value is None else not value
    return told


async def check_untouched(engine, submissions, content):
    """Whatever is tried: the error names the file, nothing is sent, and the file stays as it is."""
    path = engine.store.root / "cat.json"
    path.write_bytes(content)
    before = submissions()
    for trying in (
        engine.start(REQUEST, "cat"),
        engine.start(REQUEST, "cat", regenerate=True, on_unknown="resubmit"),
        engine.wait("cat", timeout=1),
        engine.save("cat"),
    ):
        with pytest.raises(StorageError, match=r"cat\.json") as caught:
            await trying
        assert caught.value.key == "cat"
        assert not caught.value.transient
    assert path.read_bytes() == content
    assert submissions() == before


async def test_an_edited_receipt_is_left_alone(local, submissions):
    await make(local)
    told = json.loads((local.store.root / "cat.json").read_bytes())
    for place in places(told):
        await check_untouched(local, submissions, json.dumps(edited(told, place)).encode())


@pytest.mark.parametrize("state", ["refused", "failed", "unknown"])
async def test_a_receipt_that_was_edited_consistently_is_left_alone(local, submissions, state):
    """As a person might do to have it sent again."""
    await local.start(REQUEST, "cat")
    told = json.loads((local.store.root / "cat.json").read_bytes())
    told["state"] = told["attempts"][0]["outcome"] = state
    await check_untouched(local, submissions, json.dumps(told, indent=2).encode())


async def test_a_receipt_with_missing_or_extra_fields_is_left_alone(local, submissions):
    await local.start(REQUEST, "cat")
    told = json.loads((local.store.root / "cat.json").read_bytes())
    for name in told:
        less = {other: value for other, value in told.items() if other != name}
        await check_untouched(local, submissions, json.dumps(less).encode())
    await check_untouched(local, submissions, json.dumps(told | {"note": "mine"}).encode())


async def test_a_receipt_that_was_damaged_is_left_alone(local, submissions):
    await local.start(REQUEST, "cat")
    good = (local.store.root / "cat.json").read_bytes()
    damaged = [good[:length] for length in (0, 1, 20, len(good) // 2, len(good) - 3)]
    damaged += [b"null", b"[]", b"{}", b'"cat"', b"\xff\xfe", b"\0" * len(good), good + good]
    damaged += [
        good.replace(b'"version": 2', version) for version in (b'"version": 3', b'"version": "2"', b'"version": 1')
    ]
    for content in damaged:
        await check_untouched(local, submissions, content)


async def test_an_unparsable_receipt_is_left_alone(local, submissions):
    local.store.root.mkdir()
    await check_untouched(local, submissions, b"[" * 100_000)


async def test_a_restored_receipt_continues(local, submissions):
    await local.start(REQUEST, "cat")
    path = local.store.root / "cat.json"
    good = path.read_bytes()
    await check_untouched(local, submissions, good[:100])
    path.write_bytes(good)
    await make(local)
    assert submissions() == 1


async def test_a_damaged_receipt_that_is_moved_away_can_be_adopted(local, submissions):
    receipt = await local.start(REQUEST, "cat")
    path = local.store.root / "cat.json"
    path.write_bytes(b"damaged")
    path.rename(path.with_suffix(".damaged"))
    await local.adopt(receipt.request_id, "cat")
    assert (await make(local)).request_id == receipt.request_id
    assert submissions() == 1


async def test_the_receipt_of_another_key_is_left_alone(local, submissions):
    await local.start(REQUEST, "dog")
    await check_untouched(local, submissions, (local.store.root / "dog.json").read_bytes())


@contextmanager
def read_only(directory: Path):
    """Nobody may write there; who runs as root, which may always, is somebody else meanwhile."""
    root = os.geteuid() == 0
    directory.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)


@pytest.fixture
def for_all():
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="xai-video-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


async def test_a_read_only_directory_sends_nothing(emulator, submissions, for_all):
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        engine = Generation(client, LocalStore(for_all), SCHEDULE)
        with read_only(for_all), pytest.raises(StorageError, match=r"can't be written.*denied") as caught:
            await make(engine)
        assert str(for_all) in str(caught.value)
        assert submissions() == 0
        await make(engine)
    assert submissions() == 1


@pytest.mark.parametrize("step", ["wait", "save"])
async def test_a_directory_that_became_read_only_keeps_the_paid_video_for_the_next_call(for_all, step):
    with ScriptedServer([ACCEPTED]) as server:
        url = f"{server.url}/v.mp4"
        server.extend([done(url)] * (1 if step == "save" else 2) + [video(mp4(b"cat"))] * 2)
        async with XaiVideoClient(API_KEY, f"{server.url}/v1", retries=QUICK) as client:
            engine = Generation(client, LocalStore(for_all), SCHEDULE)
            await engine.start(REQUEST, "cat")
            if step == "save":
                await engine.wait("cat", timeout=30)
            with read_only(for_all), pytest.raises(StorageError, match=r"can't be written.*denied") as caught:
                await make(engine)
            assert (caught.value.key, caught.value.request_id) == ("cat", REQUEST_ID)
            await make(engine)


@pytest.mark.parametrize("step", ["wait", "save"])
async def test_a_directory_that_vanishes_between_the_steps_is_an_error(local, submissions, step):
    await local.start(REQUEST, "cat")
    if step == "save":
        await local.wait("cat", timeout=30)
    shutil.rmtree(local.store.root)
    with pytest.raises(StorageError, match=r"no receipt .*/cat\.json") as caught:
        await (local.wait("cat", timeout=1) if step == "wait" else local.save("cat"))
    assert caught.value.key == "cat"
    assert submissions() == 1


@pytest.mark.parametrize("step", ["submit", "get", "download"])
async def test_a_directory_that_vanishes_during_a_step_leaves_the_request_id_to_adopt(
    local, submissions, monkeypatch, step
):
    call = getattr(local.client, step)

    def vanish(*arguments, **options):
        monkeypatch.undo()
        shutil.rmtree(local.store.root)
        return call(*arguments, **options)

    monkeypatch.setattr(local.client, step, vanish)
    with pytest.raises(StorageError, match=r"cat\.(json|mp4)") as caught:
        await make(local)
    assert caught.value.key == "cat"
    await local.adopt(caught.value.request_id, "cat")
    assert (await make(local)).request_id == caught.value.request_id
    assert submissions() == 1
