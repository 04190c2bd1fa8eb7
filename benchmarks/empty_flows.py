"""What `submit_to_post.py` compares with: flows that do nothing but be seen. They import nothing of this package."""

import urllib.request
from contextlib import suppress

from prefect import flow
from prefect.blocks.system import Secret


@flow
async def empty(url: str) -> None:
    """Call a URL."""
    with suppress(OSError):
        urllib.request.urlopen(url).close()


@flow
async def empty_with_key(url: str, key: Secret) -> None:
    """Call a URL, with a key in a block, as any flow of a paid API has it."""
    with suppress(OSError):
        urllib.request.urlopen(url).close()
