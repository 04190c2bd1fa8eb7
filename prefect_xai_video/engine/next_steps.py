"""The next step for each state of a receipt, for errors, artifacts, notifications and the command line."""

from collections.abc import Mapping

from prefect_xai_video.engine.attempts import (
    ReceiptState,
)

NEXT_STEP: Mapping[ReceiptState, str] = {
    "sending": "a run is sending the request: wait for it; if that run has died, run again with this key",
    "submitted": "run again with this key: that continues waiting, without paying again",
    "done": "run again with this key: that downloads the video, without paying again",
    "stored": "nothing to do",
    "refused": "nothing was paid; run again with this key to send the request",
    "unknown": (
        "look for the request in the xAI console: if it is there, adopt its request id (flow collect-video, or "
        "xai-video adopt); if not, run again with this key and On unknown outcome (on_unknown) set to resubmit"
    ),
    "failed": "run again with this key and regenerate switched on: that pays for a new attempt",
    "moderated": "run again with this key, another prompt and regenerate switched on: that pays for a new attempt",
    "expired": "run again with this key and regenerate switched on: that pays for a new attempt",
}
"""Next step by state, worded for forms, code and the command line alike."""

FIND_STEP = (
    f"run again with this key: that looks for the video, without paying again; if it does not appear, "
    f"{NEXT_STEP['unknown']}"
)
"""Next step for a submission of unknown outcome whose video may be found in the store or in xAI's Files API."""

NOT_FOUND_STEP = (
    "run again with this key and the credentials that sent the request; if xAI still does not know the request id, "
    "run again with regenerate switched on: that gives the request up and pays for a new attempt"
)
"""Next step for a request id that xAI does not know."""
