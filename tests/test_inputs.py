import base64
import urllib.request

import pytest

from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.inputs import MAX_INLINE_BYTES, resolve_inputs
from prefect_xai_video.requests import build_request

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
JPEG = b"\xff\xd8\xff\xe0" + bytes(40)
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40)
MP4 = b"\x00\x00\x00\x18ftypmp42" + bytes(40)


async def image(value, credentials=None):
    request = await resolve_inputs(build_request("A cat", image_url=str(value)), credentials)
    return request.body()["image"]["url"]


async def video(value):
    return (await resolve_inputs(build_request("A cat", video_url=str(value)))).body()["video"]["url"]


@pytest.mark.parametrize(("content", "kind"), [(PNG, "png"), (JPEG, "jpeg"), (WEBP, "webp")])
async def test_a_local_image_is_sent_inline_by_what_it_is_not_by_its_name(tmp_path, content, kind):
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


async def test_good_inline_data_stays_as_it_is():
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
async def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, name, content, text):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="image_url") as caught:
        await image(path)
    assert name in str(caught.value)
    assert text in str(caught.value)


async def test_a_directory_is_no_image(tmp_path):
    with pytest.raises(InvalidRequest, match="Is a directory"):
        await image(tmp_path)


async def test_a_file_too_large_to_be_sent_inline_is_refused_unread(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_INLINE_BYTES["image"] + 1)
    with pytest.raises(InvalidRequest, match="10485761 bytes"):
        await image(path)


async def test_an_image_is_no_video(tmp_path):
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


async def test_an_s3_object_is_the_same_input_however_often_it_is_signed(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="inputs/cat.png", Body=PNG)
    asked = build_request("A cat", image_url="s3://videos/inputs/cat.png")
    record = (await resolve_inputs(asked, aws)).record()
    assert "Signature" not in str(record)
    assert record["image"]["url"].endswith("/videos/inputs/cat.png")


async def test_an_s3_object_that_can_not_be_read_is_refused_before_anything_is_sent(aws, bucket):
    with pytest.raises(InvalidRequest, match=r"image_url: 's3://videos/missing.png' can't be read"):
        await image("s3://videos/missing.png", aws)


async def test_an_empty_s3_object_is_refused(aws, bucket):
    aws.get_s3_client().put_object(Bucket="videos", Key="empty.png", Body=b"")
    with pytest.raises(InvalidRequest, match="is empty"):
        await image("s3://videos/empty.png", aws)
