"""Blocks among the parameters of a run: what a form or a deployment names is loaded here, when the run begins.

Prefect would load them too, but imports every installed integration before its first block. What is wanted of
XaiCredentials is known, and `prefect_aws`, which takes 0.7 s, is needed only for a bucket.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from prefect.blocks.core import Block, UnknownBlockType
from prefect.filesystems import LocalFileSystem

from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.errors import InvalidRequest

if TYPE_CHECKING:
    from prefect_xai_video.stores import Storage

_NOTHING: tuple[Any, ...] = (None, {})
"""What a form sends where nothing was chosen."""


async def load_credentials(given: object) -> XaiCredentials:
    """Load the credentials that a parameter names, or take those of the environment.

    Args:
        given: A block, Prefect's `{"$ref": ...}` to a saved one, or nothing.

    Raises:
        InvalidRequest: If it is something else. So are fields: Prefect keeps parameters in clear.
        MissingCredentials: If nothing is given and the environment has no key.
    """
    if given in _NOTHING:
        return XaiCredentials.from_environment()
    block = await _referred(given, "credentials", XaiCredentials) if _is_reference(given) else given
    if not isinstance(block, XaiCredentials):
        raise InvalidRequest(
            f"credentials: {type(block).__name__} is not allowed; allowed: a saved XaiCredentials block."
        )
    return block


async def load_storage(given: object) -> "Storage | None":
    """Load the storage that a parameter names; whether it is one is seen when it is opened.

    Args:
        given: A block, Prefect's `{"$ref": ...}` to a saved one, the fields of one, or nothing.

    Raises:
        InvalidRequest: If there is no such block, or the fields are none of an S3Bucket or a LocalFileSystem.
    """
    if given in _NOTHING:
        return None
    if _is_reference(given):
        return cast("Storage", await _referred(given, "storage", Block))
    return _storage_of(given) if isinstance(given, dict) else cast("Storage", given)


def _storage_of(fields: dict[str, Any]) -> "Storage":
    from prefect_aws import S3Bucket  # noqa: PLC0415

    for kind, needed in ((S3Bucket, "bucket_name"), (LocalFileSystem, "basepath")):
        # A block takes fields of any name, so a misspelled one would be a video in another place.
        if needed in fields and fields.keys() <= {*kind.model_fields, "block_type_slug"}:
            with suppress(ValueError, TypeError):
                return kind.model_validate(fields)
    raise InvalidRequest(
        f"storage: the fields {', '.join(map(str, fields))} are not allowed; "
        "allowed: a saved block, or the fields of an S3Bucket or a LocalFileSystem."
    )


def _is_reference(given: object) -> bool:
    return isinstance(given, dict) and "$ref" in given


async def _referred(given: Any, field: str, kind: type[Block]) -> Block:
    reference = given["$ref"]
    if isinstance(reference, dict) and kind is not Block and (slug := reference.get("block_document_slug")):
        # Only `Block` itself looks for a block by the slug of its type and its name; a class knows its own slug.
        reference = {"block_document_slug": str(slug).removeprefix(f"{kind.get_block_type_slug()}/")}
    try:
        return await kind.aload_from_ref(reference)
    except (ValueError, RuntimeError, UnknownBlockType) as error:
        raise InvalidRequest(f"{field}: the block {reference} is not allowed; {error}") from None
