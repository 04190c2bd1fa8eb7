"""Runs a script of this package in a process of its own, with limits on memory and time.

A video comes from a server and is decoded by C code: even if that process crashes, the run that paid for the video
continues.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from prefect_xai_video.errors import not_allowed

NEEDED_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Environment variables that are passed to the process; none holds a key."""


def has_pyav() -> bool:
    """Whether PyAV, which decodes videos, is installed."""
    return importlib.util.find_spec("av") is not None


def check_pyav(field: str, what: str, otherwise: str) -> None:
    """Check that PyAV is installed, before a video is paid for that needs it.

    Args:
        field: The parameter that needs it.
        what: Its value.
        otherwise: What is allowed without PyAV.

    Raises:
        InvalidRequest: If PyAV is not installed.
    """
    if not has_pyav():
        hint = "PyAV is not installed here: install prefect-xai-video[preview]. Nothing was sent."
        raise not_allowed(field, what, otherwise, hint)


def output_of(script: str, arguments: Sequence[str], seconds: float) -> bytes:
    """Run a script in a process of its own, and return what it writes.

    Args:
        script: Its path.
        arguments: Its arguments.
        seconds: Longest time, in seconds.

    Raises:
        subprocess.SubprocessError: If it fails or takes too long.
    """
    # -P: the modules next to the script must not shadow others of the same name.
    command = [sys.executable, "-P", script, *arguments]
    env = {name: os.environ[name] for name in NEEDED_VARIABLES if name in os.environ}
    return subprocess.run(command, env=env, capture_output=True, timeout=seconds, check=True).stdout  # noqa: S603


def bound_memory(limit: int) -> None:
    """Limit the memory of this process in bytes, where the operating system supports it."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
