"""What can go wrong on demand: the names of all faults, how a request chooses some, and how often they happen.

A prompt chooses a fault by a marker, `[fault:NAME]` or `[fault:NAME*N]` for the first N times; it may have several.
POST /emulator/faults chooses one for submissions without a marker. What a fault does to an answer is the business
of the module that makes the answer.
"""

import hashlib
import math
import re
from collections import deque
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Literal, NamedTuple, Self

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.bodies import SubmissionBody

Stage = Literal["start", "outcome", "poll", "download"]
"""Where a fault happens. The first two are counted for each body that is sent, the others for each video."""

Entry = tuple[str, Stage, float, str]


def _first_start(name: str, sentence: str) -> Entry:
    return name, "start", 1, sentence


def _outcome(name: str, sentence: str) -> Entry:
    return name, "outcome", math.inf, sentence


def _first_poll(name: str, sentence: str) -> Entry:
    return name, "poll", 1, sentence


def _each_poll(name: str, sentence: str) -> Entry:
    return name, "poll", math.inf, sentence


def _first_download(name: str, sentence: str) -> Entry:
    return name, "download", 1, sentence


def _each_download(name: str, sentence: str) -> Entry:
    return name, "download", math.inf, sentence


class Fault(StrEnum):
    """The table of all faults.

    Attributes:
        stage: Where it happens.
        times: How often it happens where its marker does not say.
        sentence: What happens.
    """

    stage: Stage
    times: float
    sentence: str

    def __new__(cls, name: str, stage: Stage, times: float, sentence: str) -> Self:
        """Make a member whose value is the name alone."""
        fault = str.__new__(cls, name)
        fault._value_ = name
        fault.stage, fault.times, fault.sentence = stage, times, sentence
        return fault

    START_429 = _first_start("start-429", "The POST is refused with 429 without Retry-After; it is not accepted.")
    START_429_RETRY_AFTER = _first_start(
        "start-429-retry-after", "The POST is refused with 429 and Retry-After: 1; it is not accepted."
    )
    START_429_DATE = _first_start(
        "start-429-date",
        "The POST is refused with 429 and, as Retry-After, the date one second after that of the answer.",
    )
    START_503 = _first_start(
        "start-503", "The POST is answered with 503 without Retry-After; it is not accepted, but nobody can know."
    )
    START_503_RETRY_AFTER = _first_start(
        "start-503-retry-after", "The POST is refused with 503 and Retry-After: 1; it is not accepted."
    )
    START_CUT = _first_start("start-cut", "The connection is cut before the POST is accepted.")
    START_ACCEPTED_CUT = _first_start(
        "start-accepted-cut", "The POST is accepted and billed, and the connection is cut without an answer."
    )
    START_ACCEPTED_500 = _first_start(
        "start-accepted-500", "The POST is accepted and billed, and answered with 500 and a JSON error."
    )
    START_ACCEPTED_502 = _first_start(
        "start-accepted-502", "The POST is accepted and billed, and answered with the plain text of a 502 of the CDN."
    )
    START_ACCEPTED_SILENCE = _first_start(
        "start-accepted-silence", "The POST is accepted and billed, and not answered until the client goes away."
    )
    START_ACCEPTED_UNREADABLE = _first_start(
        "start-accepted-unreadable", "The POST is accepted and billed, and answered with 200 and half a JSON object."
    )

    START_307 = _first_start(
        "start-307", "The POST is redirected with 307 to its own URL; it is not accepted, but nobody can know."
    )
    START_409 = _first_start("start-409", "The POST is answered with 409; it is not accepted, but nobody can know.")
    START_425 = _first_start("start-425", "The POST is answered with 425; it is not accepted, but nobody can know.")
    START_499 = _first_start("start-499", "The POST is answered with 499; it is not accepted, but nobody can know.")
    START_400_KEY = _first_start(
        "start-400-key", "The POST is refused with 400 and a text that repeats the API key, escaped in several ways."
    )
    START_400_KEY_IN_CODE = _first_start(
        "start-400-key-in-code", "The POST is refused with 400, and its code is the API key, escaped."
    )
    START_ACCEPTED_307 = _first_start(
        "start-accepted-307", "The POST is accepted and billed, and redirected with 307 to its own URL."
    )
    START_ACCEPTED_409 = _first_start(
        "start-accepted-409", "The POST is accepted and billed, and answered with 409 and a JSON error."
    )
    START_ACCEPTED_425 = _first_start(
        "start-accepted-425", "The POST is accepted and billed, and answered with 425 and a JSON error."
    )
    START_ACCEPTED_499 = _first_start(
        "start-accepted-499", "The POST is accepted and billed, and answered with 499 and a JSON error."
    )
    START_ACCEPTED_503 = _first_start(
        "start-accepted-503", "The POST is accepted and billed, and answered with 503 without Retry-After."
    )
    START_ACCEPTED_503_RETRY_AFTER = _first_start(
        "start-accepted-503-retry-after", "The POST is accepted and billed, and answered with 503 and Retry-After: 1."
    )
    START_ACCEPTED_ID = _first_start(
        "start-accepted-id", "The POST is accepted and billed, and its response has the id under id."
    )
    START_ACCEPTED_NUMBER = _first_start(
        "start-accepted-number", "The POST is accepted and billed, and the id in its response is a number."
    )
    START_ACCEPTED_NESTED = _first_start(
        "start-accepted-nested", "The POST is accepted and billed, and its response has the id one level deeper."
    )
    START_ACCEPTED_CUT_AFTER_ID = _first_start(
        "start-accepted-cut-after-id",
        "The POST is accepted and billed, and the connection is cut after the last character of the id.",
    )
    START_ACCEPTED_HUGE = _first_start(
        "start-accepted-huge", "The POST is accepted and billed, and its response has 64 MiB behind the id."
    )

    EMPTY_202 = _each_poll("empty-202", "Pending answers are 202 with an empty body.")
    PENDING_200 = _each_poll("pending-200", "Pending answers are 200 with nothing but the status.")
    NO_STATUS = _each_poll("no-status", "Done answers are those of early 2026, without status, usage and progress.")
    UNKNOWN_STATUS = _each_poll(
        "unknown-status", "Pending answers are 200 with the status queued, which nobody knows."
    )
    MODERATED = _outcome(
        "moderated", "Moderation rejects the video once it is rendered: polls are answered with 400; it is billed."
    )
    MODERATED_OLD_CODE = _outcome(
        "moderated-old-code", "Moderation rejects the video with 400 and the code from before mid-2026; it is billed."
    )
    MODERATED_DONE = _outcome(
        "moderated-done",
        "Moderation withholds the video: the answer is done with respect_moderation false and no URL; it is billed.",
    )
    MODERATED_FAILED = _outcome(
        "moderated-failed",
        "Moderation rejects the video: failed with the code invalid_argument and a text that says so; it is billed.",
    )
    DONE_WITHOUT_URL = _each_poll("done-without-url", "Done answers have no URL.")
    FAILED_INVALID_ARGUMENT = _outcome(
        "failed-invalid-argument", "The render ends as failed with the code invalid_argument; it is not billed."
    )
    FAILED_PERMISSION_DENIED = _outcome(
        "failed-permission-denied", "The render ends as failed with the code permission_denied; it is not billed."
    )
    FAILED_FAILED_PRECONDITION = _outcome(
        "failed-failed-precondition", "The render ends as failed with the code failed_precondition; it is not billed."
    )
    FAILED_SERVICE_UNAVAILABLE = _outcome(
        "failed-service-unavailable", "The render ends as failed with the code service_unavailable; it is not billed."
    )
    FAILED_INTERNAL_ERROR = _outcome(
        "failed-internal-error", "The render ends as failed with the code internal_error; it is not billed."
    )
    FAILED_STRING_ERROR = _outcome(
        "failed-string-error",
        "The render ends as failed, and its error is a text instead of an object; it is not billed.",
    )
    FAILED_KEY = _outcome(
        "failed-key",
        "The render ends as failed with a code and a text that repeat the API key, escaped; it is not billed.",
    )
    FAILED_SIGNED_URL = _outcome(
        "failed-signed-url",
        "The render ends as failed with a text that repeats a signed URL, escaped; it is not billed.",
    )
    EXPIRED = _outcome("expired", "The video has expired by the time that it is rendered; it is billed.")
    PUBLIC_URL_ONLY = _each_poll(
        "public-url-only", "Done answers have their URL in video.file_output.public_url only."
    )
    POLL_429 = _first_poll("poll-429", "A poll is answered with 429 without Retry-After.")
    POLL_429_RETRY_AFTER = _first_poll("poll-429-retry-after", "A poll is answered with 429 and Retry-After: 1.")
    POLL_500 = _first_poll("poll-500", "A poll is answered with 500 and a JSON error.")
    POLL_503 = _first_poll("poll-503", "A poll is answered with 503 without Retry-After.")
    POLL_404 = _first_poll("poll-404", "A poll is answered with 404, as if the request were unknown.")
    POLL_404_ALWAYS = _each_poll(
        "poll-404-always", "Each poll is answered with 404, as if the request were unknown for good."
    )
    POLL_HUGE = _first_poll("poll-huge", "A poll is answered with 200 and 64 MiB.")
    POLL_CUT = _first_poll("poll-cut", "The connection of a poll is cut without an answer.")
    POLL_SLOW = _first_poll("poll-slow", "A poll is answered after 3 seconds.")
    NEVER_DONE = _outcome("never-done", "The render never ends; it is billed.")
    PROGRESS_STUCK = _each_poll("progress-stuck", "The progress stays at 42 until the video is done.")
    PROGRESS_BACKWARDS = _each_poll("progress-backwards", "The progress falls as time goes on.")
    PROGRESS_ABSENT = _each_poll("progress-absent", "Pending answers have no progress.")
    PROGRESS_ABSURD = _each_poll("progress-absurd", "The progress of pending answers has 40 digits.")
    COST_ABSURD = _each_poll("cost-absurd", "The cost in done answers has 40 digits.")
    DURATION_ABSURD = _each_poll("duration-absurd", "The duration in done answers has 40 digits.")

    DOWNLOAD_CUT = _first_download(
        "download-cut",
        "The connection is cut after half of the bytes that Content-Length announces; the rest can be asked for.",
    )
    DOWNLOAD_TRUNCATED = _first_download(
        "download-truncated",
        "Half of the bytes are sent and announced, so that they are whole as far as HTTP can tell.",
    )
    DOWNLOAD_SHORT = _first_download(
        "download-short",
        "All bytes are announced and half of them sent, and the connection is closed as if that were all.",
    )
    DOWNLOAD_SLOW = _first_download("download-slow", "The bytes come in ten pieces over 3 seconds.")
    DOWNLOAD_403 = _first_download(
        "download-403", "The URL has expired, 403, for good; the URL of another poll works."
    )
    DOWNLOAD_404 = _first_download(
        "download-404", "The URL is not found, 404, for good; the URL of another poll works."
    )
    DOWNLOAD_500 = _first_download("download-500", "A download is answered with 500.")
    DOWNLOAD_HTML = _first_download("download-html", "A download is answered with 200 and an HTML page.")
    DOWNLOAD_RETRY_AFTER = _first_download(
        "download-retry-after", "A download is answered with 503 and Retry-After: 86400."
    )
    DOWNLOAD_REDIRECT_HTTP = _first_download(
        "download-redirect-http", "A download is redirected to plain http on another machine."
    )
    DOWNLOAD_REDIRECT_PRIVATE = _first_download(
        "download-redirect-private", "A download is redirected to https on a private address."
    )
    DOWNLOAD_ETAG = _first_download(
        "download-etag",
        "A download is cut halfway, and whoever asks for the rest gets that of another file, with another ETag.",
    )
    DOWNLOAD_ENDLESS = _first_download(
        "download-endless", "The bytes of a download are followed by zeros until the client goes away."
    )
    DOWNLOAD_TRAILING = _each_download("download-trailing", "Downloads have five zeros behind the video.")
    DOWNLOAD_REDIRECT = _each_download(
        "download-redirect", "Downloads are redirected to another host name, from 127.0.0.1 to localhost."
    )
    DOWNLOAD_CHUNKED = _each_download("download-chunked", "Downloads have no Content-Length.")
    DOWNLOAD_NO_RANGE = _each_download("download-no-range", "Downloads have no ETag, and parts can't be asked for.")
    SIGNED_URL = _each_poll("signed-url", "The URL carries a signature in its query, without which it does not work.")

    UPLOAD_SKIPPED = _outcome(
        "upload-skipped", "The video is not put to output.upload_url, and the done answer has a URL of its own."
    )
    UPLOAD_FAILED = _outcome(
        "upload-failed",
        "The video can't be put to output.upload_url: failed with the code failed_precondition; it is not billed.",
    )


