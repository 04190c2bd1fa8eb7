import asyncio
import base64
import hashlib
import os
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine import inputs
from prefect_xai_video.engine.inputs import MAX_INLINE_BYTES, resolve_inputs
from prefect_xai_video.engine.reading import Readable, TooLarge, read_file
from prefect_xai_video.errors import InvalidRequest

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
JPEG = b"\xff\xd8\xff\xe0" + bytes(40)
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40)
PNG_BASE64 = base64.b64encode(PNG).decode()
MP4 = b"\x00\x00\x00\x18ftypmp42" + bytes(40)


async def image(value, credentials=None, readable=None):
    request = await resolve_inputs(build_request("A cat", image_url=str(value)), credentials, readable)
    return request.body()["image"]["url"]


async def refused(value, credentials=None, readable=None) -> str:
    """The sentence with which an image is refused; whatever it is, without a wait."""
    with pytest.raises(InvalidRequest, match="image_url") as caught:
        async with asyncio.timeout(20):
            await image(value, credentials, readable)
    return str(caught.value)


async def video(value):
    return (await resolve_inputs(build_request("A cat", video_url=str(value)))).body()["video"]["url"]


@pytest.mark.parametrize(("content", "kind"), [(PNG, "png"), (JPEG, "jpeg"), (WEBP, "webp")])
async def test_a_local_image_is_sent_inline_with_the_type_of_its_content(tmp_path, content, kind):
    path = tmp_path / "cat.gif"
    path.write_bytes(content)
    assert await image(path) == f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


async def test_a_local_video_is_sent_inline(tmp_path):
    path = tmp_path / "cat.mp4"
    path.write_bytes(MP4)
    assert await video(path) == f"data:video/mp4;base64,{base64.b64encode(MP4).decode()}"


async def test_the_uri_of_a_stored_video_is_a_local_file(tmp_path):
    path = tmp_path / "a cat.mp4"
    path.write_bytes(MP4)
    assert await video(path.as_uri()) == await video(path)


@pytest.mark.parametrize("url", ["https://example.com/cat.png", "https://example.com/cat.png?token=1"])
async def test_an_https_url_stays_as_it_is(url):
    assert await image(url) == url


async def test_valid_inline_data_stays_as_it_is():
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert await image(url) == url


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("missing.png", None, "No such file"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"no image at all", "allowed: a PNG, JPEG or WebP image"),
        ("video.png", MP4, "allowed: a PNG, JPEG or WebP image"),
    ],
)
async def test_a_file_that_is_not_an_image_is_rejected_by_name(tmp_path, name, content, text):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="image_url") as caught:
        await image(path)
    assert name in str(caught.value)
    assert text in str(caught.value)


async def test_a_directory_is_not_an_image(tmp_path):
    assert "not a regular file" in await refused(tmp_path)


def fifo(path):
    os.mkfifo(path)
    return path


def local_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def link_to_a_device(path):
    path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("made", [fifo, local_socket, link_to_a_device])
async def test_only_a_regular_file_is_read(made, tmp_path):
    assert "not a regular file" in await refused(made(tmp_path / "cat.png"))


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "/dev/tty"])
async def test_a_device_is_not_an_image(name):
    assert "can't be used" in await refused(name)


async def test_a_link_to_an_image_is_followed(tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "link").symlink_to("cat.png")
    assert await image(tmp_path / "link") == await image(tmp_path / "cat.png")


async def test_a_file_too_large_to_be_sent_inline_is_refused_unread(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_INLINE_BYTES["image"] + 1)
    assert "more than 10485760 bytes" in await refused(path)


def test_a_file_of_unknown_size_is_read_up_to_the_limit():
    path = Path("/proc/self/status")
    assert path.stat().st_size == 0
    assert read_file(path, 2**20).startswith(b"Name:")
    with pytest.raises(TooLarge):
        read_file(path, 10)


def test_a_read_stops_when_its_result_is_not_needed(tmp_path):
    path = tmp_path / "cat.mp4"
    path.write_bytes(MP4)
    with pytest.raises(OSError, match="cancel"):
        read_file(path, 2**20, is_stopped=lambda: True)


async def test_a_cancelled_run_stops_reading_its_input(monkeypatch):
    reading, ended = threading.Event(), threading.Event()

    def read(path, limit, readable, is_stopped):
        reading.set()
        while not is_stopped():
            time.sleep(0.01)
        ended.set()
        return PNG

    monkeypatch.setattr(inputs, "read_file", read)
    task = asyncio.create_task(image("cat.png"))
    assert await asyncio.to_thread(reading.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 60)


async def test_a_path_of_an_unknown_user_is_rejected():
    assert "can't be used" in await refused("~nobody-of-that-name/cat.png")


