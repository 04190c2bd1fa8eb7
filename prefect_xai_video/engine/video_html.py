"""A video as HTML, for notebooks: a player and its facts.

It stands here, and not in `ui`, since a notebook asks the object itself, which knows nothing above `engine`. A local
file is all that it reads: no network, no signed URL.
"""

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from prefect_xai_video.engine.videos import Video

MAX_INLINE_BYTES = 8 * 2**20
"""Largest file that becomes part of a notebook, which is saved as a whole, and in which a file takes a third more."""

# Colours are those of the notebook, light or dark.
_PAGE = "display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1em; margin: 0.5em 0; line-height: 1.5"
_PLAYER = "max-width: min(100%, 480px); max-height: 320px; border-radius: 4px"
_FACTS = "display: grid; grid-template-columns: max-content 1fr; gap: 0 1em; flex: 1 1 20em; min-width: 0; margin: 0"
_NAME = "margin: 0; padding: 0; font-weight: normal; opacity: 0.7"
_VALUE = "margin: 0; padding: 0; overflow-wrap: anywhere"


def video_html(video: "Video") -> str:
    """Show a video: a player if its file is on this machine and not too large, and its facts."""
    player, file = _file(video)
    facts = {
        "Key": video.key,
        "Duration": None if video.duration is None else f"{video.duration} s",
        "Cost": video.price,
        "Picture": video.picture,
        "Model": video.model,
        "Size": size_in_words(video.size),
        "Request id": video.request_id,
        "URI": video.uri,
    }
    shown = {name: html.escape(fact) for name, fact in facts.items() if fact is not None} | {"File": file}
    rows = "".join(
        f'<dt style="{_NAME}">{name}</dt><dd style="{_VALUE}">{fact}</dd>' for name, fact in shown.items() if fact
    )
    return f'<div style="{_PAGE}">{player}<dl style="{_FACTS}">{rows}</dl></div>'


def _file(video: "Video") -> tuple[str, str]:
    """Make the player of a video, and a sentence about its file; either may be empty."""
    try:
        parts = urlsplit(video.uri)
        if parts.scheme != "file":
            return "", "not on this machine, so it is not shown here"
        path = Path(url2pathname(parts.path))
        if not path.is_file():
            return "", "missing"
        if path.stat().st_size > MAX_INLINE_BYTES:
            link = f'<a href="{html.escape(video.uri)}">{html.escape(path.name)}</a>'
            return "", f"{link}, too large to be shown here (more than {MAX_INLINE_BYTES // 2**20} MiB)"
        content = base64.b64encode(path.read_bytes()).decode()
    except (OSError, ValueError) as error:
        return "", f"can't be read ({type(error).__name__})"
    source = html.escape(f"data:{video.content_type};base64,{content}")
    return f'<video controls loop playsinline style="{_PLAYER}" src="{source}"></video>', ""


def size_in_words(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
