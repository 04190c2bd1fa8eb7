"""The budget of a batch: estimated costs are reserved before each submission, and settled with the actual costs."""

import asyncio
from decimal import Decimal

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.engine.posting import Permit
from prefect_xai_video.errors import LimitReached, not_allowed
from prefect_xai_video.money import dollars

UNPRICED_USD = Decimal(1)
"""Reserved for a request that the price table does not know: more than the dearest edit (8.7 s at $0.08)."""


class Budget:
    """Money that a run may spend.

    Args:
        limit_usd: Largest total cost in USD; None for no limit.

    Attributes:
        paid_usd: Settled costs in USD.
    """

    def __init__(self, limit_usd: Decimal | None = None) -> None:
        self.limit_usd = limit_usd
        self.paid_usd = Decimal(0)
        self._reserved: dict[str, Decimal] = {}
        self._changed = asyncio.Condition()

    def check_covers(self, cheapest_usd: Decimal | None) -> None:
        """Check that the budget has room for at least one row.

        Args:
            cheapest_usd: Lowest estimated cost of a row, in USD; None if no price is known.

        Raises:
            InvalidRequest: If it has not.
        """
        if self.limit_usd is not None and cheapest_usd is not None and cheapest_usd > self.limit_usd:
            allowed = f"at least {cheapest_usd} USD, the estimated cost of the cheapest row"
            raise not_allowed("budget_usd", str(self.limit_usd), allowed, "Nothing was sent.")

    @property
    def reserved_usd(self) -> Decimal:
        """What submissions that are not settled may cost, in USD."""
        return sum(self._reserved.values(), Decimal(0))

    def fits(self, request: VideoRequest) -> bool:
        """Whether there is room for a submission, besides all that is reserved."""
        cost = request.estimated_cost_usd or UNPRICED_USD
        return self.limit_usd is None or self.paid_usd + self.reserved_usd + cost <= self.limit_usd

    async def reserve(self, key: str, request: VideoRequest) -> None:
        """Reserve the estimated cost of a submission; wait while others that are under way may turn out cheaper.

        Raises:
            LimitReached: If there is no room for it. Nothing was sent.
        """
        cost = request.estimated_cost_usd or UNPRICED_USD
        async with self._changed:
            if key in self._reserved:
                return
            while self.limit_usd is not None and self.paid_usd + self.reserved_usd + cost > self.limit_usd:
                if self.paid_usd + cost > self.limit_usd or not self._reserved:
                    raise LimitReached(
                        f"The budget of {dollars(self.limit_usd)} has no room for this video, about {dollars(cost)}: "
                        f"{dollars(self.paid_usd)} are spent, and {dollars(self.reserved_usd)} are reserved. Nothing "
                        f"was sent."
                    )
                await self._changed.wait()
            self._reserved[key] = cost

    async def settle(self, key: str, cost_usd: Decimal | None) -> None:
        """Replace a reservation by what was paid.

        Args:
            key: The key of the video.
            cost_usd: Actual cost in USD, 0 if nothing was accepted; None if it is not known, so that the estimate
                counts.
        """
        async with self._changed:
            reserved = self._reserved.pop(key, None)
            if reserved is not None:
                self.paid_usd += reserved if cost_usd is None else cost_usd
            self._changed.notify_all()


class RowPermit:
    """Permission to submit one row: the limits of the run, and its budget.

    Args:
        limits: Limits that are shared with other runs.
        budget: The budget of this run.
        key: The key of the row's video.
    """

    def __init__(self, limits: Permit, budget: Budget, key: str) -> None:
        self._limits, self._budget, self._key = limits, budget, key
        self.is_spent = False

    async def acquire(self, request: VideoRequest) -> None:
        """Wait for the limits, and reserve the cost.

        Raises:
            LimitReached: If there is no room for it.
        """
        await self._budget.reserve(self._key, request)
        await self._limits.acquire(request)

    async def spend(self, request: VideoRequest) -> None:
        """Take the cost from the shared budget, once the claim has been written.

        Raises:
            LimitReached: If there is no room for it.
        """
        await self._limits.spend(request)
        self.is_spent = True

    async def refund(self, request: VideoRequest) -> None:
        """Return the cost, because the submission was certainly refused. Never raises."""
        self.is_spent = False
        await self._limits.refund(request)
