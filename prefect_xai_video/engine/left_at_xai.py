"""What this package has left in xAI's Files API, and which of it is still needed, by the receipts of a store."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prefect_xai_video.api.files import RemoteFile
from prefect_xai_video.api.storage_options import claim_of, digest_of
from prefect_xai_video.engine.attempts import Attempt
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
    """Find out why each file is at xAI. Without receipts that say otherwise, it counts as needed.

    Args:
        files: Files with names that this package gives.
        store: The store of the receipts; None if there is none.

    Raises:
        StorageError: If the store can't be read.
    """
    digests = {digest for file in files if (digest := digest_of(file.name))}
    claims = {claim for file in files if (claim := claim_of(file.name))}
    found = _Found() if store is None else await _search(store, digests, claims)
    left = []
    for file in files:
        digest, claim = digest_of(file.name), claim_of(file.name)
        if store is None:
            kind = "an uploaded input" if digest else "a video"
            left.append(LeftFile(file, f"{kind}, no storage was searched for its receipt", is_needed=True))
        elif digest:
            left.append(_input(file, found.users.get(digest), found.unreadable))
        elif claim not in found.owners:
            left.append(LeftFile(file, "a video, no receipt of it in this storage", is_needed=True))
        else:
            left.append(await _video(file, *found.owners[claim], store))
    return left


@dataclass(slots=True)
class _Found:
    """What the receipts of a store say of files.

    Attributes:
        users: Receipts that may still need an input, by its digest.
        owners: Receipts, and which of their attempts, by the claim that a video's name has.
        unreadable: A key whose receipt can't be read; None if all can.
    """

    users: dict[str, Receipt] = field(default_factory=dict)
    owners: dict[str, tuple[Receipt, Attempt]] = field(default_factory=dict)
    unreadable: str | None = None


async def _search(store: VideoStore, digests: set[str], claims: set[str]) -> _Found:
    """Search the receipts of a store, which may be a folder of another one, where the marks of its open keys are."""
    found = _Found()
    if not digests and not claims:
        return found
    async for key in store.keys():
        receipt = await read_listed(store, key)
        if isinstance(receipt, Receipt):
            found.users |= dict.fromkeys(digests & set(_inputs_of(receipt.attempts)), receipt)
            found.owners |= {each.claim: (receipt, each) for each in receipt.attempts if each.claim in claims}
        elif receipt is not None:
            found.unreadable = key
        if not digests and len(found.owners) == len(claims):
            break
    return found


def _inputs_of(attempts: Iterable[Attempt]) -> Iterator[str]:
    """Yield the digests of the inputs of attempts that may still be rendered."""
    for attempt in attempts:
        if attempt.outcome in {"sending", "submitted", "unknown"}:
            for text in json.dumps(attempt.request).split('"'):
                if text.startswith("sha256:"):
                    yield text.removeprefix("sha256:")


def _input(file: RemoteFile, user: Receipt | None, unreadable: str | None) -> LeftFile:
    if user is not None:
        return LeftFile(file, f"an input of {user.key}, which is {user.state}", is_needed=True, key=user.key)
    if unreadable is not None:
        why = f"an uploaded input, maybe of {unreadable}, whose receipt can't be read"
        return LeftFile(file, why, is_needed=True, key=unreadable)
    return LeftFile(file, "an uploaded input", is_needed=False)


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
