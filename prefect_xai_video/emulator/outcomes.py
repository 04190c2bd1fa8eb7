"""What becomes of a video that could be rendered: done, unless a fault is chosen."""

from collections.abc import Mapping

from prefect_xai_video.emulator.echoes import signed_url_repeated
from prefect_xai_video.emulator.faults import ChosenFaults, Fault
from prefect_xai_video.emulator.inputs import ErrorCode, RenderFailed
from prefect_xai_video.emulator.videos import Outcome


def outcome_of(faults: ChosenFaults) -> Outcome:
    """Tell how a render ends; as pending, if it never does.

    Raises:
        RenderFailed: If it ends as failed.
    """
    for fault, (code, message) in _FAILURES.items():
        if fault in faults:
            raise RenderFailed(message, code)
    return next((outcome for fault, outcome in _OUTCOMES.items() if fault in faults), "done")


def check_upload(faults: ChosenFaults) -> None:
    """Let the upload of a video fail, if that is chosen.

    Raises:
        RenderFailed: If it fails.
    """
    if Fault.UPLOAD_FAILED in faults:
        raise RenderFailed("The upload URL answered with HTTP status 403.", "failed_precondition")


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
    # The key is known once somebody polls.
    Fault.FAILED_KEY: ("permission_denied", "Incorrect API key provided."),
    Fault.FAILED_SIGNED_URL: ("failed_precondition", signed_url_repeated()),
}
