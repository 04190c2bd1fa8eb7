"""Reads receipts that were found by listing a store, which may be a folder of another store."""

from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores.base import MisplacedReceipt, VideoStore
from prefect_xai_video.errors import StorageError


async def read_listed(store: VideoStore, key: str) -> Receipt | StorageError | None:
    """Read the receipt of a listed key.

    Args:
        store: The store.
        key: A key that the store has listed.

    Returns:
        The receipt; the error if it can't be read; None if it is gone.
    """
    try:
        held = await store.read(key)
    except MisplacedReceipt as error:
        # In a folder within a store, or in one above it, keys are others than the receipts know.
        own = error.receipt.key
        is_same = own.endswith(f"/{key}") or key.endswith(f"/{own}")
        return error.receipt if is_same else error
    except StorageError as error:
        return error
    return held.receipt if held else None
