"""Accounts: which API has a request, and which team pays for it. A key belongs to one account only."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from prefect_xai_video.client import XaiVideoClient
from prefect_xai_video.errors import KeyConflict, XaiVideoError
from prefect_xai_video.receipts import Receipt
from prefect_xai_video.requests import is_loopback

XAI = "api.x.ai"
EMULATOR = "emulator"
UNKNOWN_LOCAL = "localhost"
"""An API on this machine that did not say what it is: the emulator, or a proxy."""

_asked: dict[str, "Future[Mapping[str, Any] | None]"] = {}
"""What `GET /me` said in this process, by API and key; None where it said nothing."""
_lock = Lock()


@dataclass(frozen=True, slots=True)
class Account:
    """Who has a request.

    Attributes:
        api: `api.x.ai` with all its regional hosts, `emulator` on any port, or host and port; `localhost` if an API
            on this machine did not say what it is.
        team: xAI's id of the team that pays; None if it is not known.
    """

    api: str
    team: str | None = None

    def __str__(self) -> str:
        api = "the emulator" if self.api == EMULATOR else self.api
        return f"team {self.team} at {api}" if self.team else api


async def account_of(client: XaiVideoClient, *, with_team: bool) -> Account:
    """Find out whose requests a client sends.

    xAI is asked at most once a process, and only for the team: its API is known by its host.

    Args:
        client: The API with its key.
        with_team: Whether to ask for the team, if it is not known yet.
    """
    parts = urlsplit(client.base_url)
    host = (parts.hostname or "").lower()
    api = f"{host}:{parts.port or (80 if parts.scheme == 'http' else 443)}"
    if host == XAI or host.endswith(f".{XAI}"):
        api = XAI
    elif is_loopback(host):
        # An emulator and a proxy of xAI's own API both look like this from outside.
        said = await _me(client)
        api = UNKNOWN_LOCAL if said is None else EMULATOR if said.get("emulator") is True else api
    said = await _me(client) if with_team else _known(client)
    team = (said or {}).get("team_id")
    return Account(api, team if isinstance(team, str) and team else None)


def check_owner(receipt: Receipt, account: Account) -> None:
    """Check that a key which may have been paid for belongs to an account.

    Raises:
        KeyConflict: If another API or another team has its requests.
    """
    other_api = receipt.api is not None and not _may_be_one(receipt.api, account.api)
    other_team = None not in (receipt.team, account.team) and receipt.team != account.team
    if receipt.maybe_paid and (other_api or other_team):
        owner = Account(receipt.api or account.api, receipt.team)
        raise KeyConflict(
            f"The key belongs to a video of {owner}, but this run uses {account}. Nothing was sent: use another key "
            f"or another storage, or the credentials that the video was made with.",
            key=receipt.key,
            request_id=receipt.request_id,
        )


def _may_be_one(api: str, other: str) -> bool:
    """Whether two APIs may be the same: one on this machine that said nothing may be any on this machine."""
    return api == other or (UNKNOWN_LOCAL in (api, other) and _is_local(api) and _is_local(other))


def _is_local(api: str) -> bool:
    return api in (EMULATOR, UNKNOWN_LOCAL) or is_loopback(api.rpartition(":")[0])


def is_same(receipt: Receipt, account: Account) -> bool:
    """Whether an account surely is that of a receipt: API and team are known, and equal."""
    known = None not in (receipt.api, receipt.team)
    return known and (receipt.api, receipt.team) == (account.api, account.team)


def _known(client: XaiVideoClient) -> Mapping[str, Any] | None:
    said = _asked.get(client.identity)
    return said.result() if said is not None and said.done() else None


async def _me(client: XaiVideoClient) -> Mapping[str, Any] | None:
    """Ask `GET /me`, once a process; everybody else waits for that response."""
    with _lock:
        said = _asked.get(client.identity)
        if mine := said is None:
            said = _asked[client.identity] = Future()
    if mine:
        try:
            said.set_result(await client.me())
        except XaiVideoError:
            said.set_result(None)
        except BaseException:
            # A run that is cancelled has learned nothing: the next one asks.
            del _asked[client.identity]
            said.set_result(None)
            raise
    return await asyncio.shield(asyncio.wrap_future(said))
