"""Blocks among the parameters of a run: what a form or a deployment names is loaded here, when the run begins.

Prefect would load them too, but imports every installed integration before its first block. The types that a
parameter may have are known here, and `prefect_aws`, which takes 0.7 s, is needed only for a bucket.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import LocalFileSystem
from pydantic import ValidationError

from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.prefect_api import current_client

if TYPE_CHECKING:
    from prefect_xai_video.stores import Storage

CREDENTIALS = {"xai-credentials": "XaiCredentials"}
STORAGES = {"s3-bucket": "S3Bucket", "local-file-system": "LocalFileSystem"}
"""The types of block that a parameter may name, by their slugs."""

_NOTHING: tuple[Any, ...] = (None, {})
"""What says that no block was chosen; a call of Prefect's API may say it with `{}`."""


async def load_credentials(given: object) -> XaiCredentials:
    """Load the credentials that a parameter names, or take those of the environment.

    Args:
        given: A block, a saved one as Prefect refers to it, or nothing.

    Raises:
        InvalidRequest: If it is something else, or there is no such block.
        MissingCredentials: If nothing is given and the environment has no key.
        httpx.HTTPError: If Prefect can't be asked for the block.
    """
    if given in _NOTHING:
        return XaiCredentials.from_environment()
    block = await _load(given, "credentials", CREDENTIALS)
    if not isinstance(block, XaiCredentials):
        raise _not_allowed("credentials", type(block).__name__, CREDENTIALS)
    return block


async def load_storage(given: object) -> "Storage | None":
    """Load the storage that a parameter names.

    Args:
        given: A block, a saved one as Prefect refers to it, or nothing. Whether a block that is given as such
            is a storage is seen when it is opened.

    Raises:
        InvalidRequest: If it is something else, or there is no such block.
        httpx.HTTPError: If Prefect can't be asked for the block.
    """
    return None if given in _NOTHING else cast("Storage", await _load(given, "storage", STORAGES))


async def _load(given: object, field: str, allowed: dict[str, str]) -> Block:
    match given:
        case Block():
            return given
        # `run_deployment` turns a saved block into its fields, secrets masked, and its id.
        case {"$ref": reference} | {"_block_document_id": reference}:
            return _block(await _document(reference, field, allowed), field, allowed)
        case dict():
            # A block takes fields of any name, so a misspelled one would mean another place, or another key.
            what = f"a block given by its fields {', '.join(map(str, given))}"
            hint = " A secret among them is in the parameters of this run, in clear: change it." if given else ""
            raise _not_allowed(field, what, allowed, hint)
        case _:
            raise _not_allowed(field, type(given).__name__, allowed)


def _block(document: BlockDocument, field: str, allowed: dict[str, str]) -> Block:
    # A class would take the data of any other: the key of another service would be sent to xAI.
    slug = document.block_type.slug if document.block_type else None
    if slug not in allowed:
        raise _not_allowed(field, f"the block {document.name!r} of type {slug}", allowed)
    try:
        # Prefect's public loading would read the block a second time. It keeps the block's id: without one, no
        # deployment can be given the block.
        return _class_of(slug)._from_block_document(document)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InvalidRequest(f"{field}: the block {document.name!r} can't be used: {problems}.") from None


def _class_of(slug: str) -> type[Block]:
    match slug:
        case "xai-credentials":
            return XaiCredentials
        case "local-file-system":
            return LocalFileSystem
        case _:
            from prefect_aws import S3Bucket  # noqa: PLC0415

            return S3Bucket


async def _document(reference: object, field: str, allowed: dict[str, str]) -> BlockDocument:
    """Read a block in one of the ways that Prefect knows: by its id, or by the slug of its type and its name."""
    match reference:
        case (str() | UUID() as name) | {"block_document_id": str() | UUID() as name} if _is_id(name):
            read: Callable[[PrefectClient, str], Awaitable[BlockDocument]] = _read_by_id
        case {"block_document_slug": str() as name} if name.count("/") == 1:
            read = _read_by_name
        case _:
            raise _not_allowed(field, f"the reference {str(reference)[:100]!r}", allowed)
    try:
        async with current_client() as prefect:
            return await read(prefect, str(name))
    except ObjectNotFound:
        raise InvalidRequest(f"{field}: the block {str(name)[:100]!r} does not exist.") from None


def _read_by_id(prefect: PrefectClient, block_id: str) -> Awaitable[BlockDocument]:
    return prefect.read_block_document(UUID(block_id), include_secrets=True)


def _read_by_name(prefect: PrefectClient, name: str) -> Awaitable[BlockDocument]:
    slug, _, block_name = name.partition("/")
    return prefect.read_block_document_by_name(block_name, slug, include_secrets=True)


def _is_id(name: object) -> bool:
    with suppress(ValueError):
        return bool(UUID(str(name)))
    return False


def _not_allowed(field: str, what: str, allowed: dict[str, str], hint: str = "") -> InvalidRequest:
    types = " or ".join(allowed.values())
    return InvalidRequest(f"{field}: {what} is not allowed; allowed: a saved {types} block.{hint}")
