"""Make one video from the command line: `python flows/generate_video.py "A cat playing with a ball"`.

With XAI_API_KEY set it is made, and paid for, at xAI. Without, a local emulator stands in for xAI: it costs nothing
and draws a moving pattern in the colours of the prompt.
"""

import os
import signal


def stop_at_once(*_: object) -> None:
    """End after Ctrl-C while nothing has begun."""
    os.write(2, b"\nStopped. Nothing was sent.\n")
    os._exit(130)


if __name__ == "__main__":
    # The imports below take a second or two.
    signal.signal(signal.SIGINT, stop_at_once)

import argparse
import asyncio
import logging
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

# A run without a Prefect server of its own starts a temporary one, for the first time in up to half a minute. Keep
# its telemetry and its tracebacks out.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

from prefect.filesystems import LocalFileSystem

from prefect_xai_video import Video, XaiCredentials, agenerate_video
from prefect_xai_video.capabilities import dollars
from prefect_xai_video.errors import ApiError, AuthenticationFailed, StorageError, XaiVideoError
from prefect_xai_video.inputs import resolve_inputs
from prefect_xai_video.interruption import (
    InterruptibleRun,
    catch_interrupts,
    end_at_next_interrupt,
    end_interrupted,
    silence_console,
    wait_until,
)
from prefect_xai_video.receipts import Receipt, check_key
from prefect_xai_video.requests import build_request, check_limits
from prefect_xai_video.stores import LocalStore
from prefect_xai_video.submission import POST_SECONDS, is_posting

EMULATOR_STATE = ".emulator"
"""Directory beside the videos where the emulator keeps its requests, so that a later one goes on with them."""


def arguments() -> dict[str, Any]:
    """The command line: the flow's own parameters, and where to put the video."""
    parser = argparse.ArgumentParser(description="Make one video with xAI, or with an emulator if there is no key.")
    parser.add_argument("prompt", help="what should be seen")
    parser.add_argument("--image-url", help="first frame: an https, data: or s3:// URL, or a local file")
    parser.add_argument("--video-url", help="clip to edit, named in the same ways")
    parser.add_argument("--duration", help="seconds, 1-15")
    parser.add_argument("--aspect-ratio", help="16:9, 4:3, 1:1, 9:16, 3:4, 3:2 or 2:3")
    parser.add_argument("--resolution", help="480p, 720p or 1080p")
    parser.add_argument("--model", default="grok-imagine-video", help="xAI model id (default: %(default)s)")
    parser.add_argument("--key", help="name of the video in the directory; the same key is never paid for twice")
    parser.add_argument(
        "--regenerate",
        action="store_true",
        help="pay for a new attempt where this key's last one failed, was moderated or expired",
    )
    parser.add_argument(
        "--on-unknown",
        choices=["raise", "resubmit"],
        default="raise",
        help="resubmit: send again a request that may have been accepted, and may be paid for twice",
    )
    parser.add_argument("--directory", type=Path, default=Path("videos"), help="default: %(default)s")
    return vars(parser.parse_args())


def check(parameters: dict[str, Any], directory: Path) -> XaiCredentials | None:
    """Find all that can be wrong before a Prefect server is started.

    Returns:
        The credentials of the environment; None if there is no API key.
    """
    apart = {"key", "regenerate", "on_unknown"}
    request = build_request(**{name: parameters[name] for name in parameters.keys() - apart})
    check_limits(request)
    check_key(parameters["key"])
    xai = XaiCredentials.from_environment() if os.environ.get("XAI_API_KEY") else None
    asyncio.run(resolve_inputs(request))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--directory: {directory} can't be made: {error.strerror}.") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageError(f"--directory: {directory} can't be written to.")
    if xai is not None:
        asyncio.run(check_connection(xai))
    return xai


async def check_connection(xai: XaiCredentials) -> None:
    """Ask xAI whose key it is, which is free: without connection, or with a wrong key, nothing else will work."""
    async with xai.get_client() as client:
        try:
            await client.me()
        except AuthenticationFailed:
            raise
        except ApiError as error:
            if error.http_status is None:
                raise


