"""Wall time of a batch against its bound: at most 1.05 times on PostgreSQL, 1.15 on SQLite.

500 videos, 20 s renders, 50 in flight, no rate limit. The bound is rows / in flight x render time. The Prefect server
and the emulator (light mode) run in processes of their own. Also reported: requests to Prefect a video, and memory.

Arguments after the script: `sqlite` or `postgres` for one of the two; by default both, if PostgreSQL is there.
"""

import asyncio
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from servers import emulator, has_postgres, postgres, prefect_server
from size import is_small

ROWS, RENDER_SECONDS, IN_FLIGHT = 500, 20, 50
SMALL_ROWS, SMALL_SECONDS, SMALL_IN_FLIGHT = 20, 2, 10
LARGEST_RATIO = {"postgres": 1.05, "sqlite": 1.15}


def main() -> None:
    small = is_small(__doc__)
    chosen = [name for name in LARGEST_RATIO if name in sys.argv]
    databases = chosen or (["postgres"] if has_postgres() and not small else []) + ["sqlite"]
    for database in databases:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(postgres()) if database == "postgres" else None
            stack.enter_context(prefect_server(directory, url))
            seconds = SMALL_SECONDS if small else RENDER_SECONDS
            base_url = stack.enter_context(emulator("--light", "--render-seconds", str(seconds)))
            asyncio.run(measure(database, base_url, directory, small=small))


async def measure(database: str, base_url: str, directory: Path, *, small: bool) -> None:
    from prefect import flow
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, agenerate_videos

    count, seconds, in_flight = (
        (SMALL_ROWS, SMALL_SECONDS, SMALL_IN_FLIGHT) if small else (ROWS, RENDER_SECONDS, IN_FLIGHT)
    )
    rows = [{"key": f"videos/{number:05}", "prompt": f"Video {number}", "duration": 6} for number in range(count)]
    options = {
        "in_flight": in_flight,
        "storage": LocalFileSystem(basepath=str(directory / "videos")),
        "credentials": XaiCredentials(api_key="any", base_url=base_url),
    }

    @flow
    async def warm() -> None: ...

    await warm()
    await agenerate_videos([{"key": "warm", "prompt": "Warm", "duration": 6}], **options)
    requests = counted_requests()
    began = time.perf_counter()
    report = await agenerate_videos(rows, **options)
    taken = time.perf_counter() - began
    bound = count / in_flight * seconds
    assert report.stored == count, report
    ratio = taken / bound
    print(f"{database}: {taken:.1f} s, {ratio:.3f} times the bound of {bound:.0f} s")
    print(f"{database}: {len(requests) / count:.2f} requests to Prefect a video; times {report.times}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{database}: at most {memory:.0f} MB resident")
    if not small and ratio > LARGEST_RATIO[database]:
        raise SystemExit(f"{database}: more than {LARGEST_RATIO[database]} times the bound")


def counted_requests() -> list[str]:
    """Count the requests to Prefect's API from now on."""
    seen: list[str] = []
    send = httpx.AsyncHTTPTransport.handle_async_request

    async def counted(self, request):
        if "/api/" in request.url.path:
            seen.append(request.url.path)
        return await send(self, request)

    httpx.AsyncHTTPTransport.handle_async_request = counted
    return seen


if __name__ == "__main__":
    main()
