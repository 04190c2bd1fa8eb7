import asyncio
import hashlib
import json
import os
import shutil
import traceback
from collections import namedtuple
from pathlib import Path

import httpx
import pytest
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_xai_video.api.client import Download
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.requests import TextRequest
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore, WriteConflict
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.errors import InvalidRequest, RateLimited, StorageError
from prefect_xai_video.orchestration.storage import open_store

from ..support.scripted import ScriptedServer, Trickle, answer

REFUSAL = RateLimited("Too many")
DOWNLOAD = Download(size=5, sha256=hashlib.sha256(b"video").hexdigest(), content_type="video/mp4")


def claimed(key="cats/one") -> Receipt:
    return Receipt.claim(key, TextRequest(prompt="A cat"))


@pytest.fixture
def store(storage, tmp_path):
    return open_store(storage, tmp_path)


async def test_a_receipt_is_read_as_it_was_written(store):
    assert await store.read("cats/one") is None
    receipt = claimed()
    created = await store.create(receipt)
    assert await store.read("cats/one") == created
    assert created.receipt == receipt


async def test_exactly_one_writer_creates_a_receipt(store):
    receipts = [claimed() for _ in range(8)]
    outcomes = await asyncio.gather(*(store.create(receipt) for receipt in receipts), return_exceptions=True)
    winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(outcome, WriteConflict) for outcome in outcomes if outcome is not winners[0])
    assert (await store.read("cats/one")).receipt == winners[0].receipt


async def test_exactly_one_writer_replaces_a_receipt(store):
    held = await store.create(claimed())
    changes = [held.receipt.submitted(f"id-{n}") for n in range(8)]
    outcomes = await asyncio.gather(*(store.replace(held, change) for change in changes), return_exceptions=True)
    winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(outcome, WriteConflict) for outcome in outcomes if outcome is not winners[0])
    assert await store.read("cats/one") == winners[0]


async def test_a_writer_with_an_old_version_can_not_replace_a_receipt(store):
    held = await store.create(claimed())
    newer = await store.replace(held, held.receipt.submitted("id-1"))
    with pytest.raises(WriteConflict):
        await store.replace(held, held.receipt.refused(REFUSAL))
    assert (await store.replace(newer, newer.receipt)).receipt.request_id == "id-1"


async def test_a_video_is_stored_atomically(store, tmp_path):
    held = await store.create(claimed())
    file = store.file("cats/one", DOWNLOAD)
    assert not await store.holds_video("cats/one", file)
    with store.workspace("cats/one") as path:
        path.write_bytes(b"video")
        await store.put_video(held, path, file)
    assert await store.holds_video("cats/one", file)
    assert not await store.holds_video("cats/one", file.model_copy(update={"sha256": "ab"}))
    assert (file.size, file.sha256, file.content_type) == (5, DOWNLOAD.sha256, "video/mp4")
    assert file.uri == store.uri("cats/one.mp4")
    assert not path.exists()


async def test_a_stored_video_is_recognised_by_version_or_digest(store):
    held = await store.create(claimed())
    file = store.file("cats/one", DOWNLOAD)
    with store.workspace("cats/one") as path:
        path.write_bytes(b"video")
        stored = await store.put_video(held, path, file)
    assert stored.version
    assert stored == file.model_copy(update={"version": stored.version})
    other = {"sha256": hashlib.sha256(b"other").hexdigest()}
    assert await store.holds_video("cats/one", stored)
    assert await store.holds_video("cats/one", stored.model_copy(update={"version": "another"}))
    assert not await store.holds_video("cats/one", stored.model_copy(update={"version": "another"} | other))
    assert not await store.holds_video("cats/one", stored.model_copy(update={"size": 6}))
    assert not await store.holds_video("cats/two", stored)


async def test_storing_a_video_twice_is_harmless_and_never_overwrites_another(store):
    held = await store.create(claimed())
    file = store.file("cats/one", DOWNLOAD)
    with store.workspace("cats/one") as path:
        path.write_bytes(b"video")
        stored = await store.put_video(held, path, file)
        path.write_bytes(b"video")
        assert await store.put_video(held, path, file) == stored
        path.write_bytes(b"other")
        other = file.model_copy(update={"sha256": hashlib.sha256(b"other").hexdigest()})
        with pytest.raises(StorageError, match=r"one\.mp4 already.*not overwritten"):
            await store.put_video(held, path, other)
        assert await store.holds_video("cats/one", stored)
        aside = await store.set_aside("cats/one")
        assert not await store.holds_video("cats/one", stored)
        path.write_bytes(b"other")
        await store.put_video(held, path, other)
        assert await store.set_aside("cats/one") != aside
    assert await store.set_aside("cats/one") is None


