"""The command `receipts`: what is known by state, what it cost, and what to do about it. It asks xAI nothing."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from prefect_xai_video.cli.places import existing_store
from prefect_xai_video.cli.wording import with_options
from prefect_xai_video.engine.accounts import EMULATOR
from prefect_xai_video.engine.next_steps import NEXT_STEP
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.stores.listed import read_listed
from prefect_xai_video.errors import StorageError
from prefect_xai_video.money import dollars, plain

SHORT_PROMPT = 60
"""Characters of a prompt that are shown."""

_UNREADABLE_STEP = "restore it from a copy, or move it away and adopt its request id"


class Entry(NamedTuple):
    """What lies in a store under a key: a receipt, or the error of one that can't be read."""

    key: str
    found: Receipt | StorageError

    @property
    def state(self) -> str:
        """The receipt's state."""
        return "unreadable" if isinstance(self.found, StorageError) else self.found.state

    @property
    def next_step(self) -> str:
        """What a person can do about it."""
        return _UNREADABLE_STEP if isinstance(self.found, StorageError) else with_options(self.found.next_step)

    @property
    def prompt(self) -> str:
        """The beginning of the prompt."""
        prompt = "" if isinstance(self.found, StorageError) else self.found.request.get("prompt")
        line = " ".join(prompt.split()) if isinstance(prompt, str) else ""
        return line if len(line) <= SHORT_PROMPT else f"{line[: SHORT_PROMPT - 1]}…"


class Costs(NamedTuple):
    """What all attempts of some receipts cost in USD. An emulator bills nothing.

    Attributes:
        billed: What xAI has billed.
        maybe: Estimate of what may be billed and was not reported.
    """

    billed: Decimal
    maybe: Decimal

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Costs":
        """Add up the attempts that were not refused."""
        receipts = [entry.found for entry in entries if isinstance(entry.found, Receipt)]
        attempts = [attempt for receipt in receipts if receipt.api != EMULATOR for attempt in receipt.attempts]
        billed = [attempt.cost_usd for attempt in attempts if attempt.cost_usd is not None]
        pending = [each for each in attempts if each.cost_usd is None and each.outcome != "refused"]
        maybe = [attempt.estimated_cost_usd or Decimal(0) for attempt in pending]
        return cls(plain(sum(billed, Decimal(0))), plain(sum(maybe, Decimal(0))))


def receipts(place: str, states: Sequence[str], prefix: str, *, as_json: bool) -> None:
    """List the receipts of a store; arguments as for the command."""
    found = asyncio.run(_read_all(existing_store(place), prefix))
    wanted = [entry for entry in found if not states or entry.state in states]
    print(_as_json(wanted) if as_json else "\n".join(_lines(wanted, place)))


async def _read_all(store: VideoStore, prefix: str) -> list[Entry]:
    entries = []
    async for key in store.keys(prefix):
        if (found := await read_listed(store, key)) is not None:
            entries.append(Entry(key, found))
    return entries


def _lines(entries: Sequence[Entry], place: str) -> Iterable[str]:
    """Write the receipts for people, by state and by what can be done."""
    for state in [*NEXT_STEP, "unreadable"]:
        of_state = [entry for entry in entries if entry.state == state]
        for step in dict.fromkeys(entry.next_step for entry in of_state):
            group = [entry for entry in of_state if entry.next_step == step]
            yield f"{state} ({len(group)}): {step}"
            yield from (f"  {_line(entry)}" for entry in group)
    if not entries:
        yield f"There are no such receipts in {place}."
        return
    costs = Costs.of(entries)
    counts = Counter(entry.state for entry in entries)
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    maybe = f", and may have billed about {dollars(costs.maybe)} more" if costs.maybe else ""
    yield f"{_counted(len(entries))} ({states}). xAI billed {dollars(costs.billed)}{maybe}."


def _counted(number: int) -> str:
    return "1 receipt" if number == 1 else f"{number} receipts"


def _line(entry: Entry) -> str:
    found = entry.found
    if isinstance(found, StorageError):
        return f"{entry.key}  {found.message}"
    facts = [
        entry.key,
        f'"{entry.prompt}"' if entry.prompt else "",
        f"{found.attempt.started_at:%Y-%m-%d %H:%M} UTC",
        f"request {found.request_id or 'id unknown'}",
        _cost(found),
        found.failure.message if found.failure else "",
    ]
    return "  ".join(fact for fact in facts if fact)


def _cost(receipt: Receipt) -> str:
    known, estimated = receipt.cost_usd, receipt.estimated_cost_usd
    price = dollars(known) if known is not None else f"about {dollars(estimated)}" if estimated is not None else ""
    return f"{price} (emulated)" if price and receipt.api == EMULATOR else price


def _as_json(entries: Sequence[Entry]) -> str:
    costs = Costs.of(entries)
    total = {"receipts": len(entries), "billed_usd": str(costs.billed), "not_reported_usd": str(costs.maybe)}
    return json.dumps({"receipts": [_facts(entry) for entry in entries], "total": total}, indent=2)


def _facts(entry: Entry) -> dict[str, Any]:
    facts: dict[str, Any] = {"key": entry.key, "state": entry.state, "next_step": entry.next_step}
    found = entry.found
    if isinstance(found, StorageError):
        return facts | {"error": found.message}
    return facts | {
        "prompt": entry.prompt or None,
        "model": found.model,
        "emulated": found.api == EMULATOR,
        "request_id": found.request_id,
        "submitted_at": found.attempt.started_at.isoformat(),
        "cost_usd": None if found.cost_usd is None else str(found.cost_usd),
        "estimated_cost_usd": None if found.estimated_cost_usd is None else str(found.estimated_cost_usd),
        "uri": found.file.uri if found.state == "stored" and found.file else None,
        "error": found.failure.message if found.failure else None,
    }
