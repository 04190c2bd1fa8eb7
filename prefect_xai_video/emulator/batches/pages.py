"""Pages of the listings of batches, requests and results."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prefect_xai_video.emulator.refusals import invalid_argument

MAX_LIMIT = 100
"""Largest page. xAI does not document one; its examples use up to 100."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page:
    """A requested page.

    Attributes:
        limit: Largest number of items.
        begin: Position of the first item.
    """

    limit: int
    begin: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Page":
        """Check the parameters of a listing.

        Raises:
            Refused: 400 if one of them is not valid.
        """
        limit = query.get("limit", str(MAX_LIMIT))
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_LIMIT:
            raise invalid_argument(f"limit must be between 1 and {MAX_LIMIT}.")
        token = query.get("pagination_token")
        return cls(int(limit), _position_of(token) if token else 0)

    def items(self, all_items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of the page."""
        return all_items[self.begin : self.begin + self.limit]

    def before(self) -> "Page":
        """Return the page before it."""
        return Page(self.limit, max(self.begin - self.limit, 0))

    def next_token(self, count: int) -> str | None:
        """Return the token of the next page; None if this is the last one of so many items."""
        end = self.begin + self.limit
        return base64.urlsafe_b64encode(f"after {end}".encode()).decode() if end < count else None


def _position_of(token: str) -> int:
    try:
        match = re.fullmatch("after ([0-9]{1,9})", base64.urlsafe_b64decode(token).decode())
    except (binascii.Error, ValueError):
        match = None
    if match is None:
        raise invalid_argument("Invalid pagination_token.")
    return int(match[1])
