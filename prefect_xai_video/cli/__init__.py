"""The command `xai-video`, which `python -m prefect_xai_video` runs, too."""

import os
import signal
import sys
from typing import NoReturn, TextIO

INTERRUPTED = 130
"""Exit status of a command that was ended by Ctrl-C, as shells have it."""

PIPE_CLOSED = 141
"""Exit status of a command whose output nobody reads any more, such as `xai-video report . --json | head`."""

_TEMPORARY_SERVER = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # Its first start takes up to half a minute.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}
"""Settings of the server that Prefect starts for a run without one: no telemetry, no tracebacks."""


def main() -> None:
    """Run the command of `sys.argv`; imports come later, since they take a second or two."""
    signal.signal(signal.SIGINT, stop_at_once)
    for name, value in _TEMPORARY_SERVER.items():
        os.environ.setdefault(name, value)
    try:
        from prefect_xai_video.cli.app import run  # noqa: PLC0415

        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
        discard(sys.stdout)
        discard(sys.stderr)
    raise SystemExit(code)


def discard(stream: TextIO) -> None:
    """Discard all further output of a stream whose pipe is closed; Python flushes it once more at the end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def stop_at_once(*_: object) -> NoReturn:
    """End after Ctrl-C while nothing has begun."""
    os.write(2, b"\nStopped. Nothing was sent.\n")
    os._exit(INTERRUPTED)
