"""Writes Markdown from untrusted text, such as prompts, so that none of it is interpreted as markup.

Both Prefect UIs render sanitised HTML within Markdown. An HTML block extends to the first empty line, and Markdown
inside it is not interpreted. So untrusted text is only placed in such blocks, without line breaks.
"""

import html
import unicodedata
from collections.abc import Iterable

_JOINER = "\u200d"
"""Zero-width joiner, which combines emoji. Other invisible characters are removed: they can reverse or hide text."""

_REPLACED = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "\ufffd", "Co": "\ufffd", "Cn": "\ufffd"}


def escaped(text: str) -> str:
    """Escape a text as HTML that shows it literally, in one line."""
    return html.escape(visible(text))


def visible(text: str) -> str:
    """Replace control characters by spaces, and remove characters that reverse or hide text."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character == _JOINER else _REPLACED.get(unicodedata.category(character), character)


def code(text: str) -> str:
    """Format a text as inline code, in HTML."""
    return f"<code>{escaped(text)}</code>"


def cut(text: str, characters: int) -> str:
    """Shorten a text to a number of characters; an ellipsis marks the missing end."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def paragraph(text: str) -> str:
    """Format a text as an HTML paragraph, with its line breaks."""
    return f"<p>{'<br>'.join(map(escaped, text.splitlines()))}</p>"


def details(summary: str, text: str) -> str:
    """Format a text as an HTML block that can be expanded."""
    return f"<details><summary>{escaped(summary)}</summary>{paragraph(text)}</details>"


def table(rows: Iterable[tuple[str, str | None]]) -> str:
    """Format names and HTML values as an HTML table; rows without a value are omitted."""
    lines = (
        f'<tr><td valign="top"><b>{name.replace(" ", "&nbsp;")}</b></td><td>{value}</td></tr>'
        for name, value in rows
        if value
    )
    return "\n".join(['<table cellpadding="4">', *lines, "</table>"])
