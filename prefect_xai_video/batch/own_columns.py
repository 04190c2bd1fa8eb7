"""Columns of a manifest that are the user's own, such as a price or a title: the option `keep` names them.

They are carried through to the rows of the report, so that a user can join it to the table that it was made of. They
are not part of a request: xAI never gets them, and no fingerprint depends on them. A column that nobody names stays
refused, since a misspelt option would be paid for and be the wrong video.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefect_xai_video.api.options import VideoOptions
from prefect_xai_video.engine.options import SavingOptions
from prefect_xai_video.errors import not_allowed, shown

OPTIONS = frozenset({"prompt", *VideoOptions.__annotations__, *SavingOptions.__annotations__})
"""Columns that are options of a video."""

MAX_KEPT = 100
"""Most columns that are carried through."""

MAX_NAME_CHARACTERS = 200

MAX_CELL_CHARACTERS = 300
"""Characters of a cell that the report keeps."""


def checked_keep(keep: Sequence[str] | None) -> tuple[str, ...]:
    """Check the option `keep`.

    Args:
        keep: Names of columns.

    Returns:
        The names, each once.

    Raises:
        InvalidRequest: If it is not a list of names, or a name is that of an option.
    """
    if keep is None:
        return ()
    if isinstance(keep, str | bytes) or not isinstance(keep, Sequence):
        raise not_allowed("keep", shown(keep), "a list of names of columns, such as ['sku', 'title']")
    for name in keep:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS or _encodable(name) != name:
            raise not_allowed("keep", shown(name), f"names of columns, of 1 to {MAX_NAME_CHARACTERS} characters")
        if name in OPTIONS:
            raise not_allowed("keep", shown(name), "columns of your own; this one is an option of a video")
    if len(names := tuple(dict.fromkeys(keep))) > MAX_KEPT:
        raise not_allowed("keep", f"{len(names):,} columns", f"at most {MAX_KEPT}")
    return names


def kept_cells(cells: Mapping[str, Any], keep: Sequence[str]) -> dict[str, str]:
    """Return the cells of a row that are carried through, as texts of at most 300 characters.

    Args:
        cells: The cells of the row; empty ones are None.
        keep: Names of the columns.
    """
    return {name: _as_text(cells[name])[:MAX_CELL_CHARACTERS] for name in keep if cells.get(name) is not None}


def _as_text(cell: Any) -> str:
    """Write a cell as the table had it: text and numbers as they are, everything else as JSON."""
    is_json = isinstance(cell, bool | list | dict)
    text = json.dumps(cell, ensure_ascii=False, default=str) if is_json else str(cell)
    return _encodable(text)


def _encodable(text: str) -> str:
    """Replace what no UTF-8 file can hold: JSON allows half a surrogate pair."""
    return text.encode(errors="replace").decode()
