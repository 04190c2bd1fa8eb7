"""Large inputs are uploaded to xAI's Files API before a submission, instead of being sent inside it."""

import base64
import logging
from datetime import UTC, datetime, timedelta

from prefect_xai_video.api.capabilities import MAX_FILE_BYTES
from prefect_xai_video.api.files import RemoteFile, XaiFiles
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.sources import FILE_SCHEME, Input, ResolvedInput
from prefect_xai_video.api.storage_options import input_name
from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.errors import AuthenticationFailed, XaiVideoError

UPLOAD_ABOVE_BYTES = 4 * 2**20
"""Size in bytes above which an input is uploaded. xAI publishes no limit of a request; 11 MB of base64 has worked."""

INPUT_SECONDS = 24 * 3600
"""Lifetime of an uploaded input in seconds."""

MIN_LEFT_SECONDS = 6 * 3600
"""Shortest remaining lifetime in seconds of an upload that is used again; a request may wait in xAI's queue."""

_SHA256 = "sha256:"

logger = logging.getLogger(__name__)


async def with_uploads(request: VideoRequest, files: XaiFiles) -> VideoRequest:
    """Upload the large inputs of a request, unless the same content is at xAI already.

    The fingerprint of the request stays the same. An input that can't be uploaded is sent inside the request.

    Args:
        request: A request whose inputs have been resolved.
        files: The Files API.

    Raises:
        AuthenticationFailed: If xAI rejects the API key.
    """
    uploaded: dict[str, ResolvedInput] = {}
    for given in request.inputs:
        resolved = request.resolved_input(given.value)
        if given.value in uploaded or not _is_large(given, resolved):
            continue
        try:
            file = await _uploaded(resolved, files)
        except AuthenticationFailed:
            raise
        except XaiVideoError as error:
            logger.warning("%s could not be uploaded, and is sent inside the request: %s", given.field, error)
            continue
        identity = resolved.identity or resolved.url_identity
        uploaded[given.value] = ResolvedInput(f"{FILE_SCHEME}{file.id}", identity, resolved.clip)
    return request.resolved(uploaded) if uploaded else request


def _is_large(given: Input, resolved: ResolvedInput) -> bool:
    # xAI takes voices inside a request only.
    is_inline = given.kind != "audio" and resolved.url.startswith("data:")
    size = len(resolved.url) * 3 // 4
    return is_inline and UPLOAD_ABOVE_BYTES < size < MAX_FILE_BYTES


async def _uploaded(resolved: ResolvedInput, files: XaiFiles) -> RemoteFile:
    header, _, payload = resolved.url.partition(",")
    content_type = header.removeprefix("data:").partition(";")[0]
    digest = resolved.url_identity.removeprefix(_SHA256)
    name = input_name(digest, content_type.rpartition("/")[2])
    content = await run_in_thread(base64.b64decode, payload)
    # The name is only a claim: an upload may have been cut off, or anybody in the team may have used the name.
    known = await files.find(name, len(content))
    if known is not None and _lasts(known):
        return known
    return await files.upload(name, content, content_type, INPUT_SECONDS)


def _lasts(file: RemoteFile) -> bool:
    left = timedelta(seconds=MIN_LEFT_SECONDS)
    return file.expires_at is not None and file.expires_at - datetime.now(UTC) > left
