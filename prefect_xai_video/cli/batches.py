"""The command `batch`: check the manifest, run the flow, show how far it is, and print the report."""

import asyncio
import csv
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prefect_xai_video.batch.budget import Budget
from prefect_xai_video.batch.lanes import ChosenLane
from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.batch.options import BatchOptions
from prefect_xai_video.batch.outcomes import WITHOUT_VIDEO, estimated
from prefect_xai_video.batch.plan import Plan, make_plan
from prefect_xai_video.batch.progress import Progress
from prefect_xai_video.batch.report import BatchReport, Tally
from prefect_xai_video.batches import agenerate_videos, asubmit_videos
from prefect_xai_video.batches.runs import chosen_lane
from prefect_xai_video.cli.batch_table import BatchTable
from prefect_xai_video.cli.connections import at_xai_or_emulator, credentials_of, has_key
from prefect_xai_video.cli.live import LiveLine
from prefect_xai_video.cli.places import existing_store, prepared
from prefect_xai_video.cli.reports import print_report
from prefect_xai_video.cli.runs import FlowRun
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.collecting import Collected
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import BatchFailed
from prefect_xai_video.flows import acollect_videos
from prefect_xai_video.money import dollars
from prefect_xai_video.orchestration.prefect_api import check_prefect_server
from prefect_xai_video.orchestration.storage import Storage, open_store
from prefect_xai_video.orchestration.watching import News
from prefect_xai_video.settings import XaiVideoSettings, check_timeout


def columns(given: Sequence[str] | None) -> list[str] | None:
    """Read the names of columns from options such as `--keep sku,title`; a name with a comma is quoted, as in CSV."""
    return [name for line in csv.reader(given, skipinitialspace=True) for name in line] if given else None


