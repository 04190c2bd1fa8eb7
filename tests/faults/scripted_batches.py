"""xAI's Batch API as a world has it, of which each call ends as the world says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from prefect_xai_video.api.batch_chunks import Chunk
from prefect_xai_video.api.batch_responses import BatchRequestState, BatchResult, XaiBatch
from prefect_xai_video.api.batch_view import BatchView
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.errors import (
    AccessDenied,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    SubmissionUnknown,
)

from .stepwise import DEAD, Caller
from .worlds import KILLED, MEANWHILE, Client

if TYPE_CHECKING:
    from .test_lane_state_machine import Lane

State = Literal["landing", "pending", "succeeded", "failed", "moderated", "cancelled"]

LOST = ["cut before", "cut after"]
RENDERED = ["rendered", "one rendered", "failed", "moderated", "pending"]
GONE = ["down", "gone", "gone long ago"]
ENDINGS = {
    "open": ["opened", *LOST, "429", "403", *KILLED],
    "add": ["added", *LOST, "cut in part", "cut, lands late", "short", "429", "400", "403", "down", *KILLED],
    "state": [*RENDERED, "lagging", "uncounted", "cancelled by xAI", *GONE, "killed before"],
    "requests": ["listed", "lagging", "stale", *GONE, "killed before"],
    "results": ["listed", "signed", "lagging", "no url", *GONE, "killed before"],
    "cancel": ["cancelled", *LOST, "down", *KILLED],
    "settle": ["settled", "killed before"],
}
WELL = {at: endings[0] for at, endings in ENDINGS.items()}
IN_THE_END = {
    "gone": MEANWHILE["not its own"],
    "gone long ago": MEANWHILE["aged"],
}
"""What time it is while a point ends."""


@dataclass
class Sent:
    """A request that xAI has accepted, or will accept.

    Attributes:
        claim: Its id.
        state: Its state. `landing`: the call that added it has not taken effect yet.
        paid: How often it was paid for.
        prompt: Its prompt.
    """

    claim: str
    prompt: str
    state: State = "pending"
    paid: int = 0

    def ends(self, state: State) -> None:
        self.state = state
        self.paid += state in {"succeeded", "moderated"}


@dataclass
class Batch:
    """A batch as xAI has it.

    Attributes:
        batch_id: Its id.
        sent: Its requests; of a second one of the same id, both.
        is_cancelled: Whether it is cancelled.
        by_xai: Whether xAI itself has cancelled it.
        is_gone: Whether xAI has deleted it.
        is_settled: Whether it was cancelled so long ago that no listing of it lags any more.
    """

    batch_id: str
    sent: list[Sent] = field(default_factory=list)
    is_cancelled: bool = False
    by_xai: bool = False
    is_gone: bool = False
    is_settled: bool = False

    @property
    def listed(self) -> list[Sent]:
        return [each for each in self.sent if each.state != "landing"]

    def of(self, *states: State) -> list[Sent]:
        return [each for each in self.sent if each.state in states]

    def land(self) -> None:
        for each in self.of("landing"):
            each.state = "pending"

    def cancel(self) -> None:
        self.is_cancelled = True
        self.sent = self.listed
        for each in self.of("pending"):
            each.ends("cancelled")

    def render(self, how: str) -> None:
        pending = self.of("pending")
        if how == "rendered":
            for each in pending:
                each.ends("succeeded")
        elif pending and how != "pending":
            pending[0].ends("succeeded" if how == "one rendered" else how)

    def facts(self) -> XaiBatch:
        return XaiBatch(
            batch_id=self.batch_id,
            is_cancelled=self.is_cancelled,
            cancel_message="It can't go on." if self.by_xai else None,
            requests=len(self.listed),
            pending=len(self.of("pending")),
            succeeded=len(self.of("succeeded")),
            failed=len(self.of("failed", "moderated")),
            cancelled=len(self.of("cancelled")),
        )

    def facts_that_lag(self, *, are_missing: bool) -> XaiBatch:
        none = dict.fromkeys(("requests", "pending", "succeeded", "failed", "cancelled"), None if are_missing else 0)
        return self.facts().model_copy(update=none)


class Batches:
    """Stands in for the Batch API."""

    def __init__(self, world: "Lane", caller: Caller) -> None:
        self.world, self.caller = world, caller

    async def _stop(self, at: str, batch_id: str) -> tuple[str, Batch]:
        how = await self.caller.astop(at)
        batch = self.world.batches[batch_id]
        if how == "down":
            raise ServiceUnavailable("No answer.")
        batch.is_gone = batch.is_gone or how.startswith("gone")
        if batch.is_gone:
            raise RequestRejected("What is that?", http_status=404)
        return how, batch

    async def create(self, name: str) -> XaiBatch:
        how = await self.caller.astop("open")
        if how == "cut before":
            raise SubmissionUnknown("The batch may have been created.")
        if how in {"429", "403"}:
            raise {"429": RateLimited, "403": AccessDenied}[how]("No.", http_status=int(how), retry_after=0)
        batch = Batch(f"batch-{len(self.world.batches) + 1}")
        self.world.batches[batch.batch_id] = batch
        if how == "killed after":
            await self.caller.astop(DEAD)
        if how == "cut after":
            raise SubmissionUnknown("The batch may have been created.")
        return batch.facts()

    async def add(self, batch_id: str, chunk: Chunk) -> None:
        self.world.adds(self.caller, batch_id, chunk)
        how, batch = await self._stop("add", batch_id)
        if how in {"429", "400", "403"}:
            self.world.refuses(self.caller, chunk)
            kind = {"429": RateLimited, "400": RequestRejected, "403": AccessDenied}[how]
            raise kind("No.", http_status=int(how), retry_after=0)
        is_lost = how.startswith("cut")
        if batch.is_cancelled and not is_lost:
            self.world.refuses(self.caller, chunk)
            raise RequestRejected("The batch is cancelled.", http_status=400)
        prompts = _prompts(chunk)
        sent = [Sent(claim, prompts[claim]) for claim in chunk.batch_request_ids]
        if how in {"cut in part", "short"}:
            del sent[len(sent) // 2 :]
        if how == "cut, lands late":
            for each in sent:
                each.state = "landing"
        if how != "cut before" and not batch.is_cancelled:
            self.world.accepts(batch, sent)
        if how == "killed after":
            await self.caller.astop(DEAD)
        if is_lost:
            raise SubmissionUnknown("The requests may have been added.")

    async def get(self, batch_id: str) -> XaiBatch:
        how, batch = await self._stop("state", batch_id)
        if how == "cancelled by xAI" and not batch.is_cancelled:
            batch.by_xai = True
            batch.cancel()
        batch.render(how if how in RENDERED else "pending")
        if how in {"lagging", "uncounted"} and not batch.is_settled:
            return batch.facts_that_lag(are_missing=how == "uncounted")
        return batch.facts()

    async def requests(self, batch_id: str):
        how, batch = await self._stop("requests", batch_id)
        lags = not batch.is_settled
        for each in [] if how == "lagging" and lags else batch.listed:
            state = "failed" if each.state == "moderated" else each.state
            state = "pending" if how == "stale" and lags else state
            yield BatchRequestState(batch_request_id=each.claim, state=state)

    async def results(self, batch_id: str):
        how, batch = await self._stop("results", batch_id)
        for each in [] if how == "lagging" else batch.of("succeeded", "failed", "moderated"):
            yield BatchResult(batch_request_id=each.claim, status=self._status(each, how))

    def _status(self, sent: Sent, how: str) -> VideoStatus:
        if sent.state != "succeeded":
            return VideoStatus(request_id=sent.claim, state=sent.state, message="No video.")
        # Each listing signs anew.
        self.world.links += 1
        url = f"https://xai/{sent.claim}?" + ("Signature=" if how == "signed" else "link=") + str(self.world.links)
        cost = Decimal("0.05")
        return VideoStatus(request_id=sent.claim, state="done", url=None if how == "no url" else url, cost_usd=cost)

    async def cancel(self, batch_id: str) -> XaiBatch:
        how, batch = await self._stop("cancel", batch_id)
        if how != "cut before":
            batch.cancel()
        if how == "killed after":
            await self.caller.astop(DEAD)
        if how.startswith("cut"):
            raise ServiceUnavailable("No answer.")
        return batch.facts()

    def without_prompt(self, status: VideoStatus, prompt: object) -> VideoStatus:
        return status


def _prompts(chunk: Chunk) -> Mapping[str, str]:
    """The prompt of each request of a call, by its id."""
    entries = json.loads(chunk.content)["batch_requests"]
    return {each["batch_request_id"]: each["batch_request"]["video_generation"]["prompt"] for each in entries}


class LaneClient(Client):
    """A client with the Batch API. The id of a batch's request is known only there."""

    def __init__(self, world: "Lane", caller: Caller) -> None:
        super().__init__(world, caller)
        self.batches = Batches(world, caller)
        self._views: dict[str, BatchView] = {}

    def batch(self, batch_id: str) -> BatchView:
        return self._views.setdefault(batch_id, BatchView(self.batches, batch_id))

    async def get(self, request_id, **options):
        status = await super().get(request_id, **options)
        if self.world.sent(request_id):
            raise RequestRejected("What is that?", request_id=request_id, http_status=404)
        return status