class Marker(NamedTuple):
    """A fault that was asked for, and how often it is to happen."""

    fault: Fault
    times: float


class ChosenFaults:
    """The faults of one request, in the order in which they were chosen, and how often each may still happen."""

    def __init__(self, markers: Iterable[Marker] = ()) -> None:
        self._left: dict[Fault, float] = {}
        for fault, times in markers:
            self._left[fault] = self._left.get(fault, 0) + times

    def __contains__(self, fault: Fault) -> bool:
        return fault in self._left

    @property
    def left(self) -> dict[Fault, float]:
        """How often each may still happen."""
        return dict(self._left)

    @property
    def names(self) -> list[str]:
        """The names of all, whether they have happened or not."""
        return [fault.value for fault in self._left]

    def strike(self, *faults: Fault) -> bool:
        """Whether one of some faults is to happen now, which counts as one time."""
        return self.strike_of(faults) is not None

    def strike_of(self, faults: Collection[Fault]) -> Fault | None:
        """The first of some faults that is to happen now, which counts as one time."""
        for fault, left in self._left.items():
            if left > 0 and fault in faults:
                self._left[fault] -= 1
                return fault
        return None

    def of_new_video(self) -> "ChosenFaults":
        """The faults of a video that is made of the request: its outcome is struck now, the others are to come."""
        markers = [
            Marker(fault, left)
            for fault, left in self._left.items()
            if fault.stage in ("poll", "download") or (fault.stage == "outcome" and self.strike(fault))
        ]
        return ChosenFaults(markers)


