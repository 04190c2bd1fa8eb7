"""Writes Markdown that says what it is given and nothing else, whoever has written that: prompts are anybody's.

Both UIs of Prefect show HTML within Markdown, after they have cleaned it. A block of HTML goes on until the first
empty line, and nothing in it is Markdown. So what comes from outside stands in such blocks only, without line breaks.
"""

import html
import unicodedata
from collections.abc import Iterable

_JOINER = "\u200d"
"""Joins emoji; the other invisible characters turn text round, or hide in it."""

_REPLACED = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "\ufffd", "Co": "\ufffd", "Cn": "\ufffd"}


def escaped(text: str) -> str:
    """Write any text as HTML that shows it as it is, in one line."""
    return html.escape("".join(map(_visible, text)))


def _visible(character: str) -> str:
    return character if character == _JOINER else _REPLACED.get(unicodedata.category(character), character)


def code(text: str) -> str:
    """Write any text as code, in HTML."""
    return f"<code>{escaped(text)}</code>"


def cut(text: str, characters: int) -> str:
    """Shorten a text to so many characters; an ellipsis says that something is missing."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def paragraph(text: str) -> str:
    """Write any text as a block of its own, with its line breaks."""
    return f"<p>{'<br>'.join(map(escaped, text.splitlines()))}</p>"


def details(summary: str, text: str) -> str:
    """Write any text as a block that is shown on demand."""
    return f"<details><summary>{escaped(summary)}</summary>{paragraph(text)}</details>"


def table(rows: Iterable[tuple[str, str | None]]) -> str:
    """Write a block with a table of names and values, which are HTML; rows without a value are left out."""
    lines = (
        f'<tr><td valign="top"><b>{name.replace(" ", "&nbsp;")}</b></td><td>{value}</td></tr>'
        for name, value in rows
        if value
    )
    return "\n".join(['<table cellpadding="4">', *lines, "</table>"])
