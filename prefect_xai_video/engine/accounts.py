"""Accounts: the API that holds a request, and the team that pays for it. A key belongs to one account only."""

import asyncio
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.api.urls import is_loopback
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import KeyConflict, XaiVideoError

XAI = "api.x.ai"
EMULATOR = "emulator"
UNKNOWN_LOCAL = "localhost"
"""An API on this machine that has not identified itself: the emulator, or a proxy."""

CACHE_SECONDS = 300
"""Cache duration of a response to `GET /me`, in seconds.

The team of an API key never changes, but another service may start to listen on a port of this machine, and a call
that failed may succeed later.
"""

_responses: dict[str, "tuple[float, Future[Mapping[str, Any] | None]]"] = {}
"""Responses to `GET /me` by API and key, each with the time of the call; None if the call failed."""
_lock = Lock()


def _forget() -> None:
    """Clear the cache in a forked process, where pending responses of its parent never arrive."""
    global _lock  # noqa: PLW0603
    _lock = Lock()
    _responses.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True, slots=True)
class Account:
    """The owner of a request: an API and a team.

    Attributes:
        api: `api.x.ai` for all its regional hosts, `emulator` on any port, or host and port; `localhost` if an API on
            this machine has not identified itself.
        team: xAI's id of the team that pays; None if unknown.
    """

    api: str
    team: str | None = None

    def __str__(self) -> str:
        api = "the emulator" if self.api == EMULATOR else self.api
        return f"team {self.team} at {api}" if self.team else api


async def account_of(client: XaiVideoClient, *, with_team: bool) -> Account:
    """Determine the account for which a client sends requests.

    xAI is queried only for the team, because its host identifies the API, and rarely: a process caches the response.

    Args:
        client: Client with an API key.
        with_team: Whether to query the team, if it is not cached.
    """
    parts = urlsplit(client.base_url)
    host = (parts.hostname or "").lower()
    api = f"{host}:{parts.port or (80 if parts.scheme == 'http' else 443)}"
    if host == XAI or host.endswith(f".{XAI}"):
        api = XAI
    elif is_loopback(host):
        # Only the response distinguishes the emulator from a proxy of xAI's own API.
        facts = await _me(client)
        api = UNKNOWN_LOCAL if facts is None else EMULATOR if facts.get("emulator") is True else api
    facts = await _me(client) if with_team else _cached(client)
    team = (facts or {}).get("team_id")
    return Account(api, team if isinstance(team, str) and team else None)


def check_owner(receipt: Receipt, account: Account) -> None:
    """Check that a key which may have been paid for belongs to an account.

    Raises:
        KeyConflict: If its requests belong to another API or another team.
    """
    other_api = receipt.api is not None and not _may_be_same_api(receipt.api, account.api)
    other_team = None not in (receipt.team, account.team) and receipt.team != account.team
    if receipt.maybe_paid and (other_api or other_team):
        owner = Account(receipt.api or account.api, receipt.team)
        raise KeyConflict(
            f"The key belongs to a video of {owner}, but this run uses {account}. Nothing was sent. Use another key "
            f"or another storage, or the credentials with which the video was made.",
            key=receipt.key,
            request_id=receipt.request_id,
        )


def _may_be_same_api(api: str, own: str) -> bool:
    """Whether two APIs may be the same: an unidentified one on this machine may be any other on this machine."""
    return api == own or (UNKNOWN_LOCAL in (api, own) and _is_local(api) and _is_local(own))


def _is_local(api: str) -> bool:
    return api in (EMULATOR, UNKNOWN_LOCAL) or is_loopback(api.rpartition(":")[0])


def is_same(receipt: Receipt, account: Account) -> bool:
    """Whether an account is certainly that of a receipt: API and team are known and equal."""
    known = None not in (receipt.api, receipt.team)
    return known and (receipt.api, receipt.team) == (account.api, account.team)


def _cached(client: XaiVideoClient) -> Mapping[str, Any] | None:
    _, response = _responses.get(client.identity, (0, None))
    return response.result() if response is not None and response.done() else None


async def _me(client: XaiVideoClient) -> Mapping[str, Any] | None:
    """Call `GET /me`, unless its response is cached; concurrent callers wait for the same response."""
    with _lock:
        called_at, response = _responses.get(client.identity, (0.0, None))
        if is_due := response is None or time.monotonic() - called_at >= CACHE_SECONDS:
            response = Future()
            _responses[client.identity] = time.monotonic(), response
    if is_due:
        try:
            response.set_result(await client.me())
        except XaiVideoError:
            response.set_result(None)
        except BaseException:
            # A cancelled call has no result; the next caller repeats it.
            with _lock:
                _responses.pop(client.identity, None)
            response.set_result(None)
            raise
    return response.result() if response.done() else await asyncio.shield(asyncio.wrap_future(response))
