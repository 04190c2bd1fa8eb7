"""Pages of the listing of files: `GET /files` with its filter, order and pagination token."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect_xai_video.emulator.files import ApiFile
from prefect_xai_video.emulator.refusals import invalid_argument

MAX_LIMIT = 100
SIMILARITY = 0.3
"""Share of the trigrams of a filter that a name must have: it is fuzzy, and finds names that are merely similar."""

_TERM = re.compile(r'\s*(?:(name)\s*:|(created_at)\s*>)\s*"([^"]*)"\s*')

_SORT_VALUES: Mapping[str, Callable[[ApiFile], Any]] = {
    "created_at": lambda file: file.created_at.timestamp(),
    "filename": lambda file: file.name,
    "size": lambda file: file.size,
}


@dataclass(frozen=True, slots=True)
class FileQuery:
    """A checked query for files.

    Attributes:
        limit: Largest number of files in the page.
        is_descending: Whether the last one comes first.
        sort_by: The field that determines the order.
        terms: Conditions that each file must meet.
        after: Sort value and id of the last file of the previous page; None for the first page.
    """

    limit: int
    is_descending: bool
    sort_by: str
    terms: tuple[Callable[[ApiFile], bool], ...]
    after: tuple[Any, str] | None

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "FileQuery":
        """Check the parameters of a listing.

        Raises:
            Refused: 400 if one of them is not valid.
        """
        limit = given.get("limit", str(MAX_LIMIT))
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_LIMIT:
            raise invalid_argument(f"limit must be between 1 and {MAX_LIMIT}.")
        order, sort_by = given.get("order", "desc"), given.get("sort_by", "created_at")
        if order not in {"asc", "desc"}:
            raise invalid_argument("order must be asc or desc.")
        if sort_by not in _SORT_VALUES:
            raise invalid_argument(f"sort_by must be one of {', '.join(_SORT_VALUES)}.")
        token = given.get("pagination_token")
        return cls(
            int(limit),
            order == "desc",
            sort_by,
            tuple(_terms(given.get("filter", ""))),
            _last_of(token) if token else None,
        )

    def matching(self, files: Iterable[ApiFile]) -> list[ApiFile]:
        """Return the files that meet the filter, in order."""
        found = [file for file in files if all(term(file) for term in self.terms)]
        return sorted(found, key=self._position, reverse=self.is_descending)

    def page(self, matching: list[ApiFile]) -> tuple[list[ApiFile], str]:
        """Return the files of the page, and the token of the next page, which is always there."""
        if self.after is not None:
            last = self.after
            try:
                matching = [file for file in matching if self._is_after(file, last)]
            except TypeError:
                raise _bad_token() from None
        page = matching[: self.limit]
        return page, _token_of(self._position(page[-1]) if page else self.after or ())

    def _position(self, file: ApiFile) -> tuple[Any, str]:
        return _SORT_VALUES[self.sort_by](file), file.id

    def _is_after(self, file: ApiFile, last: tuple[Any, str]) -> bool:
        position = self._position(file)
        return position < last if self.is_descending else position > last


def _terms(filter_: str) -> Iterable[Callable[[ApiFile], bool]]:
    """Parse a filter: terms that are joined by AND."""
    for text in re.split(r"\bAND\b", filter_) if filter_.strip() else ():
        term = _TERM.fullmatch(text)
        if term is None:
            raise invalid_argument(f"Invalid filter: {text.strip()[:100]}.")
        yield _named(term[3]) if term[1] else _created_after(term[3])


def _named(name: str) -> Callable[[ApiFile], bool]:
    wanted = _trigrams(name)
    return lambda file: len(wanted & _trigrams(file.name)) >= SIMILARITY * len(wanted)


def _trigrams(text: str) -> set[str]:
    text = f"  {text.lower()} "
    return {text[begin : begin + 3] for begin in range(len(text) - 2)}


def _created_after(text: str) -> Callable[[ApiFile], bool]:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_argument(f"Invalid filter: {text[:100]} is not a time.") from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return lambda file: file.created_at > time


def _token_of(position: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _last_of(token: str) -> tuple[Any, str] | None:
    try:
        position = json.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise _bad_token() from None
    if position == []:
        return None
    if not (isinstance(position, list) and len(position) == 2 and isinstance(position[1], str)):
        raise _bad_token()
    return position[0], position[1]


def _bad_token() -> Exception:
    return invalid_argument("Invalid pagination_token.")
