"""The command `long`: plan the segments, run the flow, and report the video."""

import asyncio
import json
import secrets
from datetime import datetime
from typing import Annotated, Any, cast

from typing_extensions import TypedDict

from prefect_xai_video.cli.connections import at_xai_or_emulator, credentials_of, has_key
from prefect_xai_video.cli.live import LiveLine
from prefect_xai_video.cli.parameters import Flag, Json, Place, Repeated, Spread
from prefect_xai_video.cli.places import prepared
from prefect_xai_video.cli.runs import FlowRun
from prefect_xai_video.cli.videos import print_video
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.apart import check_pyav
from prefect_xai_video.engine.handover import check_saving
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.options import DeliveryOptions, KeyOptions, SavingOptions
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.segments import FirstClipOptions, LongPlan
from prefect_xai_video.engine.videos import LongVideo
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.flows.long import agenerate_long_video, plan_long_video
from prefect_xai_video.orchestration.prefect_api import check_prefect_server
from prefect_xai_video.orchestration.storage import open_store
from prefect_xai_video.orchestration.watching import News
from prefect_xai_video.settings import check_timeout


class Clip(TypedDict, total=False):
    """Options of the first segment that are one value each.

    Attributes:
        image_url: First frame: an https, `data:` or `s3://` URL, or a local file (PNG, JPEG, WebP).
        aspect_ratio: One of 16:9, 4:3, 1:1, 9:16, 3:4, 3:2, 2:3. xAI's default is 16:9.
        resolution: 480p or 720p, or 1080p if the model supports it. xAI's default is 480p.
        generate_audio: Whether the video has sound. xAI's default is True.
        model: xAI model id. Default `grok-imagine-video`, which extends each segment; others begin one with the last
            frame of the one before.
        user: Tag of the end user on whose behalf the video is made.
    """

    image_url: str | None
    aspect_ratio: str | None
    resolution: str | None
    generate_audio: bool | None
    model: str
    user: str | None


def long(  # noqa: D417 - the options of segments and delivery are described where they are defined
    *prompts: str,
    duration: int,
    clip: Annotated[Clip | None, Spread] = None,
    reference_image_url: Repeated = (),
    key: Annotated[KeyOptions | None, Spread] = None,
    dry_run: Flag = False,
    storage: Place = "videos",
    credentials: str | None = None,
    delivery: Annotated[DeliveryOptions | None, Spread] = None,
    stills: Flag = False,
    timeout_seconds: float | None = None,
    as_json: Json = False,
) -> None:
    """Make a video that is longer than one request, in segments that go on from each other, and store it.

    Each segment is paid for by itself, and only once: run the command again with the same key after any interruption.
    What is kept at xAI are the segments: the whole video is joined on this machine.

    Args:
        prompts: One prompt for all segments, or one for each.
        duration: Seconds of the whole video.
        reference_image_url: Image that the first prompt names as <IMAGE_0>; repeat the option for <IMAGE_1> etc.
        dry_run: Show the segments and estimate the cost. Nothing is sent.
        storage: Storage for the video, its segments and their receipts: a directory, s3://bucket/folder, or a saved
            block as s3-bucket/NAME.
        credentials: Saved block with the API key, as xai-credentials/NAME, instead of XAI_API_KEY.
        stills: Store the first and the last frame of the whole video beside it, too.
        timeout_seconds: Longest time to wait for one segment; a later run with the same key continues waiting.
        as_json: Print the video, or the plan, as JSON.
    """
    given = prompts[0] if len(prompts) == 1 else list(prompts)
    options = cast("FirstClipOptions", {**(clip or {}), "reference_image_urls": reference_image_url})
    plan = plan_long_video(given, duration, **options)
    saving = SavingOptions(**(delivery or {}), stills=stills)
    check_saving(saving)
    if dry_run:
        print(json.dumps(_facts(plan), indent=2) if as_json else f"{plan}\nNothing was sent.")
        return
    paid = KeyOptions(**(key or {}))
    name = check_key(paid.pop("key", None) or f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    check_timeout(timeout_seconds)
    check_pyav("duration", f"{duration} s", "a video of one request without PyAV")
    check_prefect_server()
    place, directory = prepared(storage)
    store = open_store(place, directory)
    xai = credentials_of(credentials) if has_key(credentials) else None
    asyncio.run(store.read(name))

    async def work(xai: XaiCredentials) -> LongVideo:
        made: LongVideo = await agenerate_long_video(
            given,
            duration,
            **cast("Any", options),
            **paid,
            key=name,
            storage=cast("Any", place),
            credentials=xai,
            **saving,
            timeout_seconds=timeout_seconds,
        )
        return made

    watched = WatchedSegments(name, plan)
    made = FlowRun[LongVideo](watched).result(lambda: at_xai_or_emulator(work, xai, directory, watched.line.note))
    print_video(made, store, made.segments[-1].key, was_paid=watched.sent > 0, as_json=as_json)


def _facts(plan: LongPlan) -> dict[str, Any]:
    segments = [
        {
            "name": segment.name,
            "seconds": segment.seconds,
            "continuation": segment.continuation,
            "tail_seconds": segment.tail,
            "estimated_cost_usd": str(segment.estimated_cost_usd),
        }
        for segment in plan.segments
    ]
    cost = plan.estimated_cost_usd
    return {
        "duration": plan.duration,
        "estimated_cost_usd": None if cost is None else str(cost),
        "segments": segments,
    }


class WatchedSegments:
    """What is shown of the run of a long video.

    Args:
        key: The key of the video.
        plan: Its plan.

    Attributes:
        sent: The number of requests that the run has sent.
    """

    def __init__(self, key: str, plan: LongPlan) -> None:
        self._key, self._count = key, len(plan.segments)
        self.line = LiveLine()
        self.sending = f"A request for key {key} is"
        self.sent = 0

    def watch(self, news: News) -> None:
        """Show news of the run."""
        if isinstance(news, Receipt):
            self.sent += news.state == "sending"
            self.line.show(f"Segment {news.key.rpartition('/')[2]} of {self._count:02}", f"({news.state})")
        elif isinstance(news, XaiVideoError):
            self.line.note(f"{news.message} Trying again.")

    def outlook(self) -> str:
        """Say how the video is continued."""
        return f"Run the same command with --key {self._key} to continue: no segment is paid for twice."