async def test_an_object_without_metadata_is_recognised_by_its_content(bucket, aws):
    store = S3Store(bucket)
    file = store.file("cat", DOWNLOAD)
    place = {"Bucket": "videos", "Key": f"{bucket.bucket_folder}/cat.mp4"}
    for checksum in ({}, {"ChecksumAlgorithm": "SHA256"}):
        aws.get_s3_client().put_object(**place, Body=b"other", **checksum)
        assert not await store.holds_video("cat", file)
        aws.get_s3_client().put_object(**place, Body=b"video", **checksum)
        assert await store.holds_video("cat", file)


async def put(store, key="cats/one"):
    held = await store.create(claimed(key))
    file = store.file(key, DOWNLOAD)
    with store.workspace(key) as path:
        path.write_bytes(b"video")
        await store.put_video(held, path, file)


async def stored(store, key):
    held = await store.create(claimed(key))
    held = await store.replace(held, held.receipt.submitted("id-1"))
    held = await store.replace(held, held.receipt.finished(VideoStatus(request_id="id-1", state="done")))
    with store.workspace(key) as path:
        path.write_bytes(b"video")
        file = await store.put_video(held, path, store.file(key, DOWNLOAD))
    return (await store.replace(held, held.receipt.stored(file))).receipt


async def test_many_receipts_are_found_at_once_and_none_spoils_the_others(store, tmp_path):
    there, missing = await stored(store, "cats/there"), await stored(store, "cats/missing")
    assert await store.set_aside("cats/missing")
    sending = (await store.create(claimed("cats/sending"))).receipt
    damaged = tmp_path / "damaged"
    damaged.write_text("{")
    await store.write_file("cats/damaged.json", damaged, "application/json")
    keys = ["cats/sending", "cats/none", "cats/damaged", "cats/missing", "cats/there"]
    found = await store.find_all(keys)
    assert [found[0], found[1], found[3], found[4]] == [sending, None, None, there]
    assert isinstance(found[2], StorageError)
    assert "damaged.json can't be read" in str(found[2])
    assert (await store.read("cats/missing")).receipt == missing


async def test_a_stored_video_can_be_read_on_this_machine(store):
    await put(store)
    async with store.local_copy("cats/one") as path:
        assert path.read_bytes() == b"video"
    assert path.exists() == isinstance(store, LocalStore)
    assert await store.holds_video("cats/one", store.file("cats/one", DOWNLOAD))


async def test_a_large_video_is_not_copied(bucket, monkeypatch):
    store = S3Store(bucket)
    await put(store)
    monkeypatch.setattr("prefect_xai_video.engine.stores.objects.MAX_COPY_BYTES", 4)
    with pytest.raises(StorageError, match="too large"):
        async with store.local_copy("cats/one"):
            pass


async def test_a_link_shows_the_video_without_credentials(bucket):
    store = S3Store(bucket)
    await put(store)
    link = await store.link("cats/one", 60)
    answer = httpx.get(link)
    assert answer.content == b"video"
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Content-Disposition"] == 'inline; filename="cats-one.mp4"'
    assert "X-Amz-Expires=60&" in link


async def test_a_directory_has_no_links(tmp_path):
    assert await LocalStore(tmp_path).link("cats/one", 60) is None


async def test_an_object_carries_its_type_and_digest(bucket, aws, tmp_path):
    store = S3Store(bucket)
    held = await store.create(claimed("cat"))
    held = await store.replace(held, held.receipt.submitted("id-1"))
    file = store.file("cat", DOWNLOAD)
    with store.workspace("cat") as path:
        path.write_bytes(b"video")
        await store.put_video(held, path, file)
    head = aws.get_s3_client().head_object(Bucket="videos", Key=f"{bucket.bucket_folder}/cat.mp4")
    assert file.uri == f"s3://videos/{bucket.bucket_folder}/cat.mp4"
    assert head["ContentType"] == "video/mp4"
    assert head["Metadata"] == {"sha256": DOWNLOAD.sha256, "request-id": "id-1"}


async def test_a_write_whose_response_was_lost_is_recognised(bucket):
    """boto3 sends a PUT again by itself; the second one then finds the first one's work."""
    store = S3Store(bucket)
    receipt = claimed()
    created = await store.create(receipt)
    assert await store.create(receipt) == created
    changed = receipt.submitted("id-1")
    replaced = await store.replace(created, changed)
    assert await store.replace(created, changed) == replaced


async def test_a_directory_holds_nothing_but_videos_and_receipts(tmp_path):
    store = LocalStore(tmp_path / "store")
    held = await store.create(claimed())
    held = await store.replace(held, held.receipt.submitted("id-1"))
    with store.workspace("cats/one") as path:
        path.write_bytes(b"video")
        await store.put_video(held, path, store.file("cats/one", DOWNLOAD))
    found = sorted(path.name for path in (tmp_path / "store" / "cats").iterdir())
    assert [name for name in found if not name.startswith(".")] == ["one.json", "one.mp4"]
    assert not [name for name in found if name.endswith(".part")]
    assert [key async for key in store.keys("")] == ["cats/one"]


