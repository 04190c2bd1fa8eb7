"""The forms of the flows, in both UIs, as a person fills them in."""

import inspect
import sys
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials, S3Bucket

from prefect_xai_video import XaiCredentials, acollect_video, agenerate_video
from prefect_xai_video.orchestration.run_names import is_generated

from .forms import OLD, add_entries, fill_in, open_form, press_submit, refusal, submit

sys.path.append(str(Path(__file__).parents[2] / "flows"))

from animate_image import animate_image
from draft_and_final import draft_and_final
from generate_then_edit import generate_then_edit
from videos_from_table import videos_from_table

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

TITLES = [
    "Prompt",
    "Image URL (Optional)",
    "Last frame URL (Optional)",
    "Keyframes (Optional)",
    "Reference image URLs (Optional)",
    "Reference voices (Optional)",
    "Video URL (Optional)",
    "Extend video URL (Optional)",
    "Duration (Optional)",
    "Aspect ratio (Optional)",
    "Resolution (Optional)",
    "Generate audio (Optional)",
    "Model (Optional)",
    "Storage (Optional)",
    "Key (Optional)",
    "Credentials (Optional)",
    "Delivery (Optional)",
    "Recovery (Optional)",
    "Keep at xAI (Optional)",
    "Public URL (Optional)",
    "Stills (Optional)",
    "Timeout in seconds (Optional)",
    "Regenerate (Optional)",
    "On unknown outcome (Optional)",
    "User (Optional)",
]
UNTOUCHED = {
    "generate_audio": True,
    "model": "grok-imagine-video",
    "delivery": "download",
    "recovery": "none",
    "keep_at_xai": False,
    "public_url": False,
    "stills": False,
    "regenerate": False,
    "on_unknown": "raise",
}


