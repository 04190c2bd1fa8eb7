"""The rows of a run in the batch lane."""

from dataclasses import dataclass

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.batch.budget import RowPermit
from prefect_xai_video.batch.plan import PlannedRow
from prefect_xai_video.engine.inquiry import may_still_appear
from prefect_xai_video.engine.receipts import Receipt


@dataclass(slots=True)
class LaneRow:
    """A row that has not ended.

    Attributes:
        planned: The row.
        permit: Its permission to be submitted.
        request: What was submitted for it by this run, without the content of its inputs.
        receipt: Its receipt, as far as it was read.
        tries: Times that it was tried.
        additions: Calls that were to add it.
    """

    planned: PlannedRow
    permit: RowPermit
    request: VideoRequest | None = None
    receipt: Receipt | None = None
    tries: int = 0
    additions: int = 0

    @property
    def key(self) -> str:
        """Its name in the store."""
        return self.planned.key


def is_open(receipt: Receipt) -> bool:
    """Whether a row may still get its video without another submission."""
    is_sent = receipt.state in {"submitted", "done", "stored"}
    is_in_batch = receipt.xai_batch is not None and receipt.state in {"sending", "unknown"}
    return is_sent or is_in_batch or (receipt.state == "unknown" and may_still_appear(receipt))
