"""Loads the blocks among the parameters of a run, which forms and deployments pass as references.

Prefect could load them, too, but it accepts a block of any type, and a class accepts the data of any other: the key
of another service would be sent to xAI. Here the type is checked first.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket
from pydantic import ValidationError

from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.errors import InvalidRequest, not_allowed
from prefect_xai_video.orchestration.prefect_api import current_client

if TYPE_CHECKING:
    from prefect_xai_video.orchestration.storage import Storage

Types: TypeAlias = Mapping[str, type[Block]]
"""Block types that a parameter accepts, by slug."""

CREDENTIALS: Types = {"xai-credentials": XaiCredentials}
STORAGES: Types = {"s3-bucket": S3Bucket, "local-file-system": LocalFileSystem}

_NOT_CHOSEN: tuple[Any, ...] = (None, {})
"""Values that mean that no block was chosen; calls of Prefect's API may pass `{}`."""


async def load_credentials(given: object) -> XaiCredentials:
    """Load the credentials block of a parameter, or use the credentials of the environment.

    Args:
        given: A block, Prefect's reference to a saved block, or nothing.

    Raises:
        InvalidRequest: If it is anything else, or the block does not exist.
        MissingCredentials: If nothing is given and the environment has no API key.
        httpx.HTTPError: If Prefect can't be reached.
    """
    if given in _NOT_CHOSEN:
        return XaiCredentials.from_environment()
    block = await _load(given, "credentials", CREDENTIALS)
    if not isinstance(block, XaiCredentials):
        raise _other_block("credentials", type(block).__name__, CREDENTIALS)
    return block


async def load_storage(given: object) -> "Storage | None":
    """Load the storage block of a parameter.

    Args:
        given: A block, Prefect's reference to a saved block, or nothing. The type of a block is checked later, when
            its store is opened.

    Raises:
        InvalidRequest: If it is anything else, or the block does not exist.
        httpx.HTTPError: If Prefect can't be reached.
    """
    return None if given in _NOT_CHOSEN else cast("Storage", await _load(given, "storage", STORAGES))


def is_chosen(given: object) -> bool:
    """Whether a parameter names a block."""
    return given not in _NOT_CHOSEN


async def saved_reference(given: object, field: str, allowed: Types) -> dict[str, Any]:
    """Return the reference with which another run finds the block of a parameter.

    Args:
        given: A block, or Prefect's reference to a saved block.
        field: The parameter.
        allowed: The block types that it accepts.

    Raises:
        InvalidRequest: If it is not saved, or was changed after it was saved.
        httpx.HTTPError: If Prefect can't be reached.
    """
    block = await _load(given, field, allowed)
    hint = (
        "Other machines find only saved blocks, and Prefect would store the fields of another in clear text: save it "
        'with .save("NAME"), or choose a saved one. Nothing was sent.'
    )
    if block._block_document_id is None:
        raise _other_block(field, f"a {type(block).__name__} that is not saved", allowed, hint)
    reference = {"block_document_id": str(block._block_document_id)}
    if given is block and (await _load_referenced(reference, field, allowed)).model_dump() != block.model_dump():
        raise _other_block(field, f"a {type(block).__name__} that was changed after it was saved", allowed, hint)
    return {"$ref": reference}


async def _load(given: object, field: str, allowed: Types) -> Block:
    match given:
        case Block():
            return given
        # `run_deployment` replaces a saved block by its fields, with secrets masked, and its id.
        case {"$ref": reference} | {"_block_document_id": reference}:
            return await _load_referenced(reference, field, allowed)
        case dict():
            # Blocks accept fields of any name, so a misspelled one would mean another location or another key.
            what = f"a block passed as its fields {', '.join(map(str, given))}"
            hint = (
                "Prefect has stored them with this run in clear text: if one is a secret, replace the secret. "
                "Nothing was sent to xAI."
                if given
                else ""
            )
            raise _other_block(field, what, allowed, hint)
        case _:
            raise _other_block(field, type(given).__name__, allowed)


async def _load_referenced(reference: object, field: str, allowed: Types) -> Block:
    document = await _document(reference, field, allowed)
    slug = document.block_type.slug if document.block_type else ""
    if slug not in allowed:
        raise _other_block(field, f"the block {document.name!r} of type {slug}", allowed)
    try:
        return await allowed[slug].aload_from_ref({"block_document_id": str(document.id)})
    except RuntimeError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.__cause__.errors())
        raise InvalidRequest(f"{field}: the block {document.name!r} can't be used: {problems}.") from None


async def _document(reference: object, field: str, allowed: Types) -> BlockDocument:
    """Read a block document without its secrets, by one of Prefect's references: its id, or type slug and name."""
    match reference:
        case (str() | UUID() as name) | {"block_document_id": str() | UUID() as name} if _is_id(name):
            read: Callable[[PrefectClient, str], Awaitable[BlockDocument]] = _read_by_id
        case {"block_document_slug": str() as name} if name.count("/") == 1:
            read = _read_by_name
        case _:
            raise _other_block(field, f"the reference {str(reference)[:100]!r}", allowed)
    try:
        async with current_client() as prefect:
            return await read(prefect, str(name))
    except ObjectNotFound:
        raise InvalidRequest(
            f"{field}: the block {str(name)[:100]!r} does not exist. Create it, or choose another. Nothing was sent."
        ) from None


def _read_by_id(prefect: PrefectClient, block_id: str) -> Awaitable[BlockDocument]:
    return prefect.read_block_document(UUID(block_id), include_secrets=False)


def _read_by_name(prefect: PrefectClient, name: str) -> Awaitable[BlockDocument]:
    slug, _, block_name = name.partition("/")
    return prefect.read_block_document_by_name(block_name, slug, include_secrets=False)


def _is_id(name: object) -> bool:
    with suppress(ValueError):
        return bool(UUID(str(name)))
    return False


def _other_block(field: str, what: str, allowed: Types, hint: str = "") -> InvalidRequest:
    types = " or ".join(kind.__name__ for kind in allowed.values())
    return not_allowed(field, what, f"a saved {types} block", hint)
