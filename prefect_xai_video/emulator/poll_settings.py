"""Poll settings that match the emulator's render time, so that this process polls it like xAI."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_PREFIX = "PREFECT_INTEGRATIONS_XAI_VIDEO_"
_USUAL_RENDER_SECONDS = 40
_USUAL = {"FIRST_POLL_SECONDS": 18.0, "POLL_MIN_SECONDS": 1.0, "POLL_MAX_SECONDS": 20.0}
"""Defaults of these settings, in seconds; they match a usual render at xAI."""

_SHORTEST = 0.1


def fitting_polls(render_seconds: float) -> dict[str, str]:
    """Return the poll settings as environment variables.

    Args:
        render_seconds: Shortest duration of a render, in seconds. The settings are scaled to it, down to 0.1 s.
    """
    share = min(render_seconds / _USUAL_RENDER_SECONDS, 1)
    return {f"{_PREFIX}{name}": str(max(usual * share, _SHORTEST)) for name, usual in _USUAL.items()}


@contextmanager
def poll_settings(render_seconds: float) -> Iterator[None]:
    """Set the poll settings in the environment during the block, unless one of them is already set."""
    fitting = fitting_polls(render_seconds)
    if fitting.keys() & os.environ.keys():
        yield
        return
    os.environ.update(fitting)
    try:
        yield
    finally:
        for name in fitting:
            os.environ.pop(name, None)
