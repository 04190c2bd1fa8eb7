"""What each fault of the emulator costs: paid submissions a delivered video, and request ids that nobody knows.

Every fault goes through the real flow, `agenerate_video` on a temporary Prefect server, twice with the same key;
those of the POST once more with direct delivery to an S3 server, and lost replies with recovery by files; and, where
gRPC has a counterpart, all through xai-sdk as its documentation has it, and through a plain Prefect task with two
retries round xai-sdk. What stands in for xAI's gRPC service is in `xai_sdk_server.py`.

    python benchmarks/fault_matrix.py [--only FAULT ...] [--without-sdk] [--small]

`NAME` is a fault that happens once (or, where that makes no sense, as long as the video lives), `NAME*9` one that
lasts for nine calls. What is counted comes from the emulator's log and ledger, by prompt. A video is delivered if its
file is there and can be decoded to the end. A request id is lost if the client had it, since it polled for it, and
it is neither in the result, nor in the error, nor in a receipt; for xai-sdk it counts as known as soon as there is a
URL, for that has it. An id whose reply never came is counted by itself: nobody can know that one. The task generates
and fetches in one; its retries follow at once.

Each fault counts once in the sums, however often it happens in life. "paid per delivered video" looks at what was
paid for the videos that were delivered, "all paid per delivered" at everything that was paid, and "paid again" is
every payment for a video beyond its first.

Limits that differ from the defaults, so that it ends: renders take a second and the plugin's polls are as close, a
video is waited for 120 s, or 4 s where none will ever come, a download has at most 16 MiB, and xai-sdk gives up a
call after 20 s, not 27 minutes.
"""

import argparse
import asyncio
import datetime
import importlib.util
import io
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_aws import S3Bucket

    from prefect_xai_video.emulator import Emulator

API_KEY = "xai-of-a-benchmark"
RENDER_SECONDS = 1
WAIT_SECONDS = 120
SHORT_WAIT_SECONDS = 4
SDK_CALL_SECONDS = 20
SETTLE_SECONDS = 0.5
"""For the emulator to notice that nobody listens any more, and to log the request."""
AT_ONCE = 4
"""Measurements of each way."""
ENVIRONMENT = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "10",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS": "0.5",
    "PREFECT_INTEGRATIONS_XAI_VIDEO_POLL_MIN_SECONDS": "0.2",
    "PREFECT_INTEGRATIONS_XAI_VIDEO_POLL_MAX_SECONDS": "1",
    "PREFECT_INTEGRATIONS_XAI_VIDEO_MAX_DOWNLOAD_BYTES": str(2**24),
}

