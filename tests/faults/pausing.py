"""Stops the process that imports it at one point of the package, for a test to kill it there or to let it go on.

`PAUSE_AT` names the point and `PAUSE_MARKER` a file. At the point the process writes its id into that file, and goes
on only once there is a file `<marker>.go`. A process that finds the marker is the one that comes after: it is not
stopped, and takes the claims that were left behind for old after a second.
"""

import http.client
import os
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import httpx

from prefect_xai_video import XaiVideoClient, agenerate_video
from prefect_xai_video.api.download import PartialDownload
from prefect_xai_video.engine import journal, posting
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.saving import Saving
from prefect_xai_video.errors import StorageError

__all__ = ["agenerate_video", "arm"]


def arm() -> None:
    marker = os.environ.get("PAUSE_MARKER")
    if marker is None:
        return
    if Path(marker).exists():
        journal.CLAIM_SECONDS = 1
        journal.CLAIM_WAIT_SECONDS = 0.1
    else:
        POINTS[os.environ["PAUSE_AT"]]()


def pause() -> None:
    marker = Path(os.environ["PAUSE_MARKER"])
    written = marker.with_suffix(".written")
    written.write_text(str(os.getpid()))
    written.rename(marker)
    while not marker.with_suffix(".go").exists():
        time.sleep(0.02)


def before(owner, name):
    original = getattr(owner, name)

    def paused(*args, **kwargs):
        pause()
        return original(*args, **kwargs)

    setattr(owner, name, paused)


def after(owner, name):
    original = getattr(owner, name)

    def paused(*args, **kwargs):
        result = original(*args, **kwargs)
        pause()
        return result

    setattr(owner, name, paused)


def standing_still():
    """The key is claimed, and nothing is sent until the claim is too old for that."""
    submit = XaiVideoClient.submit

    def late(*args, before_send, **options):
        pause()
        XaiVideoClient.submit = submit
        with mock.patch.object(posting, "SEND_SECONDS", 0.5):
            until_it_is_too_old(before_send)
            return submit(*args, before_send=before_send, **options)

    XaiVideoClient.submit = late


def until_it_is_too_old(check):
    with suppress(StorageError):
        while True:
            check()
            time.sleep(0.02)


def while_posting():
    """The whole request is sent, and nothing of its reply is read."""
    stream = httpx.Client.stream

    def paused(*args, extensions, **kwargs):
        def trace(event, info):
            extensions["trace"](event, info)
            if event == "http11.receive_response_headers.started":
                pause()

        return stream(*args, **kwargs, extensions={"trace": trace})

    httpx.Client.stream = paused


def while_downloading():
    """A part of the video is in the file."""
    write = PartialDownload.write

    def write_half(self, piece):
        write(self, piece[: len(piece) // 2])
        self._file.flush()
        pause()

    PartialDownload.write = write_half


def while_uploading():
    """Half of the video is on its way to the S3 server."""
    send = http.client.HTTPConnection.send

    def send_half(self, data):
        if isinstance(data, bytes) and b"ftyp" in data[:64]:
            send(self, data[: len(data) // 2])
            pause()
        send(self, data)

    http.client.HTTPConnection.send = send_half


POINTS = {
    "unclaimed": lambda: before(Journal, "create"),
    "claimed": standing_still,
    "posting": while_posting,
    "answered": lambda: after(XaiVideoClient, "submit"),
    "waiting": lambda: before(XaiVideoClient, "get"),
    "downloading": while_downloading,
    "uploading": while_uploading,
    "saved": lambda: before(Saving, "_note_stored"),
}

arm()
