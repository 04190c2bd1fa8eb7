"""Faults on demand: their names, how a request selects them, and how often they strike.

A prompt selects a fault by a marker, `[fault:NAME]` or `[fault:NAME*N]` for the first N times; it may contain
several. POST /emulator/faults selects one for submissions without a marker, or for calls of the Batch API. A share of
the submissions may get random ones. `fault_choice` decides on all of them. The module that builds a response
implements the effect of its faults.
"""

import math
from enum import StrEnum
from typing import Literal, Self

Stage = Literal["start", "outcome", "poll", "download", "files", "result", "batch"]
"""Where a fault strikes. The first two are counted per submitted body, `batch` per call, the others per video."""

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


def _first_listing(name: str, sentence: str) -> Entry:
    return name, "files", 1, sentence


def _first_result(name: str, sentence: str) -> Entry:
    return name, "result", 1, sentence


def _each_result(name: str, sentence: str) -> Entry:
    return name, "result", math.inf, sentence


def _batch_call(name: str, sentence: str) -> Entry:
    return name, "batch", 1, sentence


class Fault(StrEnum):
    """The table of all faults.

    Attributes:
        stage: Where it strikes.
        times: How often it strikes, unless its marker says otherwise.
        sentence: Description of its effect.
    """

    stage: Stage
    times: float
    sentence: str

    def __new__(cls, name: str, stage: Stage, times: float, sentence: str) -> Self:
        """Create a member whose value is only the name."""
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
        "The POST is refused with 429 and, as Retry-After, the date one second after the date of the response.",
    )
    START_503 = _first_start(
        "start-503", "The POST gets a 503 without Retry-After; it is not accepted, but the client can't know that."
    )
    START_503_RETRY_AFTER = _first_start(
        "start-503-retry-after", "The POST is refused with 503 and Retry-After: 1; it is not accepted."
    )
    START_CUT = _first_start("start-cut", "The connection is cut before the POST is accepted.")
    START_ACCEPTED_CUT = _first_start(
        "start-accepted-cut", "The POST is accepted and billed, and the connection is cut without a response."
    )
    START_ACCEPTED_500 = _first_start(
        "start-accepted-500", "The POST is accepted and billed, and the response is a 500 with a JSON error."
    )
    START_ACCEPTED_502 = _first_start(
        "start-accepted-502", "The POST is accepted and billed, and the response is the CDN's 502 in plain text."
    )
    START_ACCEPTED_SILENCE = _first_start(
        "start-accepted-silence",
        "The POST is accepted and billed, and there is no response until the client disconnects.",
    )
    START_ACCEPTED_UNREADABLE = _first_start(
        "start-accepted-unreadable",
        "The POST is accepted and billed, and the response is a 200 with half a JSON object.",
    )

    START_307 = _first_start(
        "start-307",
        "The POST is redirected with 307 to its own URL; it is not accepted, but the client can't know that.",
    )
    START_409 = _first_start("start-409", "The POST gets a 409; it is not accepted, but the client can't know that.")
    START_425 = _first_start("start-425", "The POST gets a 425; it is not accepted, but the client can't know that.")
    START_499 = _first_start("start-499", "The POST gets a 499; it is not accepted, but the client can't know that.")
    START_400_KEY = _first_start(
        "start-400-key",
        "The POST is refused with 400 and a message that repeats the API key, escaped in several ways.",
    )
    START_400_KEY_IN_CODE = _first_start(
        "start-400-key-in-code", "The POST is refused with 400, and its code is the API key, escaped."
    )
    START_ACCEPTED_307 = _first_start(
        "start-accepted-307", "The POST is accepted and billed, and redirected with 307 to its own URL."
    )
    START_ACCEPTED_409 = _first_start(
        "start-accepted-409", "The POST is accepted and billed, and the response is a 409 with a JSON error."
    )
    START_ACCEPTED_425 = _first_start(
        "start-accepted-425", "The POST is accepted and billed, and the response is a 425 with a JSON error."
    )
    START_ACCEPTED_499 = _first_start(
        "start-accepted-499", "The POST is accepted and billed, and the response is a 499 with a JSON error."
    )
    START_ACCEPTED_503 = _first_start(
        "start-accepted-503", "The POST is accepted and billed, and the response is a 503 without Retry-After."
    )
    START_ACCEPTED_503_RETRY_AFTER = _first_start(
        "start-accepted-503-retry-after",
        "The POST is accepted and billed, and the response is a 503 with Retry-After: 1.",
    )
    START_ACCEPTED_ID = _first_start(
        "start-accepted-id", "The POST is accepted and billed, and its response names the id `id`."
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
        "start-accepted-huge", "The POST is accepted and billed, and its response has 64 MiB after the id."
    )

    EMPTY_202 = _each_poll("empty-202", "Pending responses are 202 with an empty body.")
    PENDING_200 = _each_poll("pending-200", "Pending responses are 200 with nothing but the status.")
    NO_STATUS = _each_poll("no-status", "Done responses are those of early 2026, without status, usage and progress.")
    UNKNOWN_STATUS = _each_poll("unknown-status", "Pending responses are 200 with the undocumented status queued.")
    MODERATED = _outcome("moderated", "Moderation rejects the video after the render: polls get a 400; it is billed.")
    MODERATED_OLD_CODE = _outcome(
        "moderated-old-code", "Moderation rejects the video with 400 and the code from before mid-2026; it is billed."
    )
    MODERATED_DONE = _outcome(
        "moderated-done",
        "Moderation withholds the video: the status is done, with respect_moderation false and no URL; it is billed.",
    )
    MODERATED_FAILED = _outcome(
        "moderated-failed",
        "Moderation rejects the video: failed with the code invalid_argument and a moderation message; it is billed.",
    )
    DONE_WITHOUT_URL = _each_poll("done-without-url", "Done responses have no URL.")
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
        "The render ends as failed, and its error is a string instead of an object; it is not billed.",
    )
    FAILED_KEY = _outcome(
        "failed-key",
        "The render ends as failed with a code and a message that repeat the API key, escaped; it is not billed.",
    )
    FAILED_SIGNED_URL = _outcome(
        "failed-signed-url",
        "The render ends as failed with a message that repeats a signed URL, escaped; it is not billed.",
    )
    EXPIRED = _outcome("expired", "The video has expired as soon as it is rendered; it is billed.")
    PUBLIC_URL_ONLY = _each_poll(
        "public-url-only", "Done responses have their URL in video.file_output.public_url only."
    )
    POLL_429 = _first_poll("poll-429", "A poll gets a 429 without Retry-After.")
    POLL_429_RETRY_AFTER = _first_poll("poll-429-retry-after", "A poll gets a 429 with Retry-After: 1.")
    POLL_500 = _first_poll("poll-500", "A poll gets a 500 with a JSON error.")
    POLL_503 = _first_poll("poll-503", "A poll gets a 503 without Retry-After.")
    POLL_404 = _first_poll("poll-404", "A poll gets a 404, as if the request were unknown.")
    POLL_404_ALWAYS = _each_poll(
        "poll-404-always", "Every poll gets a 404, as if the request were permanently unknown."
    )
    POLL_HUGE = _first_poll("poll-huge", "A poll gets a 200 with 64 MiB.")
    POLL_CUT = _first_poll("poll-cut", "The connection of a poll is cut without a response.")
    POLL_SLOW = _first_poll("poll-slow", "The response to a poll takes 3 seconds.")
    NEVER_DONE = _outcome("never-done", "The render never ends; it is billed.")
    PROGRESS_STUCK = _each_poll("progress-stuck", "The progress stays at 42 until the video is done.")
    PROGRESS_BACKWARDS = _each_poll("progress-backwards", "The progress decreases over time.")
    PROGRESS_ABSENT = _each_poll("progress-absent", "Pending responses have no progress.")
    PROGRESS_ABSURD = _each_poll("progress-absurd", "The progress in pending responses has 40 digits.")
    COST_ABSURD = _each_poll("cost-absurd", "The cost in done responses has 40 digits.")
    DURATION_ABSURD = _each_poll("duration-absurd", "The duration in done responses has 40 digits.")

    DOWNLOAD_CUT = _first_download(
        "download-cut",
        "The connection is cut after half of the bytes that Content-Length announces; the rest can be requested.",
    )
    DOWNLOAD_TRUNCATED = _first_download(
        "download-truncated",
        "Half of the bytes are announced and sent, so that the response is complete by the rules of HTTP.",
    )
    DOWNLOAD_SHORT = _first_download(
        "download-short",
        "All bytes are announced, half of them are sent, and the connection is closed normally.",
    )
    DOWNLOAD_SLOW = _first_download("download-slow", "The bytes arrive in ten chunks over 3 seconds.")
    DOWNLOAD_403 = _first_download(
        "download-403", "The URL permanently returns 403, as expired; the URL of another poll works."
    )
    DOWNLOAD_404 = _first_download("download-404", "The URL permanently returns 404; the URL of another poll works.")
    DOWNLOAD_500 = _first_download("download-500", "A download gets a 500.")
    DOWNLOAD_HTML = _first_download("download-html", "A download gets a 200 with an HTML page.")
    DOWNLOAD_RETRY_AFTER = _first_download("download-retry-after", "A download gets a 503 with Retry-After: 86400.")
    DOWNLOAD_REDIRECT_HTTP = _first_download(
        "download-redirect-http", "A download is redirected to plain http on another machine."
    )
    DOWNLOAD_REDIRECT_PRIVATE = _first_download(
        "download-redirect-private", "A download is redirected to https on a private address."
    )
    DOWNLOAD_ETAG = _first_download(
        "download-etag",
        "A download is cut halfway, and a request for the rest returns that of another file, with another ETag.",
    )
    DOWNLOAD_ENDLESS = _first_download(
        "download-endless", "The bytes of a download are followed by zeros until the client disconnects."
    )
    DOWNLOAD_TRAILING = _each_download("download-trailing", "Downloads have five zero bytes after the video.")
    DOWNLOAD_REDIRECT = _each_download(
        "download-redirect", "Downloads are redirected to another host name, from 127.0.0.1 to localhost."
    )
    DOWNLOAD_CHUNKED = _each_download("download-chunked", "Downloads have no Content-Length.")
    DOWNLOAD_NO_RANGE = _each_download("download-no-range", "Downloads have no ETag, and ranges can't be requested.")
    SIGNED_URL = _each_poll("signed-url", "The URL has a signature in its query and does not work without it.")

    UPLOAD_SKIPPED = _outcome(
        "upload-skipped", "The video is not uploaded to output.upload_url, and the done response has a regular URL."
    )
    UPLOAD_FAILED = _outcome(
        "upload-failed",
        "The upload to output.upload_url fails: failed with the code failed_precondition; it is not billed.",
    )

    STORAGE_FAILED = _outcome(
        "storage-failed", "The video is not stored in the Files API, and the done response has a storage_error."
    )
    PUBLIC_URL_FAILED = _outcome(
        "public-url-failed", "The file is stored without its public URL, and file_output has a public_url_error."
    )
    FILE_LIST_LAGS = _first_listing("file-list-lags", "The stored file is missing from a listing of files.")
    FILE_LIST_500 = _first_listing("file-list-500", "A listing of files that would name the stored file gets a 500.")

    REQUEST_UNLISTED = _first_result(
        "request-unlisted", "The request of a batch is missing from a listing of its requests."
    )
    RESULT_LATE = _first_result("result-late", "The result is missing from a reading of the batch's results.")
    RESULT_URL_EXPIRED = _first_result("result-url-expired", "The URL in the result has already expired.")
    RESULT_ERROR_BESIDE = _each_result("result-error-beside", "The error of a result is in error_message only.")
    RESULT_ERROR_OBJECT = _each_result(
        "result-error-object", "The error of a result is an object with code and message."
    )

    BATCH_CREATE_CUT = _batch_call("batch-create-cut", "The connection is cut before the batch is created.")
    BATCH_CREATE_ACCEPTED_CUT = _batch_call(
        "batch-create-accepted-cut", "The batch is created, and the connection is cut without a response."
    )
    BATCH_CREATE_ACCEPTED_500 = _batch_call(
        "batch-create-accepted-500", "The batch is created, and the response is a 500 with a JSON error."
    )
    BATCH_ADD_CUT = _batch_call("batch-add-cut", "The connection is cut before any request is added.")
    BATCH_ADD_ACCEPTED_CUT = _batch_call(
        "batch-add-accepted-cut", "All requests are added, and the connection is cut without a response."
    )
    BATCH_ADD_ACCEPTED_500 = _batch_call(
        "batch-add-accepted-500", "All requests are added, and the response is a 500 with a JSON error."
    )
    BATCH_ADD_PART_CUT = _batch_call(
        "batch-add-part-cut", "The first half of the requests is added, and the connection is cut without a response."
    )
    BATCH_ADD_LATE_LISTING = _batch_call(
        "batch-add-late-listing",
        "The connection is cut, and the requests are added only after the next listing of the batch's requests.",
    )
    BATCH_ADD_LATE_SECONDS = _batch_call(
        "batch-add-late-seconds", "The connection is cut, and the requests are added only 3 seconds later."
    )
    BATCH_CANCELLED_BY_XAI = _batch_call(
        "batch-cancelled-by-xai", "The batch is cancelled by xAI just after requests are added, with a message."
    )
    BATCH_COUNTERS_LAG = _batch_call(
        "batch-counters-lag", "The counters of a batch are those of the last time it was read, at first all 0."
    )
    BATCH_REQUESTS_LAG = _batch_call(
        "batch-requests-lag", "The newer half of the requests is missing from a listing of a batch's requests."
    )
    BATCH_RESULTS_LAG = _batch_call(
        "batch-results-lag", "The newer half of the results is missing from a reading of a batch's results."
    )
    BATCH_RESULTS_REVERSED = _batch_call(
        "batch-results-reversed", "A page of results is in the order opposite to that in which they were finished."
    )
    BATCH_PAGE_REPEATED = _batch_call(
        "batch-page-repeated", "The second or a later page of requests or results is the page before it once more."
    )
    BATCH_GET_500 = _batch_call(
        "batch-get-500", "A GET of batches, or of the requests or results of one, gets a 500."
    )


NOT_INJECTED = frozenset(
    {
        # They leave a video without an end: it only ends at the client's own deadline, minutes or hours later.
        Fault.NEVER_DONE,
        Fault.POLL_404_ALWAYS,
        # It goes on until the client's size limit, which may be half a gigabyte.
        Fault.DOWNLOAD_ENDLESS,
        # They say that the key is wrong, at which a client rightly stops all its work.
        Fault.START_400_KEY,
        Fault.START_400_KEY_IN_CODE,
        # They need an upload URL, and have no effect without one.
        Fault.UPLOAD_SKIPPED,
        Fault.UPLOAD_FAILED,
        # They need storage options, and have no effect without them.
        Fault.STORAGE_FAILED,
        Fault.PUBLIC_URL_FAILED,
        Fault.FILE_LIST_LAGS,
        Fault.FILE_LIST_500,
        # They need a batch, and have no effect on other submissions.
        *(fault for fault in Fault if fault.stage in ("result", "batch")),
    }
)
"""Faults that are never injected at random. START_ACCEPTED_SILENCE may be: it ends with the time-out of a POST."""

INJECTED = tuple(fault for fault in Fault if fault not in NOT_INJECTED)
"""Faults that may be injected at random."""