@contextmanager
def emulator(directory: Path) -> Iterator[XaiCredentials]:
    """Credentials for an emulator that runs as long as the block, and knows the requests of those before it."""
    from prefect_xai_video.emulator import Emulator

    with Emulator(render_seconds=4, state=directory / EMULATOR_STATE) as running:
        print(
            f"XAI_API_KEY is not set: a local emulator at {running.base_url} stands in for xAI.\n"
            "Nothing is paid for, and what is drawn is a test picture, not what the prompt asks for.\n",
            flush=True,
        )
        os.environ.setdefault("PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS", "2")
        yield XaiCredentials(api_key="no-key-needed", base_url=running.base_url)


async def make(parameters: dict[str, Any], directory: Path, xai: XaiCredentials | None) -> Video:
    """Run the flow, at xAI or at an emulator."""
    storage = LocalFileSystem(basepath=directory)
    if xai is not None:
        return await agenerate_video(**parameters, storage=storage, credentials=xai)
    with emulator(directory) as stand_in:
        return await agenerate_video(**parameters, storage=storage, credentials=stand_in)


def report(video: Video) -> None:
    """Say what was made and where it lies."""
    cost = "not told" if video.cost_usd is None else dollars(video.cost_usd)
    print(
        f"\nVideo     {video.uri.removeprefix('file://')}"
        f"\nDuration  {video.duration} s ({video.size / 1e6:.1f} MB)"
        f"\nCost      {cost}"
        f"\nReceipt   {video.receipt_uri.removeprefix('file://')}"
    )


def stop(run: InterruptibleRun[Video], key: str, directory: Path) -> NoReturn:
    """End after Ctrl-C: with one sentence, and not before a POST's response has been noted."""
    silence_console()
    run.cancel()
    if is_posting():
        print(
            f"\nStopping. The request of key {key} is on its way: waiting for the response, which has its id. "
            "Ctrl-C again ends at once.",
            flush=True,
        )
        wait_until(lambda: not is_posting(), POST_SECONDS)
    print(f"\nStopped. {outlook(key, directory)}", flush=True)
    end_interrupted()


def outlook(key: str, directory: Path) -> str:
    """What has become of a key, and how its video is picked up."""
    try:
        held = asyncio.run(LocalStore(directory).read(key))
    except StorageError as error:
        return str(error)
    if held is None:
        return "Nothing was sent."
    receipt: Receipt = held.receipt
    real = bool(os.environ.get("XAI_API_KEY"))
    paid = " and is paid for" if real else ""
    again = f"Run the same command with --key {key} to pick the video up: nothing is sent or paid again."
    match receipt.state:
        case "submitted" if not receipt.is_not_found:
            cause = f"{'xAI' if real else 'the emulator'} has no cancel"
            return f"Request {receipt.request_id} goes on{paid}, since {cause}. {again}"
        case "done":
            return f"Request {receipt.request_id} is rendered{paid}, but its video is not stored yet. {again}"
        case state:
            return f"Key {key} is {state}: {receipt.next_step}."


def main() -> None:
    """Run the flow."""
    catch_interrupts()
    run = None
    try:
        parameters = arguments()
        directory = parameters.pop("directory").expanduser().absolute()
        parameters["key"] = parameters["key"] or f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        xai = check(parameters, directory)
        run = InterruptibleRun(lambda: make(parameters, directory, xai))
        video = run.result()
    except KeyboardInterrupt:
        if run is None:
            stop_at_once()
        stop(run, parameters["key"], directory)
    except (XaiVideoError, ImportError) as error:
        sys.exit(f"\n{type(error).__name__}: {error}" if run else str(error))
    finally:
        end_at_next_interrupt()
        # The report is the last word, not the temporary server's.
        logging.getLogger("prefect").setLevel(logging.WARNING)
    report(video)


if __name__ == "__main__":
    main()