DELIVERED = "delivered"
NO_FAULT = "none"
FAULTS = (
    NO_FAULT,
    "start-429",
    "start-429*9",
    "start-429-retry-after",
    "start-429-date",
    "start-503",
    "start-503*9",
    "start-503-retry-after",
    "start-cut",
    "start-cut*9",
    "start-307",
    "start-409",
    "start-425",
    "start-499",
    "start-400-key",
    "start-400-key-in-code",
    "start-accepted-cut",
    "start-accepted-cut*9",
    "start-accepted-500",
    "start-accepted-500*9",
    "start-accepted-502",
    "start-accepted-502*9",
    "start-accepted-silence",
    "start-accepted-silence*9",
    "start-accepted-unreadable",
    "start-accepted-unreadable*9",
    "start-accepted-307",
    "start-accepted-409",
    "start-accepted-425",
    "start-accepted-499",
    "start-accepted-503",
    "start-accepted-503*9",
    "start-accepted-503-retry-after",
    "start-accepted-id",
    "start-accepted-number",
    "start-accepted-nested",
    "start-accepted-cut-after-id",
    "start-accepted-huge",
    "empty-202",
    "pending-200",
    "no-status",
    "unknown-status",
    "moderated",
    "moderated-old-code",
    "moderated-done",
    "moderated-failed",
    "done-without-url",
    "failed-invalid-argument",
    "failed-permission-denied",
    "failed-failed-precondition",
    "failed-service-unavailable",
    "failed-internal-error",
    "failed-string-error",
    "failed-key",
    "failed-signed-url",
    "expired",
    "public-url-only",
    "poll-429",
    "poll-429*9",
    "poll-429-retry-after",
    "poll-500",
    "poll-500*9",
    "poll-503",
    "poll-503*9",
    "poll-404",
    "poll-404-always",
    "poll-huge",
    "poll-cut",
    "poll-cut*9",
    "poll-slow",
    "never-done",
    "progress-stuck",
    "progress-backwards",
    "progress-absent",
    "progress-absurd",
    "cost-absurd",
    "duration-absurd",
    "download-cut",
    "download-cut*9",
    "download-cut+download-no-range",
    "download-truncated",
    "download-short",
    "download-slow",
    "download-403",
    "download-404",
    "download-500",
    "download-500*9",
    "download-html",
    "download-retry-after",
    "download-redirect-http",
    "download-redirect-private",
    "download-etag",
    "download-trailing",
    "download-endless",
    "download-redirect",
    "download-chunked",
    "download-no-range",
    "signed-url",
)
A_FEW_FAULTS = (NO_FAULT, "start-429", "start-accepted-cut", "moderated", "poll-500", "download-cut")
REST_ONLY = {
    "start-429-retry-after",
    "start-429-date",
    "start-503-retry-after",
    "start-accepted-502",
    "start-accepted-502*9",
    "empty-202",
    "pending-200",
    "no-status",
    "moderated-old-code",
    "failed-string-error",
    "poll-429-retry-after",
    "start-307",
    "start-409",
    "start-425",
    "start-499",
    "start-400-key",
    "start-400-key-in-code",
    "start-accepted-307",
    "start-accepted-409",
    "start-accepted-425",
    "start-accepted-499",
    "start-accepted-503-retry-after",
    "start-accepted-id",
    "start-accepted-number",
    "start-accepted-nested",
    "start-accepted-cut-after-id",
    "start-accepted-huge",
    "failed-key",
    "poll-huge",
    "progress-absurd",
    "cost-absurd",
    "duration-absurd",
    "download-redirect-http",
    "download-redirect-private",
    "download-endless",
}
"""Faults without a counterpart in gRPC, and downloads that a plain client would follow elsewhere or for ever."""
NOTHING_COMES = {
    "never-done",
    "poll-404-always",
    "start-307",
    "start-409",
    "start-425",
    "start-499",
    "start-503",
    "start-503-retry-after",
    "start-cut",
}
"""Faults after which there is nothing to wait for."""
LONG_WAITS = {"start-accepted-silence", "start-accepted-silence*9", "done-without-url"}
"""Faults that take minutes of plain waiting: they all begin at once, and take no place from the others."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement needs.

    Attributes:
        emulator: Stands in for xAI.
        directory: Where the plugin stores videos and receipts.
        sdk_host: Where the emulator speaks gRPC; None without xai-sdk.
        bucket: Where xAI delivers to by itself.
    """

    emulator: "Emulator"
    directory: Path
    sdk_host: str | None = None
    bucket: "S3Bucket | None" = None


