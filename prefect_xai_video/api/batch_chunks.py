"""Requests of a batch, written in chunks that one call each can add."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.responses import is_request_id
from prefect_xai_video.api.storage_options import StorageOptions
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

MAX_CHUNK_BYTES = 25 * 10**6
"""Largest body of a call: the smaller one of the two readings of xAI's limit of 25 MB."""

MAX_CHUNK_REQUESTS = 100
"""Most requests in a call.

If the reply is lost, so many requests are of unknown outcome until they are listed, which takes one page. With 1,000
calls in 30 seconds, this limit never slows down more than 3,000 requests a second.
"""

_HEAD, _TAIL = b'{"batch_requests":[', b"]}"


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch.

    Attributes:
        batch_request_id: Its id, by which its state and its result are found. It must be unique in the batch: it is
            not documented that xAI renders a second request of the same id only once.
        request: The request.
        upload_url: Signed URL to which xAI uploads the video.
        storage: How xAI's Files API stores the video.
    """

    batch_request_id: str
    request: VideoRequest
    upload_url: str | None = None
    storage: StorageOptions | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The body of one call that adds requests.

    Attributes:
        batch_request_ids: Ids of its requests.
        prompts: Their prompts, to be removed from errors.
        content: The JSON body.
    """

    batch_request_ids: tuple[str, ...]
    prompts: tuple[str, ...] = field(repr=False)
    content: bytes = field(repr=False)


def chunks(
    items: Sequence[BatchItem], *, max_bytes: int = MAX_CHUNK_BYTES, max_requests: int = MAX_CHUNK_REQUESTS
) -> Iterator[Chunk]:
    """Write requests in chunks, in order. All of them are checked before the first chunk is there.

    Args:
        items: The requests.
        max_bytes: Largest chunk, in bytes.
        max_requests: Most requests in a chunk.

    Raises:
        InvalidRequest: If an id is not valid or not unique, or a request is too large for a chunk of its own.
    """
    sizes = [check_size(item, max_bytes=max_bytes) for item in items]
    _check_unique(items)
    return _written(items, sizes, max_bytes, max_requests)


def _written(items: Sequence[BatchItem], sizes: list[int], max_bytes: int, max_requests: int) -> Iterator[Chunk]:
    begin, total = 0, 0
    for position, size in enumerate(sizes):
        # A comma comes before each request but the first one.
        is_full = position - begin == max_requests or len(_HEAD) + total + size + len(_TAIL) > max_bytes
        if is_full:
            yield _chunk(items[begin:position])
            begin, total = position, 0
        total += size + 1
    if begin < len(items):
        yield _chunk(items[begin:])


def _chunk(items: Sequence[BatchItem]) -> Chunk:
    content = _HEAD + b",".join(map(_encoded, items)) + _TAIL
    return Chunk(
        tuple(item.batch_request_id for item in items), tuple(item.request.prompt for item in items), content
    )


def _encoded(item: BatchItem) -> bytes:
    kind = "video_extension" if item.request.mode == "extend" else "video_generation"
    entry = {
        "batch_request_id": item.batch_request_id,
        "batch_request": {kind: item.request.body(item.upload_url, item.storage)},
    }
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def check_size(item: BatchItem, *, max_bytes: int = MAX_CHUNK_BYTES) -> int:
    """Check that a request fits into a call, and return its size in bytes.

    Args:
        item: The request.
        max_bytes: Largest body of the call, in bytes.

    Raises:
        InvalidRequest: If it does not fit, or its id is not valid.
    """
    if not is_request_id(item.batch_request_id):
        raise not_allowed(
            "batch_request_id", shown(item.batch_request_id), "printable text of at most 500 characters"
        )
    size, allowed = len(_encoded(item)), max_bytes - len(_HEAD) - len(_TAIL)
    if size > allowed:
        raise InvalidRequest(
            f"The request {shown(item.batch_request_id)} has {size} bytes; allowed in a batch: {allowed}. "
            "Pass large inputs as https:// URLs."
        )
    return size


def _check_unique(items: Sequence[BatchItem]) -> None:
    seen = set()
    for item in items:
        if item.batch_request_id in seen:
            raise not_allowed("batch_request_id", f"{shown(item.batch_request_id)} twice", "each id once in a batch")
        seen.add(item.batch_request_id)