class FaultChoice:
    """Which faults each submission has."""

    def __init__(self) -> None:
        self._of_body: dict[bytes, ChosenFaults] = {}
        self._for_next: deque[Marker] = deque()

    def for_next(self, fault: str, submissions: int) -> None:
        """Choose a fault, written as in a marker, for the next submissions that have no marker.

        Raises:
            Refused: 400 if there is no such fault.
        """
        self._for_next.extend([_marker(fault)] * submissions)

    def of(self, body: SubmissionBody) -> ChosenFaults:
        """The faults of a submission; for a body that has been sent before, with what is left of them.

        Raises:
            Refused: 400 if it has a marker with an unknown fault.
        """
        markers = _markers(body.prompt or "")
        if markers:
            return self._of_body.setdefault(_digest(body), ChosenFaults(markers))
        return ChosenFaults([self._for_next.popleft()] if self._for_next else [])


# What merely resembles a marker is one, and refused: a test with a misspelled one must not pass by accident.
_MARKER = re.compile(r"\[\s*fault\s*:([^\]]*)(\]?)", re.IGNORECASE)
_FAULT = re.compile(r"(?P<name>[a-z0-9-]+)(?:\*(?P<times>[1-9][0-9]{0,8}))?")
_NAMED = {fault.value: fault for fault in Fault}


def _markers(prompt: str) -> list[Marker]:
    return [_marker(text if closed else f"{text} without ]") for text, closed in _MARKER.findall(prompt)]


def _marker(text: str) -> Marker:
    match = _FAULT.fullmatch(text)
    fault = _NAMED.get(match["name"]) if match else None
    if match is None or fault is None:
        raise refusals.invalid_argument(f'unknown fault "{text[:64]}"; GET /emulator/faults lists all')
    return Marker(fault, float(match["times"]) if match["times"] else fault.times)


def _digest(body: SubmissionBody) -> bytes:
    """What makes two submissions the same: all but the upload URL, whose signature changes."""
    return hashlib.sha256(body.model_copy(update={"output": None}).model_dump_json().encode()).digest()
