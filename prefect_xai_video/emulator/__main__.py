"""The command line: `python -m prefect_xai_video.emulator`."""

import argparse
import signal
import threading
from decimal import Decimal, InvalidOperation
from pathlib import Path

from prefect_xai_video.emulator.server import Emulator


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    options = _parser().parse_args()
    emulator = Emulator(
        render_seconds=options.render_seconds,
        api_key=options.api_key,
        team=options.team,
        url_ttl_seconds=options.url_ttl_seconds,
        credits_usd=options.credits,
        requests_per_second=options.requests_per_second,
        log=options.log,
        port=options.port,
        state=options.state,
        clock_ahead_seconds=options.clock_ahead_seconds,
    )
    try:
        with emulator:
            print(emulator.base_url, flush=True)
            stop.wait()
    except (ImportError, OSError, OverflowError) as error:
        raise SystemExit(f"emulator: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefect_xai_video.emulator",
        description="A local stand-in for the xAI video API. Prints its base URL and serves until it is stopped; "
        "GET /emulator/ledger tells what xAI would have billed.",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one (default: 0)")
    parser.add_argument(
        "--render-seconds",
        type=float,
        default=4,
        metavar="S",
        help="how long a render takes at least (default: 4)",
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="append each request to this file as one line of JSON"
    )
    parser.add_argument("--api-key", metavar="KEY", help="accept this key only (default: any that is not empty)")
    parser.add_argument(
        "--team",
        default="emulator",
        metavar="ID",
        help="id of the team that all keys belong to (default: emulator)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIRECTORY",
        help="keep requests and videos there, so that a later emulator goes on with them (default: they end with it)",
    )
    parser.add_argument(
        "--url-ttl-seconds",
        type=float,
        default=3600,
        metavar="S",
        help="how long the URL of a finished video lives (default: 3600)",
    )
    parser.add_argument(
        "--credits",
        type=_usd,
        metavar="USD",
        help="refuse with 403 what would bill more than this in all (default: no limit)",
    )
    parser.add_argument(
        "--requests-per-second",
        type=int,
        metavar="N",
        help="refuse with 429 submissions and polls beyond this rate (default: no limit)",
    )
    parser.add_argument(
        "--clock-ahead-seconds",
        type=float,
        default=0,
        metavar="S",
        help="how far its wall clock runs ahead of this machine's (default: 0)",
    )
    return parser


def _usd(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount") from None


if __name__ == "__main__":
    main()