FLOWS = {
    "generate": agenerate_video,
    "collect": acollect_video,
    "table": videos_from_table,
    "animate": animate_image,
    "edit": generate_then_edit,
    "draft": draft_and_final,
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def saved(ui_server) -> dict[str, UUID]:
    """The ids of the blocks and deployments that a person would have made before."""
    blocks: dict[str, Block] = {
        "xai": XaiCredentials(api_key="any"),
        "videos": LocalFileSystem(basepath="/videos"),
        "my-videos": S3Bucket(bucket_name="my-videos", credentials=AwsCredentials()),
    }
    with temporary_settings({PREFECT_API_URL: f"{ui_server}/api"}):
        made = {name: await block.save(name, overwrite=True) for name, block in blocks.items()}
        for name, flow in FLOWS.items():
            made[name] = await (await flow.ato_deployment(name)).aapply()
    return made


async def run_of(ui_server, flow_run_id):
    async with PrefectClient(f"{ui_server}/api") as client:
        return await client.read_flow_run(flow_run_id)


async def parameters_of(ui_server, flow_run_id):
    return (await run_of(ui_server, flow_run_id)).parameters


def block(ui, block_id):
    return {"$ref": str(block_id) if ui is OLD else {"block_document_id": str(block_id)}}


async def test_lists_are_filled_in_entry_by_entry(page, ui, ui_server, saved):
    await open_form(page, ui, ui_server, saved["generate"])
    await fill_in(page, ui, {"Prompt": "<IMAGE_0> meets <IMAGE_1>"})
    await add_entries(
        page, ui, "Reference image URLs", [["https://example.com/a.png"], ["https://example.com/b.png"]]
    )
    await add_entries(page, ui, "Keyframes", [["https://example.com/c.png", "2.5"]])
    await add_entries(page, ui, "Reference voices", [["eve"]])
    given = await parameters_of(ui_server, await submit(page, ui))
    assert given == UNTOUCHED | {
        "prompt": "<IMAGE_0> meets <IMAGE_1>",
        "reference_image_urls": ["https://example.com/a.png", "https://example.com/b.png"],
        "keyframes": [{"image_url": "https://example.com/c.png", "timestamp": 2.5}],
        "reference_audios": [{"voice_id": "eve"}],
    }


async def test_what_is_filled_in_arrives_and_what_is_out_of_bounds_is_refused_with_words(page, ui, ui_server, saved):
    await open_form(page, ui, ui_server, saved["generate"])
    assert await page.locator(ui.field).locator(ui.label).all_inner_texts() == TITLES
    assert await page.locator(".cm-editor").count() == 0, "there is a JSON box"
    await fill_in(
        page,
        ui,
        {
            "Prompt": "A cat playing with a ball",
            "Image URL": "s3://my-videos/cat.png",
            "Duration": 16,
            "Aspect ratio": "9:16",
            "Resolution": "720p",
            "Model": ("Known models", "grok-imagine-video-1.5"),
            "Storage": ("LocalFileSystem", "videos"),
            "Key": "cats/one",
            "Credentials": "xai",
            "Delivery": "direct",
            "Timeout in seconds": 90,
            "Regenerate": True,
            "On unknown outcome": "resubmit",
            "User": "somebody",
        },
    )
    await press_submit(page)
    assert "15" in await refusal(page, ui, "Duration")

    await fill_in(page, ui, {"Duration": 6, "Model": ("Model id", "grok-imagine-video-2")})
    assert await parameters_of(ui_server, await submit(page, ui)) == {
        "prompt": "A cat playing with a ball",
        "image_url": "s3://my-videos/cat.png",
        "duration": 6,
        "aspect_ratio": "9:16",
        "resolution": "720p",
        "generate_audio": True,
        "model": "grok-imagine-video-2",
        "storage": block(ui, saved["videos"]),
        "key": "cats/one",
        "credentials": block(ui, saved["xai"]),
        "delivery": "direct",
        "recovery": "none",
        "keep_at_xai": False,
        "stills": False,
        "public_url": False,
        "timeout_seconds": 90,
        "regenerate": True,
        "on_unknown": "resubmit",
        "user": "somebody",
    }


async def test_nothing_is_sent_for_what_nobody_touched(page, ui, ui_server, saved):
    await open_form(page, ui, ui_server, saved["generate"])
    await fill_in(page, ui, {"Prompt": "A cat"})
    run = await run_of(ui_server, await submit(page, ui))
    assert run.parameters == {"prompt": "A cat", **UNTOUCHED}
    assert is_generated(run.name), "the run would not be named after its prompt"


async def test_the_form_of_collect_video_is_filled_in(page, ui, ui_server, saved):
    await open_form(page, ui, ui_server, saved["collect"])
    asked = {"Request id": "3f7a6f0e", "Key": "cats/one", "Storage": ("S3Bucket", "my-videos"), "Credentials": "xai"}
    await fill_in(page, ui, asked)
    assert await parameters_of(ui_server, await submit(page, ui)) == {
        "request_id": "3f7a6f0e",
        "key": "cats/one",
        "storage": block(ui, saved["my-videos"]),
        "credentials": block(ui, saved["xai"]),
    }


# What a person types and chooses in the form of each example flow, in the order of its fields: all of them.
FILLED_IN = {
    "table": {
        "Table": "/data/videos.csv",
        "Maximum total cost in USD": 2,
        "Videos at a time": 3,
        "Storage": ("S3Bucket", "my-videos"),
        "Credentials": "xai",
    },
    "animate": {
        "Bucket": "my-videos",
        "Image in the bucket": "cats/one.png",
        "Prompt": "The cat looks up",
        "Duration": 4,
        "Resolution": "720p",
        "Bucket block": "my-videos",
        "Credentials": "xai",
    },
    "edit": {
        "Prompt": "A cat",
        "Prompt of the edit": "Make it black",
        "Name of both videos": "cats/two",
        "Duration": 4,
        "Aspect ratio": "9:16",
        "Resolution": "720p",
        "Storage": ("LocalFileSystem", "videos"),
        "Credentials": "xai",
    },
    "draft": {
        "Prompt": "A cat",
        "Duration": 4,
        "Aspect ratio": "1:1",
        "Storage": ("S3Bucket", "my-videos"),
        "Credentials": "xai",
    },
}


@pytest.mark.parametrize("name", FILLED_IN)
async def test_the_form_of_an_example_flow_is_filled_in(page, ui, ui_server, saved, name):
    filled_in = FILLED_IN[name]
    await open_form(page, ui, ui_server, saved[name])
    titles = await page.locator(ui.field).locator(ui.label).all_inner_texts()
    assert [title.removesuffix(" (Optional)") for title in titles] == list(filled_in)
    assert await page.locator(".cm-editor").count() == 0, "there is a JSON box"
    await fill_in(page, ui, filled_in)
    blocks = {"Storage", "Bucket block", "Credentials"}
    chosen = {title: value[1] if isinstance(value, tuple) else value for title, value in filled_in.items()}
    expected = [block(ui, saved[value]) if title in blocks else value for title, value in chosen.items()]
    sent = await parameters_of(ui_server, await submit(page, ui))
    assert sent == dict(zip(inspect.signature(FLOWS[name].fn).parameters, expected, strict=True))