@dataclass(frozen=True, slots=True)
class Books:
    """What the emulator saw of one prompt: request ids of accepted submissions, those polled for, payments, polls."""

    accepted: frozenset[str]
    polled: frozenset[str]
    paid: int
    polls: int


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one fault.

    Attributes:
        fault: Name of the fault, as in `FAULTS`.
        way: Who made the video, as in `WAYS`.
        outcome: `delivered`, the type of the error that was raised, or `broken file`.
        paid: Submissions that were billed.
        polls: How often was asked for the video.
        lost: Request ids that the client had, and that nobody knows afterwards.
        never_told: Request ids of accepted submissions whose reply never came.
        id_told: Whether the error has the request id; None without an error, or if nothing was accepted.
        again: What a second run with the same key came to; None where there are no keys.
        paid_again: Submissions that were billed in the second run.
    """

    fault: str
    way: str
    outcome: str
    paid: int
    polls: int
    lost: int
    never_told: int
    id_told: bool | None
    again: str | None = None
    paid_again: int = 0

    @property
    def delivered(self) -> bool:
        """Whether there is a whole video."""
        return self.outcome == DELIVERED

    @property
    def keeps_promise(self) -> bool:
        """Whether nothing was paid twice, and no request id was lost."""
        return self.paid + self.paid_again <= 1 and self.lost == 0


@dataclass(frozen=True, slots=True)
class Made:
    """A video, or the error that came instead; and every text from which its request id could be learnt."""

    content: bytes | None
    error: Exception | None
    texts: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """`delivered`, or what came instead."""
        if self.error is not None:
            return name_of(self.error)
        return DELIVERED if self.content is not None and is_whole(self.content) else "broken file"

    def tells(self, request_id: str) -> bool:
        """Whether a request id can be learnt from it."""
        return any(request_id in text for text in self.texts)


class NotFetched(Exception):
    """The file behind a URL of xai-sdk could not be fetched. The URL is in it, and so is the request id."""


async def make_with_plugin(bench: Bench, fault: str, prompt: str) -> Made:
    """Run the flow of this package. The key is the fault's."""
    from prefect.filesystems import LocalFileSystem

    key = key_of(fault)
    store = LocalFileSystem(basepath=bench.directory)
    error = await error_of_flow(bench, fault, prompt, key=key, storage=store)
    receipts = bench.directory.glob(f"{key}.json")
    content = None if error else (bench.directory / f"{key}.mp4").read_bytes()
    return Made(content, error, (str(error), *(receipt.read_text() for receipt in receipts)))


async def make_with_direct_delivery(bench: Bench, fault: str, prompt: str) -> Made:
    """Run the same flow, with xAI putting the video into a bucket."""
    assert bench.bucket is not None
    key, bucket = key_of(fault), bench.bucket
    error = await error_of_flow(bench, fault, prompt, key=key, storage=bucket, delivery="direct")

    def read(name: str) -> bytes:
        client = bucket.credentials.get_s3_client()
        return client.get_object(Bucket=bucket.bucket_name, Key=name)["Body"].read()

    receipt = (await asyncio.to_thread(read, f"{key}.json")).decode()
    content = None if error else await asyncio.to_thread(read, f"{key}.mp4")
    return Made(content, error, (str(error), receipt))


async def make_with_recovery(bench: Bench, fault: str, prompt: str) -> Made:
    """Run the same flow, with xAI keeping the video as a file until it is stored."""
    from prefect.filesystems import LocalFileSystem

    directory = bench.directory / "recovery"
    key, store = key_of(fault), LocalFileSystem(basepath=directory)
    error = await error_of_flow(bench, fault, prompt, key=key, storage=store, recovery="files")
    receipts = directory.glob(f"{key}.json")
    content = None if error else (directory / f"{key}.mp4").read_bytes()
    return Made(content, error, (str(error), *(receipt.read_text() for receipt in receipts)))


async def error_of_flow(bench: Bench, fault: str, prompt: str, **options: Any) -> Exception | None:
    from prefect_xai_video import XaiCredentials, agenerate_video

    credentials = XaiCredentials(api_key=API_KEY, base_url=bench.emulator.base_url)
    try:
        await agenerate_video(
            prompt, duration=1, credentials=credentials, timeout_seconds=wait_seconds(fault), **options
        )
    except Exception as error:
        return error
    return None


