"""Which runs may read only what is meant for them: those of deployments, wherever in them a video is asked for."""

import asyncio
import threading
from pathlib import Path

import pytest
from prefect import flow, get_client, task
from prefect.flow_engine import run_flow

from prefect_xai_video import start_video
from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.engine.reading import Readable
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.orchestration.deployed import HINT, readable_places

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


@task
async def asking():
    return await readable_places(["s3://own"])


@task
def asking_in_a_thread():
    return asyncio.run(readable_places(["s3://own"]))


@flow
async def asking_subflow():
    return await asking()


@flow
async def everywhere():
    """The places in each kind of run that a flow can have within."""
    return {
        "itself": await readable_places(["s3://own"]),
        "task": await asking(),
        "subflow": await asking_subflow(),
        "submitted": asking_in_a_thread.submit().result(),
        "thread": await asyncio.to_thread(asyncio.run, readable_places(["s3://own"])),
    }


@flow
def in_a_thread_without_context():
    """The places in a flow of its own, which knows nothing of the run round it."""
    places = []
    thread = threading.Thread(target=lambda: places.append(asyncio.run(asking_subflow())))
    thread.start()
    thread.join()
    return places[0]


@flow
def animate(image, storage, credentials):
    return start_video("A cat", duration=1, image_url=image, key="cat", storage=storage, credentials=credentials)


async def flow_run_of_deployment(of):
    async with get_client() as client:
        deployment_id = await client.create_deployment(await client.create_flow(of), name="test")
        return await client.create_flow_run_from_deployment(deployment_id)


async def test_what_may_be_read_is_limited_wherever_in_a_deployment(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_INPUT_ROOTS", f"{tmp_path}/more,s3://more/images")
    places = await run_flow(everywhere, await flow_run_of_deployment(everywhere))
    shown = {name: str(readable) for name, readable in places.items()}
    expected = f"{tmp_path}/home, {tmp_path}/more, s3://own/, s3://more/images/"
    assert shown == dict.fromkeys(["itself", "task", "subflow", "submitted", "thread"], expected)


async def test_who_calls_directly_may_read_all_that_the_user_may():
    assert await readable_places() is None
    assert set((await everywhere()).values()) == {None}


@pytest.mark.parametrize("name", ["/data/products.csv", "s3://hr/products.csv"])
async def test_a_manifest_elsewhere_is_refused_in_one_sentence_each(name):
    readable = Readable.of(["/videos"], HINT)
    with pytest.raises(InvalidRequest) as caught, open_manifest(name, readable=readable):
        pass
    assert str(caught.value) == (
        f"manifest: {name!r} can't be read; allowed: a file in /videos. To allow another location, add it to the "
        f"setting PREFECT_INTEGRATIONS_XAI_VIDEO_INPUT_ROOTS where the flow runs. Nothing was sent."
    )


async def test_a_flow_without_context_in_the_process_of_a_deployment_is_limited(monkeypatch):
    run = await flow_run_of_deployment(in_a_thread_without_context)
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))
    assert await asyncio.to_thread(in_a_thread_without_context) is not None
    async with get_client() as client:
        await client.delete_flow_run(run.id)
    assert await readable_places() is not None


async def test_a_deployment_reads_images_of_its_storage_and_of_no_other_place(directory, xai, submissions, tmp_path):
    inside = Path(directory.basepath) / "cat.png"
    inside.parent.mkdir()
    for path in (inside, tmp_path / "secret.png"):
        path.write_bytes(PNG)

    async def run(image):
        given = {"image": str(image), "storage": directory, "credentials": xai}
        flow_run = await flow_run_of_deployment(animate)
        return await asyncio.to_thread(run_flow, animate, flow_run, given)

    for refused in (tmp_path / "secret.png", "s3://hr/cat.png"):
        with pytest.raises(
            InvalidRequest,
            match=r"image_url: .* can't be used; allowed: .*INPUT_ROOTS where the flow runs\. Nothing was sent",
        ):
            await run(refused)
    assert submissions() == 0
    assert (await run(inside)).state == "submitted"
    assert submissions() == 1
