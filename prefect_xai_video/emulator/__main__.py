"""The command line: `python -m prefect_xai_video.emulator`."""

import argparse
import signal
import sys
import threading
from decimal import Decimal
from pathlib import Path

from prefect_xai_video.emulator.server import Emulator


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m prefect_xai_video.emulator",
        description="Serve xAI's video API on this machine. The first line printed is the base URL.",
    )
    parser.add_argument("--port", type=int, default=0, help="port on loopback (default: a free one)")
    parser.add_argument("--render-seconds", type=float, default=4, help="how long a render takes (default: 4)")
    parser.add_argument("--log", type=Path, help="file to which each request is added as a JSON line")
    parser.add_argument("--api-key", help="the only key that is accepted (default: any)")
    parser.add_argument("--url-ttl-seconds", type=float, default=3600, help="life of result URLs (default: 3600)")
    parser.add_argument("--credits", type=Decimal, help="USD after which submissions are denied (default: no limit)")
    parser.add_argument("--requests-per-second", type=int, help="rate limit, polls included (default: none)")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    chosen = arguments()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with Emulator(
            port=chosen.port,
            render_seconds=chosen.render_seconds,
            log=chosen.log,
            api_key=chosen.api_key,
            url_ttl_seconds=chosen.url_ttl_seconds,
            credits_usd=chosen.credits,
            requests_per_second=chosen.requests_per_second,
        ) as emulator:
            sys.stdout.write(f"{emulator.base_url}\n")
            sys.stdout.flush()
            stop.wait()
    except (ImportError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