def key_of(fault: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", fault)


async def make_with_sdk(bench: Bench, fault: str, prompt: str) -> Made:
    """Call xai-sdk as its documentation does, and fetch what its URL names."""
    return await asyncio.to_thread(made_by, lambda: generate_and_fetch(bench, fault, prompt))


async def make_with_task(bench: Bench, fault: str, prompt: str) -> Made:
    """Do the same in a Prefect task with two retries."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    retried = task(retries=2, cache_policy=NO_CACHE, persist_result=False)(generate_and_fetch)
    return await asyncio.to_thread(made_by, lambda: retried(bench, fault, prompt))


WAYS: dict[str, Callable[[Bench, str, str], Awaitable[Made]]] = {
    "prefect-xai-video": make_with_plugin,
    "with direct delivery": make_with_direct_delivery,
    "with recovery by files": make_with_recovery,
    "xai-sdk": make_with_sdk,
    "task round xai-sdk": make_with_task,
}
PLUGIN, DIRECT, RECOVERY, SDK, TASK = WAYS


def made_by(call: Callable[[], tuple[str, bytes]]) -> Made:
    try:
        url, content = call()
    except Exception as error:
        return Made(None, error, (str(error),))
    return Made(content, None, (url,))


def generate_and_fetch(bench: Bench, fault: str, prompt: str) -> tuple[str, bytes]:
    """Generate with xai-sdk, with its defaults but for the deadlines, and fetch the video: its URL and content."""
    import httpx
    from xai_sdk import Client

    timeout = datetime.timedelta(seconds=wait_seconds(fault))
    with Client(
        api_key=API_KEY, api_host=bench.sdk_host, timeout=SDK_CALL_SECONDS, use_insecure_channel=True
    ) as client:
        url = client.video.generate(prompt, model="grok-imagine-video", duration=1, timeout=timeout).url
    try:
        content = httpx.get(url, follow_redirects=True).raise_for_status().content
    except httpx.HTTPError as error:
        raise NotFetched(f"{url}: {error}") from error
    return url, content


def wait_seconds(fault: str) -> float:
    return SHORT_WAIT_SECONDS if fault.removesuffix("*9") in NOTHING_COMES else WAIT_SECONDS


def is_whole(content: bytes) -> bool:
    """Whether a video can be decoded to its end."""
    import av

    try:
        with av.open(io.BytesIO(content)) as file:
            stream = file.streams.video[0]
            return 0 < stream.frames == len(list(file.decode(stream)))
    except (av.FFmpegError, IndexError):
        return False


def name_of(error: Exception) -> str:
    """The error's type, for gRPC with its code: the types there are private, and all the same."""
    code = getattr(error, "code", None)
    return f"RpcError {code().name}" if callable(code) else type(error).__name__


def marked(fault: str) -> str:
    """The words in a prompt that make the emulator have a fault."""
    return "" if fault == NO_FAULT else " ".join(f"[fault:{name}]" for name in fault.split("+"))


def books_of(emulator: "Emulator", title: str) -> Books:
    """Look up in the emulator's log and ledger what belongs to prompts that begin with a title."""
    log = emulator.requests()
    accepted = {
        entry["request_id"]
        for entry in log
        if entry["request_id"] and (entry["body"] or {}).get("prompt", "").startswith(title)
    }
    bills = emulator.ledger()["requests"]
    paths = {f"/v1/videos/{request_id}" for request_id in accepted}
    return Books(
        frozenset(accepted),
        polled=frozenset(one for one in accepted if any(entry["path"] == f"/v1/videos/{one}" for entry in log)),
        paid=sum(bill["request_id"] in accepted and Decimal(bill["cost_usd"]) > 0 for bill in bills),
        polls=sum(entry["path"] in paths for entry in log),
    )


async def measure(fault: str, way: str, bench: Bench) -> Row:
    """Have one video made in one way, with a fault on it, and read the books. With the plugin, run it once more."""
    title = f"A cat by {way}, {fault}:"
    prompt = f"{title} {marked(fault)}"
    made = await WAYS[way](bench, fault, prompt)
    await asyncio.sleep(SETTLE_SECONDS)
    books = books_of(bench.emulator, title)
    again, paid_again = None, 0
    if way in {PLUGIN, DIRECT, RECOVERY}:
        again = (await WAYS[way](bench, fault, prompt)).outcome
        await asyncio.sleep(SETTLE_SECONDS)
        paid_again = books_of(bench.emulator, title).paid - books.paid
    return Row(
        fault=fault,
        way=way,
        outcome=made.outcome,
        paid=books.paid,
        polls=books.polls,
        lost=sum(not made.tells(request_id) for request_id in books.polled),
        never_told=len(books.accepted - books.polled),
        id_told=any(known in str(made.error) for known in books.accepted) if made.error and books.accepted else None,
        again=again,
        paid_again=paid_again,
    )


async def measure_all(faults: Iterable[str], bench: Bench) -> list[Row]:
    """Measure faults, several at once: each has its own prompts and its own key, so that they stay apart.

    More than a few flows at once are too much for the database of a temporary Prefect server.
    """
    # Each way but the plugin blocks a thread for as long as it takes, and the plugin needs some too.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
    places = {way: asyncio.Semaphore(AT_ONCE) for way in WAYS}

    async def in_turn(fault: str, way: str) -> Row:
        if fault in LONG_WAITS:
            return await measure(fault, way, bench)
        async with places[way]:
            return await measure(fault, way, bench)

    wanted = [(fault, way) for fault in faults for way in WAYS if applies(way, fault, bench)]
    # What lasts begins first.
    begun = sorted(wanted, key=lambda pair: "*" not in pair[0])
    rows = await asyncio.gather(*(in_turn(fault, way) for fault, way in begun))
    return sorted(rows, key=lambda row: wanted.index((row.fault, row.way)))


def applies(way: str, fault: str, bench: Bench) -> bool:
    match way:
        case "prefect-xai-video":
            return True
        case "with direct delivery":
            return fault.startswith("start-")
        case "with recovery by files":
            return fault.startswith("start-accepted-")
        case _:
            return bench.sdk_host is not None and fault not in REST_ONLY


@contextmanager
def open_bench(with_sdk: bool) -> Iterator[Bench]:
    """An emulator, a temporary Prefect server, a directory and, if wanted, the emulator in gRPC."""
    from prefect.testing.utilities import prefect_test_harness
    from servers import bucket

    from prefect_xai_video.emulator import Emulator

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        emulator = stack.enter_context(Emulator(render_seconds=RENDER_SECONDS))
        sdk_host = None
        if with_sdk:
            from xai_sdk_server import xai_sdk_server

            sdk_host = stack.enter_context(xai_sdk_server(emulator.base_url))
        stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield Bench(emulator, directory, sdk_host, stack.enter_context(bucket()))


def table(header: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    names = list(header)
    cells = [names, ["---"] * len(names), *([str(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def matrix(rows: Iterable[Row]) -> str:
    """One line a fault, the ways side by side."""
    by_fault: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_fault.setdefault(row.fault, {})[row.way] = row
    header = ["Fault", PLUGIN, "paid", "polls", "id in error", "same key again, paid", DIRECT, "paid"]
    header += [RECOVERY, "paid", "again, paid"]
    with_sdk = any(SDK in ways for ways in by_fault.values())
    if with_sdk:
        header += [SDK, "paid", "lost", TASK, "paid", "lost"]
    return table(header, (line_of(fault, ways, with_sdk) for fault, ways in by_fault.items()))


def line_of(fault: str, ways: dict[str, Row], with_sdk: bool) -> list[object]:
    plugin, direct = ways[PLUGIN], ways.get(DIRECT)
    told = {None: "-", True: "yes", False: "no"}[plugin.id_told]
    line: list[object] = [fault, plugin.outcome, plugin.paid, plugin.polls, told]
    line += [f"{plugin.again}, {plugin.paid_again}"]
    line += ["-"] * 2 if direct is None else [direct.outcome, direct.paid]
    found = ways.get(RECOVERY)
    line += ["-"] * 3 if found is None else [found.outcome, found.paid, f"{found.again}, {found.paid_again}"]
    for way in (SDK, TASK) if with_sdk else ():
        row = ways.get(way)
        line += ["-"] * 3 if row is None else [row.outcome, row.paid, row.lost]
    return line


def summary(rows: list[Row]) -> str:
    """What it comes to, for all ways over the same faults, and for the plugin over all of them."""
    compared = {row.fault for row in rows if row.way == SDK}
    of_way = {way: [row for row in rows if row.way == way] for way in WAYS}
    groups = {way: [row for row in of_way[way] if row.fault in compared] for way in (PLUGIN, SDK, TASK)}
    groups[f"{PLUGIN}, all faults"] = of_way[PLUGIN]
    directly = {row.fault for row in of_way[DIRECT]}
    others = [row for row in of_way[PLUGIN] if row.fault not in directly]
    groups[f"{PLUGIN}, all faults, POST faults {DIRECT}"] = of_way[DIRECT] + others
    groups[f"{PLUGIN}, lost replies {RECOVERY}"] = of_way[RECOVERY]
    totals = [(name, totals_of(group)) for name, group in groups.items() if group]
    return table(["", *totals[0][1]], ([name, *numbers.values()] for name, numbers in totals))


def totals_of(rows: list[Row]) -> dict[str, object]:
    """The sums of one way. Each fault counts once, however often it happens in life."""
    delivered, paid = [row for row in rows if row.delivered], sum(row.paid for row in rows)
    return {
        "faults": len(rows),
        "delivered": len(delivered),
        "**paid per delivered video**": f"**{ratio(sum(row.paid for row in delivered), len(delivered))}**",
        "all paid": paid,
        "all paid per delivered": ratio(paid, len(delivered)),
        "paid again": sum(max(row.paid - 1, 0) for row in rows),
        "most for one": max(row.paid for row in rows),
        "lost request ids": sum(row.lost for row in rows),
        "replies that never came": sum(row.never_told for row in rows),
    }


def ratio(paid: int, delivered: int) -> str:
    return f"{paid / delivered:.2f}" if delivered else "-"


def again_of(rows: list[Row]) -> str:
    """What a second run with the same key adds."""
    plugin = [row for row in rows if row.way == PLUGIN]
    later = sum(row.again == DELIVERED and not row.delivered for row in plugin)
    paid = sum(row.paid_again for row in plugin)
    return f"{PLUGIN}, the same keys once more: {later} more delivered, {paid} more paid."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="FAULT", default=FAULTS, help="names as in the table")
    parser.add_argument("--small", action="store_const", dest="only", const=A_FEW_FAULTS, help="a few faults only")
    parser.add_argument("--without-sdk", action="store_true", help="measure this package alone")
    options = parser.parse_args()
    if not options.without_sdk and importlib.util.find_spec("xai_sdk") is None:
        sys.exit("xai-sdk is not installed: pip install xai-sdk, or measure this package alone with --without-sdk.")
    return options


def main() -> None:
    options = arguments()
    os.environ |= ENVIRONMENT
    warnings.filterwarnings("ignore", "Encountered unknown status")
    began = time.monotonic()
    with open_bench(with_sdk=not options.without_sdk) as bench:
        rows = asyncio.run(measure_all(options.only, bench))
    print(matrix(rows), summary(rows), again_of(rows), sep="\n\n")
    print(f"\nMeasured in {time.monotonic() - began:.0f} s.")
    if broken := [row.fault for row in rows if row.way in {PLUGIN, DIRECT, RECOVERY} and not row.keeps_promise]:
        sys.exit(f"Paid again, or lost a request id: {', '.join(broken)}")


if __name__ == "__main__":
    main()
