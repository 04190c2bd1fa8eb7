"""`keep_at_xai`: a stored video stays a file in xAI's Files API, with a lifetime and a public URL if wanted."""

import httpx
import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import InvalidRequest, ServiceUnavailable

from ..support.api_key import API_KEY

SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)


@pytest.fixture
def emulator():
    """An emulator of its own, whose files are those of one test."""
    with Emulator(render_seconds=0.3, api_key=API_KEY) as running:
        yield running


@pytest.fixture
async def engine(emulator, tmp_path):
    quick = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=quick) as client:
        yield Generation(client, LocalStore(tmp_path), SCHEDULE)


async def make(engine, text, **options):
    await engine.start(build_request(text, duration=1), "cat", **options)
    await engine.wait("cat", timeout=20)
    return await engine.save("cat")


def sent(emulator):
    return next(entry["body"] for entry in emulator.requests() if entry["method"] == "POST")["storage_options"]


@pytest.mark.parametrize(
    ("keep", "lifetime"), [(True, {}), (7200, {"expires_after": 7200})], ids=["for ever", "for two hours"]
)
async def test_the_file_stays_as_long_as_it_should_and_its_id_is_in_the_result(engine, emulator, keep, lifetime):
    video = await make(engine, "A cat to keep", keep_at_xai=keep)
    assert {name: value for name, value in sent(emulator).items() if name != "filename"} == lifetime
    file = await engine.client.files.get(video.file_id)
    assert (file.expires_at is None, file.public_url, video.public_url) == (keep is True, None, None)
    assert await make(engine, "A cat to keep") == video


@pytest.mark.parametrize("fault", ["progress-absent", "public-url-failed", "start-accepted-cut", "no-status"])
async def test_a_public_url_is_in_the_result_whatever_happens(engine, fault):
    video = await make(engine, f"A public cat [fault:{fault}]", keep_at_xai=True, public_url=True)
    assert httpx.get(video.public_url).content == (engine.store.root / "cat.mp4").read_bytes()
    assert (await make(engine, f"A public cat [fault:{fault}]")).public_url == video.public_url
    assert (await engine.client.files.get(video.file_id)).public_url == video.public_url


async def test_a_stored_video_that_is_lost_is_restored_from_its_file(engine, emulator):
    video = await make(engine, "A lost cat [fault:start-accepted-cut]", keep_at_xai=True)
    (engine.store.root / "cat.mp4").unlink()
    assert (await engine.save("cat")).sha256 == video.sha256
    assert len(emulator.ledger()["requests"]) == 1


async def unavailable(*_, **_options):
    raise ServiceUnavailable("No usable response.")


async def test_what_could_not_be_found_out_of_a_kept_file_is_found_out_later(engine, emulator, monkeypatch):
    text = "A public cat [fault:public-url-failed]"
    with monkeypatch.context() as at_first:
        at_first.setattr("prefect_xai_video.api.files.XaiFiles.publish", unavailable)
        assert (await make(engine, text, keep_at_xai=True, public_url=True)).public_url is None
    video = await make(engine, text)
    assert httpx.get(video.public_url).content == (engine.store.root / "cat.mp4").read_bytes()
    calls = len(emulator.requests())
    assert (await make(engine, text), len(emulator.requests())) == (video, calls)


async def test_a_lost_video_is_restored_from_a_file_whose_id_is_not_known(engine, emulator, monkeypatch):
    get = XaiVideoClient.get

    async def without_file(*args, **options):
        return (await get(*args, **options)).model_copy(update={"file_id": None})

    with monkeypatch.context() as at_first:
        at_first.setattr(XaiVideoClient, "get", without_file)
        at_first.setattr("prefect_xai_video.api.files.XaiFiles.find", unavailable)
        video = await make(engine, "A lost cat", keep_at_xai=True)
    assert video.file_id is None
    (engine.store.root / "cat.mp4").unlink()
    monkeypatch.setattr(XaiVideoClient, "get", unavailable)
    assert (await engine.save("cat")).sha256 == video.sha256
    assert len(emulator.ledger()["requests"]) == 1


async def test_a_file_that_xai_has_not_kept_is_logged_and_fails_nothing(engine, caplog):
    video = await make(engine, "A cat [fault:storage-failed]", keep_at_xai=True)
    assert (video.file_id, video.size > 1000) == (None, True)
    assert "xAI has not kept the video of key cat" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"keep_at_xai": 3599},
            "keep_at_xai: 3599 is not allowed; allowed: true, false or a whole number",
        ),
        ({"keep_at_xai": "yes"}, "keep_at_xai: 'yes' is not allowed"),
        ({"public_url": True}, "public_url: true without keep_at_xai is not allowed"),
        ({"keep_at_xai": True, "public_url": 1}, "public_url: 1 is not allowed; allowed: true or false"),
        ({"keep_at_xai": True, "delivery": "direct"}, "keep_at_xai: True with direct delivery is not allowed"),
    ],
)
async def test_bad_options_are_told_before_anything_is_spent(engine, emulator, options, says):
    with pytest.raises(InvalidRequest, match=says):
        await engine.start(build_request("A cat"), "cat", **options)
    assert emulator.requests() == []
