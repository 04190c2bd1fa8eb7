"""The command `files`: the videos that this package has left in xAI's Files API."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

from prefect_xai_video.api.files import RemoteFile
from prefect_xai_video.api.storage_options import is_own_name
from prefect_xai_video.cli.connections import credentials_of
from prefect_xai_video.cli.parameters import Flag, Json
from prefect_xai_video.credentials import XaiCredentials


def files(
    *,
    delete: Flag = False,
    older_than_hours: float | None = None,
    credentials: str | None = None,
    as_json: Json = False,
) -> None:
    """List the videos and inputs that this package has left in xAI's Files API, or delete them there.

    They were kept on purpose (--keep-at-xai), are still to be recovered (--recovery files), are large inputs of the
    last day, or were left behind by a run that ended too early. Other files of the team are not touched.

    Args:
        delete: Delete the listed files. Stored videos and receipts stay.
        older_than_hours: List only files of at least this age. Default: 0, and 24 with --delete, so that no video is
            deleted for which a run may still look.
        credentials: Saved block with the API key, as xai-credentials/NAME, instead of XAI_API_KEY.
        as_json: Print the files as JSON.
    """
    hours = older_than_hours if older_than_hours is not None else 24 if delete else 0
    found = asyncio.run(_own_files(credentials_of(credentials), timedelta(hours=hours), delete=delete))
    if as_json:
        print(json.dumps([file.model_dump(mode="json") for file in found], indent=2))
        return
    for file in found:
        print(f"{file.id}  {_described(file)}")
    noun = "file" if len(found) == 1 else "files"
    print(f"{len(found)} {noun} {'deleted at' if delete else 'at'} xAI.")


async def _own_files(credentials: XaiCredentials, age: timedelta, *, delete: bool) -> list[RemoteFile]:
    async with credentials.get_client() as client:
        listed = [file async for file in client.files.listed() if is_own_name(file.name)]
        found = [file for file in listed if not age or _is_older(file, age)]
        if delete:
            for file in found:
                await client.files.delete(file.id)
    return found


def _is_older(file: RemoteFile, age: timedelta) -> bool:
    """Whether a file is that old; one whose age is not known is not."""
    return file.created_at is not None and datetime.now(UTC) - file.created_at >= age


def _described(file: RemoteFile) -> str:
    size = "size unknown" if file.size is None else f"{file.size / 1e6:.1f} MB"
    created = "" if file.created_at is None else f", stored {file.created_at:%Y-%m-%d %H:%M} UTC"
    ends = "no end" if file.expires_at is None else f"until {file.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"{file.name} ({size}{created}, {ends}{', public' if file.public_url else ''})"