async def test_a_workspace_is_empty_after_a_failure(tmp_path):
    store = LocalStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.workspace("cat") as path:
        path.write_bytes(b"half a video")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


OF_VERSION_1 = [
    {"version": 1, "key": "cat"},
    {"version": 1, "key": "cat", "attempts": [{"n": 1}]},
    {"version": 1, "key": "cat", "attempts": ["first"]},
    {"version": 1, "key": "cat", "attempts": 7},
    {"version": 1, "attempts": []},
]
"""Receipts whose checksum is right, and whose content is not."""


def with_checksum(content):
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps(content | {"checksum": hashlib.sha256(canonical.encode()).hexdigest()}).encode()


@pytest.mark.parametrize(
    "content", [b"", b'{"version": 1, "key"', b"[]", b'{"version": 99}', *map(with_checksum, OF_VERSION_1)]
)
async def test_an_invalid_receipt_is_named_by_its_location(tmp_path, content):
    (tmp_path / "cat.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"cat\.json") as caught:
        await LocalStore(tmp_path).read("cat")
    assert caught.value.key == "cat"
    assert not caught.value.transient


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
async def test_only_a_regular_file_is_read_as_a_receipt(tmp_path, put):
    put(tmp_path / "cat.json")
    async with asyncio.timeout(20):
        with pytest.raises(StorageError, match=r"cat\.json can't be read: not a regular file"):
            await LocalStore(tmp_path).read("cat")


async def test_a_file_too_large_for_a_receipt_is_not_read(tmp_path):
    with (tmp_path / "cat.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StorageError, match=r"cat\.json can't be read: File too large"):
        await LocalStore(tmp_path).read("cat")


async def test_the_receipt_of_another_key_is_refused(tmp_path):
    store = LocalStore(tmp_path)
    await store.create(claimed("cat"))
    shutil.copy(tmp_path / "cat.json", tmp_path / "dog.json")
    with pytest.raises(StorageError, match="another key"):
        await store.read("dog")


async def test_a_directory_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "store").write_text("no directory")
    with pytest.raises(StorageError, match=r"store.*can't be written"):
        await LocalStore(tmp_path / "store").create(claimed())


async def test_a_full_disk_is_an_error_before_anything_is_paid(store, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, 3 * 2**20))
    with pytest.raises(StorageError, match=r"3\.0 MiB free; at least 32 MiB"):
        await store.create(claimed())
    assert await store.read("cats/one") is None


def of(credentials, name="videos") -> S3Store:
    return S3Store(S3Bucket(bucket_name=name, credentials=credentials))


async def test_a_bucket_that_does_not_exist_is_named(aws):
    with pytest.raises(StorageError, match=r"'nowhere'.*NoSuchBucket") as caught:
        await of(aws, "nowhere").create(claimed())
    assert not caught.value.transient


async def test_an_unreachable_endpoint_is_a_transient_error():
    credentials = AwsCredentials(
        aws_access_key_id="a",
        aws_secret_access_key="topsecret",
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url="http://127.0.0.1:1", config={"retries": {"total_max_attempts": 1}}
        ),
    )
    with pytest.raises(StorageError) as caught:
        await of(credentials).read("cat")
    assert caught.value.transient
    assert "topsecret" not in str(caught.value)


def at(server, secret="topsecret", **config) -> AwsCredentials:
    """Credentials for a server that answers as it likes."""
    return AwsCredentials(
        aws_access_key_id="an-id",
        aws_secret_access_key=secret,
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url=server.url, config={"retries": {"total_max_attempts": 1}, **config}
        ),
    )


@pytest.mark.parametrize("length", [f"Content-Length: {2**40}\r\n", ""])
async def test_an_object_too_large_for_a_receipt_is_not_read(length):
    head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nLast-Modified: Thu, 26 Nov 2026 10:00:00 GMT\r\n{length}\r\n'
    with ScriptedServer([Trickle(head.encode(), bytes(2**20))]) as server:
        async with asyncio.timeout(100):
            with pytest.raises(StorageError, match=r"s3://videos/cat\.json can't be read: .*16 MiB") as caught:
                await of(at(server)).read("cat")
    assert not caught.value.resend_safe


SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEDkaDEXAMPLETOKEN"


