"""The signatures of the public names as callers see them. mypy checks this file; nothing runs it."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

from prefect.filesystems import LocalFileSystem
from prefect.futures import PrefectFuture
from prefect_aws import S3Bucket

from prefect_xai_video import (
    BatchReport,
    Collected,
    EditRequest,
    ImageRequest,
    LongPlan,
    LongVideo,
    Receipt,
    Retries,
    RowOutcome,
    StartOptions,
    TextRequest,
    Timeouts,
    TriggerOptions,
    Video,
    VideoOptions,
    VideoRequest,
    VideoStatus,
    XaiCredentials,
    XaiVideoClient,
    XaiVideoGenerator,
    XaiVideoRun,
    XaiVideoSettings,
    aadopt_video,
    acollect_video,
    acollect_videos,
    adopt_video,
    agenerate_long_video,
    agenerate_video,
    agenerate_videos,
    aget_video,
    amake_video,
    asave_video,
    astart_video,
    asubmit_videos,
    await_for_video,
    build_request,
    check_key,
    check_limits,
    collect_video,
    collect_videos,
    dollars,
    generate_long_video,
    generate_video,
    generate_videos,
    get_video,
    make_video,
    plan_long_video,
    save_video,
    start_video,
    submit_videos,
    wait_for_video,
)
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import InvalidRequest, VideoModerated, XaiVideoError

bucket = S3Bucket(bucket_name="videos")
directory = LocalFileSystem(basepath="/data/videos")
xai = XaiCredentials.from_environment()

assert_type(xai, XaiCredentials)
assert_type(xai.check_key(), Mapping[str, Any])
assert_type(xai.get_client(), XaiVideoClient)


def flows() -> None:
    assert_type(generate_video("A cat"), Video)
    assert_type(
        generate_video(
            "A cat",
            image_url="cat.png",
            duration=6,
            aspect_ratio="9:16",
            resolution="480p",
            generate_audio=False,
            model="grok-imagine-video",
            storage=bucket,
            key="cat",
            credentials=xai,
            delivery="direct",
            timeout_seconds=60,
            regenerate=True,
            on_unknown="resubmit",
            user="me",
        ),
        Video,
    )
    assert_type(collect_video("id", "cat", storage=directory), Video)
    generate_video("A cat", durration=6)  # type: ignore[call-overload]
    generate_video("A cat", duration="6")  # type: ignore[call-overload]
    generate_video("A cat", on_unknown="again")  # type: ignore[call-overload]


async def async_flows() -> None:
    assert_type(await agenerate_video("A cat", storage=directory), Video)
    assert_type(await acollect_video("id", "cat"), Video)


def tasks() -> None:
    started = start_video("A cat", duration=6, key="cat", storage=bucket, credentials=xai)
    assert_type(started, Receipt)
    assert_type(started.request_id, str | None)
    assert_type(started.estimated_cost_usd, Decimal | None)
    assert_type(start_video(TextRequest(prompt="A cat"), delivery="direct"), Receipt)
    assert_type(start_video.submit("A cat", duration=6), PrefectFuture[Receipt])
    assert_type(wait_for_video(started, timeout_seconds=60), Receipt)
    assert_type(wait_for_video("cat"), Receipt)
    assert_type(save_video(started), Video)
    assert_type(get_video("id", credentials=xai), VideoStatus)
    assert_type(adopt_video("id", "cat"), Receipt)
    start_video("A cat", durration=6)  # type: ignore[call-overload]


async def async_tasks() -> None:
    started = await astart_video("A cat", image_url="cat.png", regenerate=True, on_unknown="raise")
    assert_type(started, Receipt)
    assert_type(await await_for_video(started), Receipt)
    assert_type(await asave_video("cat"), Video)
    assert_type(await aget_video("id"), VideoStatus)
    assert_type(await aadopt_video("id", "cat"), Receipt)


def options() -> None:
    clip: VideoOptions = {"duration": 6, "generate_audio": False}
    paid: TriggerOptions = {**clip, "key": "cat", "regenerate": False, "on_unknown": "raise"}
    whole: StartOptions = {
        **paid,
        "storage": bucket,
        "credentials": xai,
        "delivery": "download",
        "recovery": "none",
        "keep_at_xai": 3600,
        "public_url": True,
    }
    assert_type(start_video("A cat", **whole), Receipt)
    assert_type(build_request("A cat", **clip), VideoRequest)


def job_block() -> None:
    generator = XaiVideoGenerator(duration=6, generate_audio=False, storage=directory, credentials=xai)
    run = generator.trigger("A cat", key="cat", resolution="720p")
    assert_type(run, XaiVideoRun)
    assert_type(run.request_id, str | None)
    assert_type(run.fetch_result(), Video)
    assert_type(generator.run_of("cat"), XaiVideoRun)
    generator.trigger("A cat", durration=6)  # type: ignore[call-arg]


def requests() -> None:
    request = build_request("A cat", image_url="cat.png")
    assert_type(request.fingerprint, str)
    assert_type(request.estimated_cost_usd, Decimal | None)
    assert_type(check_limits(request), list[str])
    assert_type(check_key("cat"), str)
    assert_type(dollars(Decimal("0.4")), str)
    assert_type(ImageRequest(prompt="", image_url="https://example.com/cat.png").image_url, str | None)
    assert_type(EditRequest(prompt="Larger", video_url="https://example.com/cat.mp4").video_url, str)


async def client() -> None:
    async with XaiVideoClient("key", timeouts=Timeouts(start=30), retries=Retries(attempts=2)) as xai_client:
        assert_type(await xai_client.start(TextRequest(prompt="A cat")), str)
        assert_type(await xai_client.get("id"), VideoStatus)


def the_rest(video: Video, error: VideoModerated) -> None:
    assert_type(video.cost_usd, Decimal | None)
    assert_type(video.duration, int | None)
    assert_type(video.uri, str)
    assert_type(error.cost_usd, Decimal | None)
    assert_type(XaiVideoSettings.current().home, Path)
    assert_type(isinstance(error, XaiVideoError), bool)
    with Emulator(render_seconds=1) as emulator:
        assert_type(emulator.base_url, str)
        assert_type(emulator.environment(), dict[str, str])
        emulator.choose_fault("moderated", submissions=2)
        emulator.reset()
    with Emulator().serving() as emulator:
        assert_type(emulator, Emulator)
    try:
        generate_video("")
    except InvalidRequest as refused:
        assert_type(refused.transient, bool)


def batches(report: BatchReport) -> None:
    assert_type(generate_videos("products.csv", in_flight=50, budget_usd=200, keep=["sku"]), BatchReport)
    assert_type(generate_videos([{"prompt": "A cat"}], key="cats/{digest}", storage=bucket), BatchReport)
    assert_type(make_video("A cat", duration=6, key="cat", storage=directory), Video)
    assert_type(report.rows[0], RowOutcome)
    assert_type(report.rows.of("cats/1"), RowOutcome)
    assert_type(report.cost_usd, Decimal)


async def async_batches() -> None:
    assert_type(await agenerate_videos("s3://shop/products.parquet", allow_failures=True), BatchReport)
    assert_type(await amake_video("A cat", duration=6, key="cat", storage=directory), Video)


def collecting() -> None:
    assert_type(submit_videos("products.csv", budget_usd=200), BatchReport)
    assert_type(collect_videos(prefix="products/", storage=bucket), Collected)


async def async_collecting() -> None:
    assert_type(await asubmit_videos([{"prompt": "A cat"}]), BatchReport)
    assert_type(await acollect_videos(), Collected)


def long_videos() -> None:
    video = generate_long_video(["A ship leaves", "It comes home"], duration=20, key="ship", storage=bucket)
    assert_type(video, LongVideo)
    assert_type(video.segments, tuple[Video, ...])
    assert_type(video.last_frame, str | None)
    plan = plan_long_video("A ship", 60, resolution="720p")
    assert_type(plan, LongPlan)
    assert_type(plan.estimated_cost_usd, Decimal | None)
    generate_long_video("A ship", durration=20)  # type: ignore[call-overload]


async def async_long_videos() -> None:
    assert_type(await agenerate_long_video("A ship", 20, storage=directory), LongVideo)