async def test_a_large_inline_input_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    text = await refused("data:image/png;base64," + "A" * (200 * 2**20))
    assert "209715222 characters is not allowed; allowed: at most 10485760 bytes" in text


class TestWhereReadingIsLimited:
    """Runs of deployments: what may be read is decided by place, and nothing is told of the rest."""

    @pytest.fixture
    def store(self, tmp_path):
        directory = tmp_path / "store"
        (directory / "folder").mkdir(parents=True)
        (directory / "folder" / "cat.png").write_bytes(PNG)
        (tmp_path / "secret.png").write_bytes(PNG)
        (tmp_path / "store-of-others").mkdir()
        (tmp_path / "store-of-others" / "cat.png").write_bytes(PNG)
        return directory

    @pytest.fixture
    def readable(self, store):
        return Readable.of([str(store), "s3://videos/inputs/"], "A setting adds places.")

    async def test_a_file_of_an_allowed_directory_is_read(self, store, readable):
        inside = store / "folder" / "cat.png"
        (store / "link.png").symlink_to(inside)
        (store.parent / "link to store").symlink_to(store)
        for path in (inside, store / "link.png", store.parent / "link to store" / "folder" / ".." / "folder/cat.png"):
            assert await image(path, readable=readable) == await image(inside)
        assert await image(inside.as_uri(), readable=readable) == await image(inside)

    async def test_a_directory_may_itself_be_reached_by_a_link(self, store):
        (store.parent / "link").symlink_to(store)
        assert await image(store / "folder" / "cat.png", readable=Readable.of([str(store.parent / "link")]))

    async def test_all_that_can_be_wrong_with_a_file_has_one_sentence(self, store, readable):
        (store / "leading out.png").symlink_to(store.parent / "secret.png")
        (store / "way out").symlink_to(store.parent)
        (store / "text.png").write_bytes(b"no image at all")
        (store / "empty.png").write_bytes(b"")
        with (store / "large.png").open("wb") as file:
            file.truncate(MAX_INLINE_BYTES["image"] + 1)
        names = [
            store.parent / "secret.png",
            store.parent / "missing.png",
            store.parent / "store-of-others" / "cat.png",
            store / ".." / "secret.png",
            store / "leading out.png",
            store / "way out" / "secret.png",
            store / "missing.png",
            store / "text.png",
            store / "empty.png",
            store / "large.png",
            store / "folder",
            store,
            fifo(store / "fifo.png"),
            "/dev/zero",
            "~/cat.png",
            "~nobody-of-that-name/cat.png",
            "cat\0.png",
        ]
        said = {(await refused(name, readable=readable)).replace(repr(str(name)), "NAME") for name in names}
        assert said == {
            f"image_url: NAME can't be used; allowed: a PNG, JPEG or WebP image in {store}, s3://videos/inputs/, or "
            f"at an https: or data: URL; a local file may have at most 10 MiB. A setting adds places."
        }

    async def test_a_folder_that_becomes_a_link_meanwhile_does_not_lead_out(self, store, readable, monkeypatch):
        real = os.path.realpath(store / "folder" / "cat.png")
        (store.parent / "cat.png").write_bytes(PNG)
        (store / "folder" / "cat.png").unlink()
        (store / "folder").rmdir()
        (store / "folder").symlink_to(store.parent)
        monkeypatch.setattr("os.path.realpath", lambda *_, **__: real)
        await refused(real, readable=readable)

    async def test_an_object_of_an_allowed_prefix_is_read_and_no_other(self, aws, bucket, readable):
        s3 = aws.get_s3_client()
        for key in ("inputs/cat.png", "hr/cat.png", "inputs-of-others/cat.png", "hr/payroll.csv"):
            s3.put_object(Bucket="videos", Key=key, Body=PNG)
        s3.put_object(Bucket="videos", Key="inputs/payroll.csv", Body=b"name,pay")
        assert await image("s3://videos/inputs/cat.png", aws, readable)
        said = set()
        for name in (
            "s3://videos/hr/cat.png",
            "s3://videos/inputs-of-others/cat.png",
            "s3://videos/inputs/../hr/cat.png",
            "s3://videos/inputs/payroll.csv",
            "s3://videos/inputs/missing.png",
            "s3://other-bucket/inputs/cat.png",
            "s3://videos",
        ):
            said.add((await refused(name, aws, readable)).replace(repr(name), "NAME"))
        assert len(said) == 1

    @pytest.mark.parametrize("url", ["https://example.com/cat.png", "data:image/png;base64," + PNG_BASE64])
    async def test_what_is_not_read_here_is_allowed(self, url):
        assert await image(url, readable=Readable()) == url


