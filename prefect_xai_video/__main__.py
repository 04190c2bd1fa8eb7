"""The command line: `python -m prefect_xai_video receipts` lists what is known, by state, and what to do about it."""

import argparse
import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import httpx
from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, S3Bucket

from prefect_xai_video.capabilities import dollars
from prefect_xai_video.errors import StorageError, XaiVideoError
from prefect_xai_video.receipts import NEXT_STEP, Receipt, ReceiptState
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.stores import LocalStore, Misplaced, VideoStore, open_store

UNREADABLE = "unreadable"
_UNREADABLE_STEP = "put a good copy back, or move it away and adopt its request id"


def main() -> None:
    """List the receipts of a store."""
    options = _parser().parse_args()
    try:
        store, prefix = _place(options.place, options.block)
        found = asyncio.run(_receipts(store, prefix))
    except (XaiVideoError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise SystemExit(f"receipts: {error}") from None
    for line in _lines(found, options.state):
        print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m prefect_xai_video")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    receipts = commands.add_parser(
        "receipts", help="list receipts by state, and what can be done about each; it asks xAI nothing"
    )
    receipts.add_argument(
        "place", nargs="?", help="a directory, or s3://bucket/prefix with the credentials of the environment"
    )
    receipts.add_argument("--block", help="a storage block instead: s3-bucket/NAME or local-file-system/NAME")
    receipts.add_argument(
        "--state",
        action="append",
        choices=[*get_args(ReceiptState), UNREADABLE],
        help="show this state only; may be given several times",
    )
    return parser


def _place(place: str | None, block: str | None) -> tuple[VideoStore, str]:
    """The store that is meant, and the prefix of its keys."""
    if block is not None:
        storage = Block.load(block)
        if not isinstance(storage, Block):
            raise StorageError(f"The block {block} can't be loaded here.")
        return open_store(storage, Path()), place or ""  # type: ignore[arg-type]
    if place is None:
        return LocalStore(XaiVideoSettings.current().home), ""
    if place.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        return open_store(S3Bucket(bucket_name=bucket, credentials=AwsCredentials()), Path()), prefix
    return LocalStore(Path(place).expanduser().absolute()), ""


async def _receipts(store: VideoStore, prefix: str) -> dict[str, Receipt | StorageError]:
    """Read all receipts under a prefix, by key; an error for one that can't be read."""
    found: dict[str, Receipt | StorageError] = {}
    async for key in store.keys(prefix):
        try:
            held = await store.read(key)
        except Misplaced as error:
            # Whoever names a folder within a store, or one above it, sees other keys than the receipts know.
            own = error.receipt.key
            found[key] = error.receipt if own.endswith(f"/{key}") or key.endswith(f"/{own}") else error
        except StorageError as error:
            found[key] = error
        else:
            if held is not None:
                found[key] = held.receipt
    return found


def _lines(found: dict[str, Receipt | StorageError], states: list[str] | None) -> Iterable[str]:
    wanted = {key: receipt for key, receipt in found.items() if not states or _state(receipt) in states}
    for state in [*NEXT_STEP, UNREADABLE]:
        group = {key: receipt for key, receipt in wanted.items() if _state(receipt) == state}
        for step in dict.fromkeys(map(_step, group.values())):
            keys = [key for key, receipt in group.items() if _step(receipt) == step]
            yield f"{state} ({len(keys)}): {step}"
            yield from (f"  {key}  {_facts(group[key])}" for key in keys)
    if not wanted:
        yield "There are no such receipts here."


def _state(receipt: Receipt | StorageError) -> str:
    return UNREADABLE if isinstance(receipt, StorageError) else receipt.state


def _step(receipt: Receipt | StorageError) -> str:
    return _UNREADABLE_STEP if isinstance(receipt, StorageError) else receipt.next_step


def _facts(receipt: Receipt | StorageError) -> str:
    if isinstance(receipt, StorageError):
        return receipt.message
    facts = [
        f"{receipt.attempt.started_at:%Y-%m-%d %H:%M} UTC",
        f"request {receipt.request_id or 'id unknown'}",
        _cost(receipt),
        receipt.failure.message if receipt.failure else "",
    ]
    return "  ".join(fact for fact in facts if fact)


def _cost(receipt: Receipt) -> str:
    if receipt.cost_usd is not None:
        return dollars(receipt.cost_usd)
    return "" if receipt.estimated_cost_usd is None else f"about {dollars(receipt.estimated_cost_usd)}"


if __name__ == "__main__":
    main()
