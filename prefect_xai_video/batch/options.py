"""The options of a batch, checked before its manifest is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import cast, get_args

from prefect_xai_video.batch.lanes import LaneChoice, check_lane
from prefect_xai_video.batch.own_columns import checked_keep
from prefect_xai_video.engine.handover import Handover, check_saving
from prefect_xai_video.engine.options import DeliveryOptions, OnUnknown, SavingOptions
from prefect_xai_video.errors import not_allowed, shown

MAX_IN_FLIGHT = 10_000
"""Most rows in flight of a batch. One process collected as many open keys with 179 MB, and xAI's highest known rate
limit, 158 requests a second, keeps 2,100 videos of 40 s in flight: docs/concepts/scale.md has the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(Handover):
    """The options of a batch, as a user gave them; those of `Handover` hold for each row that has none of its own.

    Attributes:
        key: Template of the keys; None for the default.
        keep: Columns of the user's own; None for none.
        in_flight: Largest number of rows in flight.
        budget_usd: Largest cost of the run in USD; None for no limit.
        allow_failures: Whether the run counts as completed if some rows have no video.
        dry_run: Whether nothing is sent.
        stills: Whether the first and the last frame of each video are stored, too; None if the run saves no videos.
        regenerate: Whether new attempts of failed rows are paid for.
        on_unknown: What happens to rows of an unknown outcome.
        lane: How the rows reach xAI.
        cancel_at_xai: Whether a cancelled run cancels its batches at xAI.
        shard_rows: Most rows of a shard; None to make all rows in one process.
        shard_deployment: The deployment that runs the shards, as FLOW/NAME.

    Raises:
        InvalidRequest: If one of them is not valid.
    """

    key: str | None = None
    keep: Sequence[str] | None = None
    in_flight: int = 10
    budget_usd: object = None
    allow_failures: bool = False
    dry_run: bool = False
    stills: bool | None = False
    regenerate: bool = False
    on_unknown: OnUnknown = "raise"
    lane: LaneChoice = "realtime"
    cancel_at_xai: bool = False
    shard_rows: int | None = None
    shard_deployment: str | None = None

    def __post_init__(self) -> None:
        """Check each of them."""
        if self.key is not None and not isinstance(self.key, str):
            raise not_allowed("key", shown(self.key), "a template, such as products/{sku}-{digest}")
        _ = self.kept_columns
        is_number = isinstance(self.in_flight, int) and not isinstance(self.in_flight, bool)
        if not (is_number and 1 <= self.in_flight <= MAX_IN_FLIGHT):
            raise not_allowed("in_flight", shown(self.in_flight), f"a whole number from 1 to {MAX_IN_FLIGHT:,}")
        _check_shards(self.shard_rows, self.shard_deployment)
        for name in ("allow_failures", "dry_run", "regenerate", "cancel_at_xai"):
            if not isinstance(getattr(self, name), bool):
                raise not_allowed(name, shown(getattr(self, name)), "true or false")
        if self.on_unknown not in get_args(OnUnknown):
            raise not_allowed("on_unknown", shown(self.on_unknown), " or ".join(get_args(OnUnknown)))
        if self.lane not in get_args(LaneChoice):
            raise not_allowed("lane", shown(self.lane), " or ".join(get_args(LaneChoice)))
        check_saving(self.for_each)
        check_lane(self.lane, self.for_each)
        _ = self.checked_budget

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The columns of the user's own.

        Raises:
            InvalidRequest: If `keep` is not a list of such names.
        """
        return checked_keep(self.keep)

    @property
    def for_each(self) -> SavingOptions:
        """How each video comes to the store, unless its row says otherwise."""
        delivery = {name: getattr(self, name) for name in DeliveryOptions.__annotations__}
        stills = {} if self.stills is None else {"stills": self.stills}
        return cast("SavingOptions", delivery | stills)

    @property
    def checked_budget(self) -> Decimal | None:
        """The budget in USD; None for no limit.

        Raises:
            InvalidRequest: If it is not an amount above 0.
        """
        if self.budget_usd is None:
            return None
        try:
            amount = Decimal(str(self.budget_usd)) if not isinstance(self.budget_usd, bool) else Decimal("NaN")
        except InvalidOperation:
            amount = Decimal("NaN")
        if not (amount.is_finite() and amount > 0):
            raise not_allowed("budget_usd", shown(self.budget_usd), "an amount in USD above 0")
        return amount


def _check_shards(rows: object, deployment: object) -> None:
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise not_allowed("shard_rows", shown(rows), "a whole number of at least 1, or nothing")
    if deployment is not None and not (isinstance(deployment, str) and deployment.count("/") == 1):
        raise not_allowed("shard_deployment", shown(deployment), "FLOW/NAME, such as generate-videos/make-videos")
