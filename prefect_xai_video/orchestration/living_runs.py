"""The flow runs that have submitted requests: whether one still waits for its video, or has suspended itself."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

from prefect.exceptions import FlowPauseTimeout, NotPausedError
from prefect.flow_runs import aresume_flow_run

from prefect_xai_video.engine.inquiry import age_of
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.orchestration.prefect_api import current_client, read_runs

PAUSE_KEY = "xai-video"
"""Beginning of the key of a suspension that waits for videos: `asuspend_flow_run(key="xai-video")`."""

logger = logging.getLogger(__name__)


class LivingRuns:
    """The flow runs behind receipts.

    Args:
        longest_wait: Longest time in seconds that a run waits for a video. After that, a run that still counts as
            running has ended without telling, or waits for something else.
    """

    def __init__(self, longest_wait: float) -> None:
        self._longest_wait = longest_wait
        self._suspended: set[UUID] = set()

    async def holding(self, receipts: Iterable[Receipt]) -> set[str]:
        """Find the keys for which a living run waits itself.

        Args:
            receipts: Open receipts.

        Returns:
            Their keys. Empty for runs that this server does not know.
        """
        of_run: dict[UUID, list[Receipt]] = {}
        for receipt in receipts:
            with suppress(ValueError):
                if receipt.flow_run_id:
                    of_run.setdefault(UUID(receipt.flow_run_id), []).append(receipt)
        held: set[str] = set()
        for run_id in await self._running(list(of_run)):
            held.update(each.key for each in of_run[run_id] if age_of(each) < self._longest_wait)
        return held

    async def _running(self, ids: list[UUID]) -> list[UUID]:
        """Read which runs are running; those that have suspended themselves for videos are kept for `wake`."""
        running: list[UUID] = []
        async with current_client() as prefect:
            for run in await read_runs(prefect, ids):
                state = run.state
                if state is None:
                    continue
                if state.is_running() or state.is_cancelling():
                    running.append(run.id)
                elif state.is_paused() and (state.state_details.pause_key or "").startswith(PAUSE_KEY):
                    self._suspended.add(run.id)
        return running

    async def wake(self, flow_run_id: str) -> None:
        """Resume a run that has suspended itself until its videos have arrived, or will not. Best effort.

        Args:
            flow_run_id: The run; any other than a suspended one is left alone.
        """
        with suppress(ValueError):
            run_id = UUID(flow_run_id)
            if run_id not in self._suspended:
                return
            self._suspended.discard(run_id)
            try:
                await aresume_flow_run(run_id)
            except (NotPausedError, FlowPauseTimeout):
                # Somebody else has resumed it, or it gave up waiting.
                return
            except Exception:
                logger.warning("The flow run %s could not be resumed", run_id, exc_info=True)