async def test_an_image_is_not_a_video(tmp_path):
    path = tmp_path / "cat.mp4"
    path.write_bytes(PNG)
    with pytest.raises(InvalidRequest, match=r"video_url.*allowed: an MP4 video"):
        await video(path)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:image/gif;base64,R0lGODlh", "data:image/png;base64"),
        ("data:image/png,abc", "data:image/png;base64"),
        ("data:image/png;base64,", "no base64"),
        ("data:image/png;base64,***", "no base64"),
        ("data:image/png;base64,aGVsbG8=", "PNG, JPEG or WebP"),
        ("http://example.com/cat.png", "https://"),
        ("ftp://example.com/cat.png", "https://"),
        ("https:///cat.png", "https://"),
        ("https://[bad/cat.png", "https://"),
        ("https:/b.s3.amazonaws.com/cat.png?X-Amz-Signature=s3cr3t", "No such file"),
        ("DATA:image/png;base64,s3cr3t", "data:image/png;base64"),
        ("s3://bucket", "s3://bucket/key"),
        ("s3:///cat.png?X-Amz-Signature=s3cr3t", "s3://bucket/key"),
    ],
)
async def test_a_url_that_can_not_be_an_image_is_refused(url, text):
    with pytest.raises(InvalidRequest, match="image_url") as caught:
        await image(url)
    assert text in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_an_s3_object_becomes_a_url_that_anybody_can_read(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="inputs/cat#1?.png", Body=PNG)
    url = await image("s3://videos/inputs/cat#1?.png", aws)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == PNG


async def test_an_s3_object_stays_readable_for_a_request_that_waits_in_a_queue(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="inputs/cat.png", Body=PNG)
    assert "X-Amz-Expires=21600" in await image("s3://videos/inputs/cat.png", aws)


async def test_an_s3_object_is_the_same_input_whenever_and_wherever_it_is_signed(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="inputs/cat.png", Body=PNG)
    asked = build_request("A cat", image_url="s3://videos/inputs/cat.png")
    first, second = await resolve_inputs(asked, aws), await resolve_inputs(asked, elsewhere(aws))
    assert first.body() != second.body()
    etag = hashlib.md5(PNG).hexdigest()
    assert first.record()["image"] == {"url": f"s3://videos/inputs/cat.png#etag={etag}"} == second.record()["image"]
    assert first.fingerprint == second.fingerprint
    aws.get_s3_client().put_object(Bucket="videos", Key="inputs/cat.png", Body=PNG + b"changed")
    assert (await resolve_inputs(asked, aws)).fingerprint != first.fingerprint


def elsewhere(aws):
    """The same server by another host."""
    client = aws.aws_client_parameters
    url = client.endpoint_url.replace("127.0.0.1", "localhost")
    return aws.model_copy(update={"aws_client_parameters": client.model_copy(update={"endpoint_url": url})})


async def test_an_s3_object_also_has_its_earlier_fingerprint(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="inputs/cat.png", Body=PNG)
    request = await resolve_inputs(build_request("A cat", image_url="s3://videos/inputs/cat.png"), aws)
    signed = build_request("A cat", image_url=request.body()["image"]["url"])
    assert request.fingerprint != signed.fingerprint
    assert request.has_fingerprint(request.fingerprint)
    assert request.has_fingerprint(signed.fingerprint)
    assert not request.has_fingerprint(build_request("A dog").fingerprint)


async def test_an_s3_object_that_can_not_be_read_is_refused_before_anything_is_sent(aws, bucket):
    assert "'s3://videos/missing.png' can't be used" in await refused("s3://videos/missing.png", aws)


async def test_an_s3_object_that_is_not_an_image_is_rejected(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="payroll.csv", Body=b"name,pay")
    assert "allowed: a PNG, JPEG or WebP image" in await refused("s3://videos/payroll.csv", aws)


async def test_an_empty_s3_object_is_refused(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="empty.png", Body=b"")
    with pytest.raises(InvalidRequest, match="is empty"):
        await image("s3://videos/empty.png", aws)


async def test_an_image_that_is_given_as_a_voice_too_is_refused_as_one(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    request = build_request("A cat", reference_image_urls=[str(path)], reference_audios=[{"url": str(path)}])
    with pytest.raises(InvalidRequest, match=r"^reference_audios\[0\]\.url: .*its content is of another type"):
        await resolve_inputs(request)


@pytest.mark.parametrize("mark", ["?", "%3F", "%253f"])
async def test_the_signature_of_a_mistyped_url_is_not_quoted(mark):
    assert "s3cr3t" not in await refused(f"https:/example.com/cat.png{mark}X-Amz-Signature=s3cr3t")
