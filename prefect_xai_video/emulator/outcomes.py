"""The outcome of a video that could be rendered: done, unless a fault is selected."""

from collections.abc import Mapping

from prefect_xai_video.emulator.chosen_faults import ChosenFaults
from prefect_xai_video.emulator.echoes import signed_url_repeated
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.inputs import ErrorCode, RenderFailed
from prefect_xai_video.emulator.videos import Outcome


def outcome_of(faults: ChosenFaults) -> Outcome:
    """Return the outcome of a render; `pending` if it never ends.

    Raises:
        RenderFailed: If the outcome is `failed`.
    """
    for fault, (code, message) in _FAILURES.items():
        if fault in faults:
            raise RenderFailed(message, code)
    return next((outcome for fault, outcome in _OUTCOMES.items() if fault in faults), "done")


def check_upload(faults: ChosenFaults) -> None:
    """Fail the upload of a video if that fault is selected.

    Raises:
        RenderFailed: If it is.
    """
    if Fault.UPLOAD_FAILED in faults:
        raise RenderFailed("The upload URL returned HTTP status 403.", "failed_precondition")


_OUTCOMES: Mapping[Fault, Outcome] = {
    Fault.NEVER_DONE: "pending",
    Fault.MODERATED: "moderated",
    Fault.MODERATED_OLD_CODE: "moderated",
    Fault.MODERATED_DONE: "moderated",
    Fault.MODERATED_FAILED: "moderated",
    Fault.EXPIRED: "expired",
}

_FAILURES: Mapping[Fault, tuple[ErrorCode, str]] = {
    Fault.FAILED_INVALID_ARGUMENT: ("invalid_argument", "Prompt cannot be empty. Please provide a prompt."),
    Fault.FAILED_PERMISSION_DENIED: ("permission_denied", "Your team is not allowed to make this video."),
    Fault.FAILED_FAILED_PRECONDITION: ("failed_precondition", "The video could not be made from its inputs."),
    Fault.FAILED_SERVICE_UNAVAILABLE: ("service_unavailable", "The service is currently unavailable."),
    Fault.FAILED_INTERNAL_ERROR: ("internal_error", "Internal error."),
    Fault.FAILED_STRING_ERROR: ("internal_error", "Internal error."),
    # The API key is only known when a client polls.
    Fault.FAILED_KEY: ("permission_denied", "Incorrect API key provided."),
    Fault.FAILED_SIGNED_URL: ("failed_precondition", signed_url_repeated()),
}
