"""What this package has left in xAI's Files API, and which of it is still needed, by the receipts of a store."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prefect_xai_video.api.files import RemoteFile
from prefect_xai_video.api.storage_options import claim_of, digest_of
from prefect_xai_video.engine.attempts import Attempt
from prefect_xai_video.engine.open_keys import OpenKeys
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.stores.listed import read_listed


@dataclass(frozen=True, slots=True)
class LeftFile:
    """A file that this package has left at xAI.

    Attributes:
        file: The file.
        why: Why it is there, in a few words.
        is_needed: Whether it may be the only copy of a paid video, was kept on purpose, or is an input of a video
            that may still be rendered.
        key: Key of the video that it is, or of one that needs it as an input; None if no receipt has it.
    """

    file: RemoteFile
    why: str
    is_needed: bool
    key: str | None = None


async def explain(files: Sequence[RemoteFile], store: VideoStore | None) -> list[LeftFile]:
    """Find out why each file is at xAI. Without a receipt that says otherwise, a video counts as needed.

    Args:
        files: Files with names that this package gives.
        store: The store of the receipts; None if there is none.

    Raises:
        StorageError: If the store can't be read.
    """
    digests = {digest for file in files if (digest := digest_of(file.name))}
    claims = {claim for file in files if (claim := claim_of(file.name))}
    users = await _open_users(store, digests) if store and digests else {}
    owners = await _owners(store, claims) if store and claims else {}
    left = []
    for file in files:
        digest, claim = digest_of(file.name), claim_of(file.name)
        if digest:
            left.append(_input(file, users.get(digest)))
        elif store is None or claim not in owners:
            where = "no storage was searched for its receipt" if store is None else "no receipt of it in this storage"
            left.append(LeftFile(file, f"a video, {where}", is_needed=True))
        else:
            left.append(await _video(file, *owners[claim], store))
    return left


async def _open_users(store: VideoStore, digests: set[str]) -> dict[str, Receipt]:
    """Find the open keys whose requests have inputs of these digests."""
    users: dict[str, Receipt] = {}
    async for key, _ in OpenKeys(store).marks():
        receipt = await read_listed(store, key)
        if isinstance(receipt, Receipt):
            users |= dict.fromkeys(digests & set(_inputs_of(receipt.attempts)), receipt)
    return users


def _inputs_of(attempts: Iterable[Attempt]) -> Iterator[str]:
    """Yield the digests of the inputs of attempts that may still be rendered."""
    for attempt in attempts:
        if attempt.outcome in {"sending", "submitted", "unknown"}:
            for text in json.dumps(attempt.request).split('"'):
                if text.startswith("sha256:"):
                    yield text.removeprefix("sha256:")


async def _owners(store: VideoStore, claims: set[str]) -> dict[str, tuple[Receipt, Attempt]]:
    """Find the receipts that have these claims; the search ends with the last one."""
    owners: dict[str, tuple[Receipt, Attempt]] = {}
    async for key in store.keys():
        receipt = await read_listed(store, key)
        if isinstance(receipt, Receipt):
            owners |= {each.claim: (receipt, each) for each in receipt.attempts if each.claim in claims}
        if len(owners) == len(claims):
            break
    return owners


def _input(file: RemoteFile, user: Receipt | None) -> LeftFile:
    if user is None:
        return LeftFile(file, "an uploaded input", is_needed=False)
    return LeftFile(file, f"an input of {user.key}, which is {user.state}", is_needed=True, key=user.key)


async def _video(file: RemoteFile, receipt: Receipt, attempt: Attempt, store: VideoStore) -> LeftFile:
    key = receipt.key
    if attempt.xai_file is not None and attempt.xai_file.keep:
        return LeftFile(file, f"the video of {key}, kept on purpose", is_needed=True, key=key)
    if attempt.outcome != "stored" or attempt.file is None:
        number = "" if attempt is receipt.attempt else f"attempt {attempt.number} of "
        return LeftFile(file, f"the video of {number}{key}, which is {attempt.outcome}", is_needed=True, key=key)
    if not await store.holds_video(key, attempt.file):
        why = f"the video of {key}, which is missing from the storage"
        return LeftFile(file, why, is_needed=True, key=key)
    return LeftFile(file, f"the video of {key}, which is stored", is_needed=False, key=key)
