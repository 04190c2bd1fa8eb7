"""The commands `generate` and `adopt`: check everything first, run the flow, and report the video."""

import asyncio
import json
import secrets
from datetime import datetime
from typing import Any, cast

from prefect_xai_video.api.options import VideoOptions, build_request
from prefect_xai_video.api.sources import FILE_SCHEME
from prefect_xai_video.api.validation import check_limits
from prefect_xai_video.cli.connections import at_xai_or_emulator, credentials_of, has_key
from prefect_xai_video.cli.places import prepared
from prefect_xai_video.cli.runs import FlowRun, WatchedVideo
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.accounts import EMULATOR
from prefect_xai_video.engine.handover import check_saving
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.options import SavingOptions, TriggerOptions
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.video_html import size_in_words
from prefect_xai_video.engine.videos import LongVideo, Video
from prefect_xai_video.flows import acollect_video, agenerate_video
from prefect_xai_video.orchestration.prefect_api import check_prefect_server
from prefect_xai_video.orchestration.storage import open_store
from prefect_xai_video.settings import XaiVideoSettings, check_timeout
from prefect_xai_video.tasks import aadopt_video


def generate(
    prompt: str,
    options: TriggerOptions,
    place: str,
    credentials: str | None,
    *,
    saving: SavingOptions,
    timeout_seconds: float | None,
    as_json: bool,
) -> None:
    """Make one video; arguments as for the command."""
    key = check_key(options.get("key") or f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    options["key"] = key
    video = {name: value for name, value in options.items() if name in VideoOptions.__annotations__}
    request = build_request(prompt, **cast("VideoOptions", video))
    validation = XaiVideoSettings.current().validation
    check_limits(request, validation)
    check_timeout(timeout_seconds)
    check_saving(saving)
    check_prefect_server()
    storage, directory = prepared(place)
    store = open_store(storage, directory)
    check_limits(asyncio.run(resolve_inputs(request, store.s3_credentials)), validation)
    xai = credentials_of(credentials) if has_key(credentials) else None
    asyncio.run(store.read(key))

    async def work(xai: XaiCredentials) -> Video:
        return await agenerate_video(
            prompt,
            **options,
            storage=cast("Any", storage),
            credentials=xai,
            **saving,
            timeout_seconds=timeout_seconds,
        )

    watched = WatchedVideo(key, store, f"Run the same command with --key {key}")
    made = FlowRun[Video](watched).result(lambda: at_xai_or_emulator(work, xai, directory, watched.line.note))
    print_video(made, store, key, was_paid=watched.sent, as_json=as_json)


def adopt(request_id: str, key: str, place: str, credentials: str | None, *, wait: bool, as_json: bool) -> None:
    """Store the video of a request id; arguments as for the command."""
    check_key(key)
    check_prefect_server()
    storage, directory = prepared(place)
    store = open_store(storage, directory)
    xai = credentials_of(credentials)
    watched = WatchedVideo(key, store, "Run the same command again")
    if wait:
        given = {"storage": cast("Any", storage), "credentials": xai}
        made = FlowRun[Video](watched).result(lambda: acollect_video(request_id, key, **given))
        print_video(made, store, key, was_paid=False, as_json=as_json)
    else:
        adopted = FlowRun[Receipt](watched).result(
            lambda: aadopt_video(request_id, key, storage=store, credentials=xai)
        )
        uri = store.receipt_uri(key)
        facts = {"key": key, "request_id": adopted.request_id, "state": adopted.state, "receipt_uri": uri}
        words = f"Key {key} has request {adopted.request_id}, now {adopted.state}. Next step: {adopted.next_step}."
        print(json.dumps(facts, indent=2) if as_json else words)


def print_video(video: Video, store: VideoStore, key: str, *, was_paid: bool, as_json: bool) -> None:
    """Print what was made.

    Args:
        video: The video.
        store: Where its receipt is.
        key: The key of its receipt, or of that of one of its segments.
        was_paid: Whether a request was sent for it now, and not just found.
        as_json: Whether to print it as JSON.
    """
    held = asyncio.run(store.read(key))
    emulated = held is not None and held.receipt.api == EMULATOR
    if as_json:
        facts = video.model_dump(mode="json") | {"paid_now": was_paid and not emulated, "emulated": emulated}
        print(json.dumps(facts, indent=2))
        return
    duration = "unknown" if video.duration is None else f"{video.duration} s"
    lines = {
        "Video": _path(video.uri),
        "Duration": f"{duration} ({size_in_words(video.size)})",
        "Picture": video.picture,
        "Cost": _cost(video, was_paid=was_paid, emulated=emulated),
        "Key": video.key,
        "Record" if isinstance(video, LongVideo) else "Receipt": _path(video.receipt_uri),
        "Poster": _path(video.poster or ""),
        "Last": _path(video.last_frame or ""),
        "At xAI": _kept(video),
        "Public": video.public_url or "",
    }
    print("\n".join(f"{name:<10}{value}" for name, value in lines.items() if value))


def _kept(video: Video) -> str:
    """Say what xAI keeps of a video."""
    if isinstance(video, LongVideo):
        kept = sum(segment.file_id is not None for segment in video.segments)
        return f"{kept} of {len(video.segments)} segments; --json has their file ids" if kept else ""
    return f"{FILE_SCHEME}{video.file_id}" if video.file_id else ""


def _cost(video: Video, *, was_paid: bool, emulated: bool) -> str:
    price = video.price
    if price is None:
        return "not reported" if was_paid else "nothing now"
    if emulated:
        return f"nothing: an emulator made it, xAI would have billed {price}"
    return price if was_paid else f"nothing now: {price} was paid when it was made"


def _path(uri: str) -> str:
    return uri.removeprefix("file://")