def batch(
    source: str,
    options: Mapping[str, Any],
    place: str,
    credentials: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make the videos of a manifest; arguments as for the command."""
    chosen = BatchOptions(**{name: value for name, value in options.items() if name != "timeout_seconds"})
    check_timeout(options["timeout_seconds"])
    checked = _check(source, chosen, place)
    if dry_run:
        with checked.planned() as plan:
            report = asyncio.run(_estimate(plan, checked.store, options))
            lane = asyncio.run(chosen_lane(plan, chosen)) if chosen.lane == "auto" else None
        _print_estimate(report, lane, as_json=as_json)
        return
    _run(agenerate_videos, checked, options, credentials, as_json=as_json)


def submit(source: str, options: Mapping[str, Any], place: str, credentials: str | None, *, as_json: bool) -> None:
    """Submit the rows of a manifest; arguments as for the command."""
    chosen = BatchOptions(**options, stills=None)
    _run(asubmit_videos, _check(source, chosen, place), options, credentials, as_json=as_json)


def collect(prefix: str, place: str, credentials: str | None, *, as_json: bool) -> None:
    """Make a pass over the open keys of a storage; arguments as for the command."""
    check_prefect_server()
    existing_store(place)
    storage, directory = prepared(place)
    xai = credentials_of(credentials) if has_key(credentials) else None

    async def work(xai: XaiCredentials) -> Collected:
        return await acollect_videos(prefix, storage=cast("Any", storage), credentials=xai)

    watched = WatchedPass()
    collected = FlowRun[Collected](watched).result(
        lambda: at_xai_or_emulator(work, xai, directory, watched.line.note)
    )
    if as_json:
        facts = {"counts": collected.counts, "keys": collected.keys, "errors": collected.errors}
        print(json.dumps(facts, indent=2))
        return
    print(f"{collected}.")
    for key, error in collected.errors.items():
        print(f"{key}: {error}")


@dataclass(frozen=True, slots=True)
class _Checked:
    """A server and a storage that were checked before the manifest is read.

    Attributes:
        source: The manifest, as an absolute path or a URL.
        chosen: The options of the batch.
        storage: The storage.
        store: Its store.
        directory: A directory of this machine that is there as long as the storage.
    """

    source: str
    chosen: BatchOptions
    storage: Storage
    store: VideoStore
    directory: Path

    @contextmanager
    def planned(self) -> Iterator[Plan]:
        """Open the manifest, plan it, and check that the budget covers a video.

        Raises:
            InvalidManifest: If anything in it is not valid.
            InvalidRequest: If the budget covers no video.
        """
        with open_manifest(self.source, self.store.s3_credentials) as opened:
            chosen, validation = self.chosen, XaiVideoSettings.current().validation
            plan = make_plan(
                opened,
                chosen.key,
                keep=chosen.kept_columns,
                saving=chosen.for_each,
                lane=chosen.lane,
                validation=validation,
            )
            Budget(chosen.checked_budget).check_covers(plan.cheapest_usd)
            yield plan


def _check(source: str, chosen: BatchOptions, place: str) -> _Checked:
    check_prefect_server()
    storage, directory = prepared(place)
    absolute = source if "://" in source else str(Path(source).expanduser().absolute())
    return _Checked(absolute, chosen, storage, open_store(storage, directory), directory)


def _run(
    flow: Callable[..., Coroutine[Any, Any, BatchReport]],
    checked: _Checked,
    options: Mapping[str, Any],
    credentials: str | None,
    *,
    as_json: bool,
) -> None:
    with checked.planned() as plan:
        cancels = bool(options.get("cancel_at_xai"))
        watched = WatchedBatch(plan.manifest.name, checked.directory, cancels=cancels)
    xai = credentials_of(credentials) if has_key(credentials) else None

    async def work(xai: XaiCredentials) -> BatchReport:
        return await flow(checked.source, **options, storage=checked.storage, credentials=xai)

    try:
        made = FlowRun[BatchReport](watched).result(
            lambda: at_xai_or_emulator(work, xai, checked.directory, watched.line.note)
        )
    except BatchFailed as error:
        print_report(error.report, as_json=as_json)
        raise
    finally:
        watched.end()
    print_report(made, as_json=as_json)
    if xai is None and not as_json:
        print("Emulator  It stood in for xAI, so nothing was paid.")


class WatchedBatch:
    """What is shown of the run of a batch.

    Args:
        name: Name of its manifest.
        directory: Directory of this machine that is there as long as the storage.
        cancels: Whether an interrupted run cancels its batches at xAI.
    """

    def __init__(self, name: str, directory: Path, *, cancels: bool = False) -> None:
        self.line, self._cancels = BatchTable(name, directory), cancels
        self.sending = "Requests are"
        self._progress: Progress | None = None

    def watch(self, news: News) -> None:
        """Show news of the run."""
        if isinstance(news, ChosenLane):
            self.line.note(f"{news}.")
        elif isinstance(news, Progress):
            self._progress = news
            self.line.update(news)
        elif isinstance(news, Receipt) and news.state == "submitted":
            self.line.ids.recorded(news.request_id)

    def end(self) -> None:
        """Say which request ids are in no receipt, if there are any."""
        if sentence := self.line.ids.end():
            self.line.note(sentence)

    def outlook(self) -> str:
        """Say what has become of the batch, and how it is continued."""
        self.end()
        if self._progress is None:
            return "Nothing was sent."
        stored, count = self._progress.states.get("stored", 0), self._progress.count
        cancelled = " Its batches at xAI, if any, are cancelled." if self._cancels else ""
        return (
            f"{stored:,} of {count:,} videos are stored.{cancelled} Run the same command again to continue: what was "
            f"sent is picked up, and nothing is paid for twice."
        )


class WatchedPass:
    """What is shown of a pass of the collector."""

    def __init__(self) -> None:
        self.line = LiveLine()
        self.sending = "Nothing is"

    def watch(self, news: News) -> None:
        """Show nothing: a pass takes seconds."""

    def outlook(self) -> str:
        """Say how it is continued."""
        return "Run the same command again to collect the rest."


async def _estimate(plan: Plan, store: VideoStore, options: Mapping[str, Any]) -> BatchReport:
    """Look up what each row has already, and estimate the others."""
    tally = Tally.of(plan)
    for row in plan.rows():
        held = await store.read(row.key)
        receipt = held.receipt if held else None
        tally.add(estimated(row, receipt, regenerate=options["regenerate"], on_unknown=options["on_unknown"]))
    return tally.report()


_PAID = ("open", *WITHOUT_VIDEO)
"""States of rows that were, or may have been, paid for and have no video."""


def _print_estimate(report: BatchReport, lane: ChosenLane | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.facts(), indent=2))
        return
    others = "".join(f", {number:,} {state}" for state, number in report.states.items() if state in _PAID)
    print(f"Rows      {report.count:,}: {report.stored:,} stored{others}, {report.not_started:,} to be paid for")
    if lane is not None:
        print(f"Lane      {lane.lane}: {lane.why}")
    unpriced = f", and {report.unpriced:,} of unknown cost" if report.unpriced else ""
    print(f"Estimate  {dollars(report.due_usd)}{unpriced}. Nothing was sent.")
