"""Checks the requests of a batch.

A call is refused as a whole if a request has the wrong shape or a model that is not enabled for batches. It is not
documented when other values are checked. Here such a request is added, fails, and costs nothing, so that a client has
to cope with that. In a file, on the other hand, one bad line is known to cancel the whole batch.
"""

from dataclasses import dataclass
from uuid import uuid4

from prefect_xai_video.api.capabilities import DEFAULT_MODEL, Mode, capabilities_of
from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.batches.bodies import BatchRequestBody, EntryBody, VideoGenerationBody
from prefect_xai_video.emulator.bodies import EditBody, ExtensionBody, GenerationBody, SubmissionBody
from prefect_xai_video.emulator.inputs import RenderFailed
from prefect_xai_video.emulator.validation import (
    AcceptedRequest,
    accept_edit,
    accept_extension,
    accept_generation,
)

NOT_ENABLED = frozenset({"grok-imagine-video-1.5-lite"})
"""Models that refuse batches. Sources disagree on which do; one that nobody names as enabled is refused here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request of a batch that was checked.

    Attributes:
        batch_request_id: Its id.
        body: Its body.
        request: The request.
        failure: Why it fails without being rendered.
    """

    batch_request_id: str
    body: SubmissionBody
    request: AcceptedRequest
    failure: RenderFailed | None = None


def entry_of(given: EntryBody) -> Entry:
    """Check one request of a call.

    Raises:
        Refused: 400, 404 or 422 if the whole call has to be refused.
    """
    # xAI gives an id to a request that has none.
    batch_request_id = str(uuid4()) if given.batch_request_id is None else given.batch_request_id
    if not batch_request_id.strip():
        raise refusals.invalid_argument("batch_request_id cannot be empty.")
    body = _body_of(given.batch_request)
    try:
        return Entry(batch_request_id, body, accepted(body))
    except refusals.Refused as refused:
        request = AcceptedRequest(mode=_mode_of(body), model=_model_of(body), prompt=body.prompt or "")
        return Entry(batch_request_id, body, request, RenderFailed(refused.problem))


def accepted(body: SubmissionBody) -> AcceptedRequest:
    """Check a body as the endpoint of its kind does.

    Raises:
        Refused: 400 or 404 if it is not valid.
    """
    match body:
        case EditBody():
            return accept_edit(body)
        case ExtensionBody():
            return accept_extension(body)
        case GenerationBody():
            return accept_generation(body)
        case _:
            raise TypeError(type(body))


def check_model(body: SubmissionBody) -> None:
    """Check that the model of a request may be used in batches.

    Raises:
        Refused: 404 if it does not exist, 400 if it is not enabled.
    """
    model = _model_of(body)
    if capabilities_of(model) is None:
        raise refusals.unknown_model(model)
    if model in NOT_ENABLED:
        raise refusals.invalid_argument(f"Model {model} is not supported for batch processing.")


def _body_of(given: BatchRequestBody) -> SubmissionBody:
    generation = given.video_generation and _generation_or_edit(given.video_generation)
    body = generation or given.video_extension
    if body is None or (generation and given.video_extension):
        raise refusals.undeserializable("batch_request: expected one of `video_generation`, `video_extension`")
    check_model(body)
    return body


def _generation_or_edit(given: VideoGenerationBody) -> SubmissionBody:
    if given.video is None:
        return given
    return EditBody(
        model=given.model,
        prompt=given.prompt or "",
        video=given.video,
        output=given.output,
        storage_options=given.storage_options,
        user=given.user,
    )


def _model_of(body: SubmissionBody) -> str:
    return DEFAULT_MODEL if body.model is None else body.model


def _mode_of(body: SubmissionBody) -> Mode:
    match body:
        case EditBody():
            return "edit"
        case ExtensionBody():
            return "extend"
        case _:
            return "text"
