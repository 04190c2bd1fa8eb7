"""The command `files`: what this package has left in xAI's Files API, why, and its deletion."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_xai_video.api.files import RemoteFile
from prefect_xai_video.api.storage_options import is_own_name
from prefect_xai_video.cli.connections import credentials_of
from prefect_xai_video.cli.parameters import Flag, Json, OptionalPlace
from prefect_xai_video.cli.places import existing_store
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.left_at_xai import LeftFile, explain
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.video_html import size_in_words
from prefect_xai_video.errors import not_allowed, shown

DEFAULT_PLACE = "videos"
"""Directory in which the other commands store by default."""

DELETED_AFTER_HOURS = 1
"""Age in hours below which files are deleted only by their ids: a run may be about to use an input."""

MAX_AGE_HOURS = 24 * 365 * 100


def files(
    *ids: str,
    delete: Flag = False,
    older_than_hours: float | None = None,
    storage: OptionalPlace = None,
    credentials: str | None = None,
    as_json: Json = False,
) -> None:
    """List the videos and inputs that this package has left in xAI's Files API, or delete those that nobody needs.

    A video is needed unless its receipt in the storage says that it is stored there, and was not to be kept
    (--keep-at-xai). An input is needed while a key of the storage that may still be rendered has it, and if the
    receipts can't be read. Other files of the team are not touched.

    Args:
        ids: Ids of files. With --delete, exactly these are deleted, needed or not.
        delete: List the files that nobody needs, and delete them at xAI. Stored videos and receipts stay.
        older_than_hours: Only files of at least this age, unless ids are given. Default: 0, and 1 with --delete,
            since a run with another storage may be about to use an input.
        storage: Storage of the receipts: a directory, s3://bucket/folder, or a saved block as s3-bucket/NAME.
            Default: the directory videos, if there is one.
        credentials: Saved block with the API key, as xai-credentials/NAME, instead of XAI_API_KEY.
        as_json: Print the files as JSON.
    """
    age = _age(older_than_hours if older_than_hours is not None else DELETED_AFTER_HOURS if delete else 0)
    store = _store(storage)
    xai = credentials_of(credentials)
    left = asyncio.run(_left(xai, store))
    chosen = _named(left, ids) if ids else [each for each in left if _is_older(each.file, age)]
    deletable = [each for each in chosen if ids or not each.is_needed]
    _print(deletable if delete else chosen, as_json=as_json)
    if delete:
        asyncio.run(_delete(xai, deletable))
    if not as_json:
        print(_summary(len(left), len(deletable)) if delete else _counted(len(chosen), "at xAI"))


def _age(hours: float) -> timedelta:
    if not 0 <= hours <= MAX_AGE_HOURS:
        raise not_allowed("older_than_hours", shown(hours), f"hours from 0 to {MAX_AGE_HOURS}")
    return timedelta(hours=hours)


def _store(place: str | None) -> VideoStore | None:
    if place is None and not Path(DEFAULT_PLACE).is_dir():
        return None
    return existing_store(DEFAULT_PLACE if place is None else place)


async def _left(credentials: XaiCredentials, store: VideoStore | None) -> list[LeftFile]:
    async with credentials.get_client() as client:
        own = [file async for file in client.files.listed() if is_own_name(file.name)]
    return await explain(own, store)


async def _delete(credentials: XaiCredentials, deletable: Sequence[LeftFile]) -> None:
    async with credentials.get_client() as client:
        for each in deletable:
            await client.files.delete(each.file.id)


def _named(left: Sequence[LeftFile], ids: Sequence[str]) -> list[LeftFile]:
    by_id = {each.file.id: each for each in left}
    for file_id in ids:
        if file_id not in by_id:
            raise not_allowed("ids", shown(file_id), "ids of files that xai-video files lists")
    return [by_id[file_id] for file_id in dict.fromkeys(ids)]


def _is_older(file: RemoteFile, age: timedelta) -> bool:
    """Whether a file is at least that old; one whose age is not known is so only without a limit."""
    return not age or (file.created_at is not None and datetime.now(UTC) - file.created_at >= age)


def _print(left: Sequence[LeftFile], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_facts(each) for each in left], indent=2))
    else:
        for each in left:
            print(f"{each.file.id}  {_described(each.file)}: {each.why}{'' if each.is_needed else '; not needed'}")


def _facts(left: LeftFile) -> dict[str, object]:
    return left.file.model_dump(mode="json") | {"why": left.why, "is_needed": left.is_needed, "key": left.key}


def _described(file: RemoteFile) -> str:
    size = "size unknown" if file.size is None else size_in_words(file.size)
    created = "" if file.created_at is None else f", stored {file.created_at:%Y-%m-%d %H:%M} UTC"
    ends = "no end" if file.expires_at is None else f"until {file.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"{file.name} ({size}{created}, {ends}{', public' if file.public_url else ''})"


def _counted(count: int, where: str) -> str:
    return f"{count} {'file' if count == 1 else 'files'} {where}."


def _summary(count: int, deleted: int) -> str:
    stays = count - deleted
    rest = f" {stays} {'stays' if stays == 1 else 'stay'}; to delete one of them, name its id." if stays else ""
    return f"{_counted(deleted, 'deleted at xAI')}{rest}"
