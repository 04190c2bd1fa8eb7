"""Cells of a manifest: what a person means by them."""

import math
from typing import Any

from prefect_xai_video.api.options import LISTS
from prefect_xai_video.batch.manifest import read_json
from prefect_xai_video.errors import not_allowed, shown

_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
_FLAGS = _BOOLEANS | {"1": True, "0": False}
_WHOLE_NUMBERS = frozenset({"duration", "keep_at_xai"})


def cell_of(value: Any) -> Any:
    """Read a cell as a person means it: a missing number of a data frame is empty, and 7.0 is 7."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return None if value == "" else value


def typed(name: str, value: Any) -> Any:
    """Convert the text of a CSV cell to the type of its option; what can't be converted is refused later."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if name in _WHOLE_NUMBERS and text.isdecimal():
        return int(text)
    if name in LISTS:
        return _list(name, text)
    match name:
        case "prompt":
            return value
        case "keep_at_xai":
            return _BOOLEANS.get(text.lower(), text)
        case "generate_audio" | "public_url" | "stills":
            return _FLAGS.get(text.lower(), text)
    return text


def _list(name: str, text: str) -> Any:
    """Read a list from the text of a cell: as JSON, or else as its only entry."""
    if not text.startswith("["):
        return [text]
    try:
        return read_json(text)
    except ValueError:
        raise not_allowed(name, shown(text), 'a list as JSON, such as ["a.png", "b.png"], or one entry') from None
