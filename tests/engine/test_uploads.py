"""Large inputs are uploaded once, instead of being sent inside each request."""

import av
import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.storage_options import is_own_name
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine import uploads
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore

from ..support.api_key import API_KEY

SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)


@pytest.fixture
def emulator(monkeypatch):
    monkeypatch.setattr(uploads, "UPLOAD_ABOVE_BYTES", 50)
    with Emulator(render_seconds=0.1, api_key=API_KEY) as running:
        yield running


@pytest.fixture
async def engine(emulator, tmp_path):
    quick = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=quick) as client:
        yield Generation(client, LocalStore(tmp_path / "store"), SCHEDULE)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "black.png"
    av.VideoFrame(64, 64, "rgb24").save(path)
    return path


async def make(engine, image, key="cat"):
    request = await resolve_inputs(build_request("A cat", image_url=str(image), duration=1))
    started = await engine.start(request, key)
    await engine.wait(key, timeout=20)
    await engine.save(key)
    return started


def posts(emulator, path):
    return [entry for entry in emulator.requests() if (entry["method"], entry["path"]) == ("POST", path)]


async def test_a_large_input_is_uploaded_once_with_an_end_in_the_same_request(engine, emulator, image, monkeypatch):
    first = await make(engine, image)
    [file] = [file async for file in engine.client.files.listed()]
    assert is_own_name(file.name)
    assert (file.expires_at - file.created_at).total_seconds() == uploads.INPUT_SECONDS
    await make(engine, image, "another")
    assert await make(engine, image) is not None
    assert [entry["body"]["image"] for entry in posts(emulator, "/v1/videos/generations")] == [
        {"file_id": file.id}
    ] * 2
    assert len(posts(emulator, "/v1/files")) == 1
    monkeypatch.setattr(uploads, "UPLOAD_ABOVE_BYTES", 2**30)
    inline = await make(engine, image, "inline")
    assert (inline.fingerprint, inline.request) == (first.fingerprint, first.request)
    assert str(posts(emulator, "/v1/videos/generations")[-1]["body"]["image"]).startswith("{'url': 'data:image/png")


async def test_a_file_of_the_name_with_other_content_is_not_used(engine, emulator, image):
    await make(engine, image)
    [whole] = [file async for file in engine.client.files.listed()]
    half = image.read_bytes()[: image.stat().st_size // 2]
    newer = await engine.client.files.upload(whole.name, half, "image/png", uploads.INPUT_SECONDS)
    await make(engine, image, "another")
    await engine.client.files.delete(whole.id)
    await make(engine, image, "third")
    sent = [entry["body"]["image"]["file_id"] for entry in posts(emulator, "/v1/videos/generations")]
    assert sent[:2] == [whole.id] * 2
    assert sent[2] not in (whole.id, newer.id)


async def test_an_upload_that_is_about_to_end_is_not_used_again(engine, emulator, image, monkeypatch):
    await make(engine, image)
    monkeypatch.setattr(uploads, "MIN_LEFT_SECONDS", uploads.INPUT_SECONDS)
    await make(engine, image, "another")
    assert len(posts(emulator, "/v1/files")) == 2


async def test_an_input_that_can_not_be_uploaded_is_sent_inside_the_request(
    engine, emulator, image, monkeypatch, caplog
):
    monkeypatch.setattr("prefect_xai_video.emulator.file_routes.MAX_MEDIA_BYTES", 10)
    await make(engine, image)
    assert "is sent inside the request" in caplog.text
    assert "url" in posts(emulator, "/v1/videos/generations")[0]["body"]["image"]
