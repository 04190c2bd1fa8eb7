"""What a command connects to: xAI, or an emulator in its place."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prefect_xai_video.credentials import KEY_VARIABLE, XaiCredentials
from prefect_xai_video.errors import ApiError, AuthenticationFailed
from prefect_xai_video.orchestration.blocks import load_credentials
from prefect_xai_video.orchestration.prefect_api import check_prefect_server

R = TypeVar("R")

EMULATOR_STATE = ".emulator"
"""Directory beside the videos where the emulator keeps its requests, so that a later one goes on with them."""

RENDER_SECONDS = 4


def credentials_of(block: str | None) -> XaiCredentials:
    """Load credentials, and check with xAI that they work, which is free.

    Args:
        block: A saved block as `xai-credentials/NAME`. Default: `XAI_API_KEY` and `XAI_BASE_URL`.

    Raises:
        MissingCredentials: If there is no API key.
        InvalidRequest: If there is no such block, or the key may not be sent to that base URL.
        AuthenticationFailed: If xAI rejects the key.
        ApiError: If xAI can't be reached.
    """
    credentials = load(block)
    asyncio.run(check_connection(credentials))
    return credentials


def load(block: str | None) -> XaiCredentials:
    """Load credentials, as `credentials_of` does, without asking xAI."""
    return asyncio.run(load_credentials(None if block is None else {"$ref": {"block_document_slug": block}}))


async def check_connection(credentials: XaiCredentials) -> None:
    """Ask xAI whose key it is: without connection, or with a rejected key, nothing else will work.

    Raises:
        AuthenticationFailed: If xAI rejects the key.
        ApiError: If xAI can't be reached.
    """
    async with credentials.get_client() as client:
        try:
            await client.me()
        except AuthenticationFailed:
            raise
        except ApiError as error:
            if error.http_status is None:
                raise


def check_key(block: str | None, *, as_json: bool) -> None:
    """Print what xAI says of an API key; arguments as for the command."""
    if block is not None:
        check_prefect_server()
    credentials = load(block)
    facts = credentials.check_key()
    if as_json:
        print(json.dumps(dict(facts), indent=2))
    else:
        rights = ", ".join(map(str, facts.get("acls") or ())) or "not reported"
        print(
            f"{credentials.base_url} accepts the API key {facts.get('name') or '(unnamed)'}. Permissions: {rights}."
        )


def has_key(block: str | None) -> bool:
    """Whether there are credentials of xAI, so that no emulator is needed."""
    return block is not None or bool(os.environ.get(KEY_VARIABLE))


@contextmanager
def emulator(directory: Path, note: Callable[[str], object]) -> Iterator[XaiCredentials]:
    """Run an emulator during the block; it knows the requests of those before it.

    Args:
        directory: Directory that is there for the next one, too.
        note: Called with sentences for the user.

    Yields:
        Credentials for it.
    """
    from prefect_xai_video.emulator import Emulator  # noqa: PLC0415

    with ExitStack() as block:
        try:
            running = block.enter_context(Emulator(render_seconds=RENDER_SECONDS, state=directory / EMULATOR_STATE))
        except ImportError as error:
            raise ImportError(f"{error} To use xAI instead, set {KEY_VARIABLE}.") from None
        note(f"{KEY_VARIABLE} is not set: a local emulator at {running.base_url} stands in for xAI.")
        note("Nothing is billed, and the video is a test pattern, not what the prompt describes.")
        yield XaiCredentials(api_key="no-key-needed", base_url=running.base_url)


async def at_xai_or_emulator(
    work: Callable[[XaiCredentials], Coroutine[Any, Any, R]],
    xai: XaiCredentials | None,
    directory: Path,
    note: Callable[[str], object],
) -> R:
    """Run a flow, at xAI or at an emulator.

    Args:
        work: Runs the flow with credentials.
        xai: Credentials of xAI; None for an emulator.
        directory: Directory for the state of the emulator.
        note: Called with sentences for the user.
    """
    if xai is not None:
        return await work(xai)
    with emulator(directory, note) as stand_in:
        return await work(stand_in)
