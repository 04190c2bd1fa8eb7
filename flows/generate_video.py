"""Make one video from the command line: `python flows/generate_video.py "A cat playing with a ball"`.

With XAI_API_KEY set it is made, and paid for, at xAI. Without, a local emulator stands in for xAI: it costs nothing
and draws a moving pattern in the colours of the prompt.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A run without a Prefect server of its own starts a temporary one, for the first time in up to half a minute. Keep
# its telemetry and its tracebacks out.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

from prefect.filesystems import LocalFileSystem

from prefect_xai_video import Video, XaiCredentials, generate_video
from prefect_xai_video.capabilities import dollars
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.requests import build_request, check_limits


@contextmanager
def credentials() -> Iterator[XaiCredentials]:
    """The credentials of the environment, or else those of an emulator that runs as long as the block."""
    if os.environ.get("XAI_API_KEY"):
        yield XaiCredentials.from_environment()
        return
    from prefect_xai_video.emulator import Emulator

    with Emulator(render_seconds=4) as emulator:
        print(
            f"XAI_API_KEY is not set: a local emulator at {emulator.base_url} stands in for xAI.\n"
            "Nothing is paid for, and what is drawn is a test picture, not what the prompt asks for.\n",
            flush=True,
        )
        os.environ.setdefault("PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS", "2")
        yield XaiCredentials(api_key="emulator", base_url=emulator.base_url)


def arguments() -> argparse.Namespace:
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
    parser.add_argument("--directory", type=Path, default=Path("videos"), help="default: %(default)s")
    return parser.parse_args()


def report(video: Video) -> None:
    """Say what was made and where it lies."""
    cost = "not told" if video.cost_usd is None else dollars(video.cost_usd)
    print(
        f"\nVideo     {video.uri.removeprefix('file://')}"
        f"\nDuration  {video.duration} s ({video.size / 1e6:.1f} MB)"
        f"\nCost      {cost}"
        f"\nReceipt   {video.receipt_uri.removeprefix('file://')}"
    )


def main() -> None:
    """Run the flow."""
    chosen = vars(arguments())
    try:
        # Before a server is started for it.
        check_limits(build_request(**{name: chosen[name] for name in chosen.keys() - {"key", "directory"}}))
    except XaiVideoError as error:
        sys.exit(str(error))
    storage = LocalFileSystem(basepath=chosen.pop("directory").expanduser().absolute())
    try:
        with credentials() as xai:
            video = generate_video(**chosen, storage=storage, credentials=xai)
    except (XaiVideoError, ImportError) as error:
        sys.exit(f"\n{type(error).__name__}: {error}")
    finally:
        # The report is the last word, not the temporary server's.
        logging.getLogger("prefect").setLevel(logging.WARNING)
    report(video)


if __name__ == "__main__":
    main()