@pytest.mark.parametrize(
    "said",
    [
        f"The string to sign was {SECRET}",
        f"Bad token {TOKEN}",
        f"Cannot read https://videos.s3.amazonaws.com/cat.json?X-Amz-Signature={'EXAMPLE' * 3}&amp;X-Amz-Expires=60",
        f"No way to https://user:{SECRET}@videos.test/",
        SECRET.replace("/", "%2F"),
    ],
)
async def test_an_error_of_s3_contains_no_secret(said):
    body = f"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()
    with ScriptedServer([answer("403 Forbidden", body)] * 2) as server:
        credentials = at(server, SECRET).model_copy(update={"aws_session_token": TOKEN})
        with pytest.raises(StorageError, match="AccessDenied") as stored:
            await of(credentials).read("cat")
        with pytest.raises(InvalidRequest, match="AccessDenied") as given:
            await resolve_inputs(build_request("A cat", image_url="s3://videos/cat.png"), credentials)
    for caught in stored, given:
        assert "EXAMPLE" not in "".join(traceback.format_exception(caught.value))


async def test_a_video_is_not_stored_if_the_receipt_has_changed(store, tmp_path):
    held = await store.create(claimed())
    await store.replace(held, held.receipt.submitted("id-1"))
    (tmp_path / "v").write_bytes(b"video")
    file = store.file("cats/one", DOWNLOAD)
    with pytest.raises(WriteConflict):
        await store.put_video(held, tmp_path / "v", file)
    assert not await store.holds_video("cats/one", file)


def test_the_default_store_is_the_home_of_the_settings(tmp_path):
    assert open_store(None, tmp_path).uri("cat.mp4") == (tmp_path / "cat.mp4").as_uri()


@pytest.mark.parametrize("basepath", [None, "", ".", "videos", "./videos", "../videos"])
def test_a_relative_directory_is_rejected(basepath):
    with pytest.raises(StorageError, match="absolute path"):
        open_store(LocalFileSystem(basepath=basepath), Path("/nowhere"))


def test_a_relative_home_is_rejected():
    with pytest.raises(StorageError, match=r"'videos' is not allowed.*absolute path"):
        open_store(None, Path("videos"))


def test_a_directory_in_the_home_of_a_user_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store(LocalFileSystem(basepath="~/videos"), Path("/nowhere"))
    assert store.uri("cat.mp4") == (tmp_path / "videos" / "cat.mp4").as_uri()


@pytest.mark.parametrize("folder", ["..", "../videos", "cats/../videos", "./videos", "/videos", "/"])
def test_a_folder_of_a_bucket_with_dots_or_a_leading_slash_is_rejected(bucket, folder):
    with pytest.raises(StorageError, match=r"folder .* is not allowed"):
        open_store(bucket.model_copy(update={"bucket_folder": folder}), None)


@pytest.mark.parametrize("folder", ["", "videos", "videos/", "a/b.c/..d"])
def test_a_folder_of_a_bucket_is_named_by_its_parts(bucket, folder):
    store = open_store(bucket.model_copy(update={"bucket_folder": folder}), None)
    assert store.uri("cat.mp4") == f"s3://videos/{folder.rstrip('/')}/cat.mp4".replace("//cat", "/cat")


def test_another_kind_of_storage_is_refused(tmp_path):
    with pytest.raises(StorageError, match="S3Bucket or LocalFileSystem"):
        open_store("videos/", tmp_path)


async def test_a_receipt_on_disk_is_readable_json(tmp_path):
    await LocalStore(tmp_path).create(claimed("cat"))
    assert json.loads((tmp_path / "cat.json").read_text())["state"] == "sending"
    assert Path(tmp_path / "cat.json").read_text().startswith("{\n  ")


def test_the_home_of_an_unknown_user_is_one_clear_error():
    with pytest.raises(StorageError, match="nosuchuser"):
        LocalStore(Path("~nosuchuser/videos"))


async def test_an_invalid_endpoint_is_one_clear_error():
    credentials = AwsCredentials(aws_client_parameters=AwsClientParameters(endpoint_url="no url"))
    with pytest.raises(StorageError, match="Invalid endpoint"):
        await of(credentials).read("cat")


async def test_an_old_receipt_that_is_restored_leads_to_the_current_one(tmp_path):
    store = LocalStore(tmp_path)
    first = await store.create(Receipt.claim("cat", TextRequest(prompt="A cat")))
    old = (tmp_path / "cat.json").read_bytes()
    second = await store.replace(first, first.receipt.submitted("id"))
    # As `cp` does: into the file that is there, and not to another one of its name.
    (tmp_path / "cat.json").write_bytes(old)
    assert await store.read("cat") == second


async def test_hidden_receipts_that_lead_in_a_circle_are_an_error(tmp_path):
    store = LocalStore(tmp_path)
    first = await store.create(Receipt.claim("cat", TextRequest(prompt="A cat")))
    old = (tmp_path / "cat.json").read_bytes()
    await store.replace(first, first.receipt.submitted("id"))
    for receipt in [*tmp_path.glob(".cat.*.json"), tmp_path / "cat.json"]:
        receipt.write_bytes(old)
    with pytest.raises(StorageError, match="form a loop"):
        await store.read("cat")
