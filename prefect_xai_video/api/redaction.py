"""Redaction: removes secrets from all external text, after parsing and before it is shown or stored. No I/O.

It is applied in two places, so that no other code has to: `XaiVideoClient` redacts all text of xAI's responses and of
downloads, and `s3_errors.py` redacts the errors of S3.

A response may repeat the API key, the prompt, a signed URL or inline data, verbatim or escaped. Each pattern below is
matched in one pass that can't backtrack, so the time is linear in the length of the text.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

MAX_TEXT = 500
"""Most characters of a text that are kept."""
MAX_CODE = 100
"""Most characters of a code, a name or an id that are kept."""

SHORTEST_KEY = 8
"""Length of the shortest API key that is redacted. A shorter one belongs to an emulator, is not a secret, and would
match within words."""
_KEY_BEGINNING = 12
"""Number of characters by which the beginning of the key is recognised, since a text may be cut within the key."""
_SHORTEST_PROMPT = 4
_PROMPT_BEGINNING = 12

_KEY_PART = 16
"""Length of the runs of the key, or of its hexadecimal or base64 form, that are redacted."""

_LAYERS = 3
"""Depth of nested escapes that is handled, such as JSON within a percent-encoded URL within JSON."""

_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+")
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([\"'\\/bfnrt]))")
_PERCENT_ESCAPES = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_HTML_ESCAPE = re.compile(r"&(?:#[xX][0-9a-fA-F]{1,6}|#[0-9]{1,7}|[A-Za-z][A-Za-z0-9]{1,30});")

_INLINE_DATA = re.compile(r"data:[\w.+-]{0,100}[/;,][^\s\"'<>]*", re.IGNORECASE)
_URL = re.compile(r"://[^\s\"'<>]+")
_QUERY = re.compile(r"\?(?=[^\s\"'<>?=&]{1,100}=)[^\s\"'<>]+")
_SECRET_PARAMETER = re.compile(
    r"(?<![\w-])(?=[\w-])((?:x-(?:amz|goog)-[\w-]{1,50}|[\w-]{0,20}(?:signature|token|secret|password)|sig|policy"
    r"|key-pair-id|awsaccesskeyid|googleaccessid|api_?key)=)[^\s\"'<>&]+",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z0-9+/=_-]+")
_LONG_RUN = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{200,}")


class Redaction:
    """Removes secrets from a text: `redact = Redaction(api_key)`, then `redact(text)`.

    Args:
        api_key: The API key to remove. A key of fewer than 8 characters is ignored.
        prompt: The prompt to remove, if known.
        more_prompts: More of them.
    """

    def __init__(self, api_key: str = "", prompt: object = None, more_prompts: Iterable[str] = ()) -> None:
        self._api_key = api_key
        self._texts = (prompt, *more_prompts)
        self._secrets: list[re.Pattern[str]] = []
        self._parts: frozenset[str] = frozenset()
        if len(api_key) >= SHORTEST_KEY:
            beginning = api_key[:_KEY_BEGINNING]
            self._secrets = [
                re.compile(re.escape(api_key), re.IGNORECASE),
                # Its end may be escaped where its beginning is not.
                re.compile(rf"{re.escape(beginning)}[\w%+/=\\&#;-]*", re.IGNORECASE),
                re.compile(re.escape(api_key.encode().hex()), re.IGNORECASE),
            ]
            self._parts = _parts_of(api_key)

    @cached_property
    def _prompts(self) -> list[tuple[re.Pattern[str], re.Pattern[str]]]:
        """Patterns of the prompts; compiled when they are first needed, since a call may have many."""
        quoted = (_quoted(_printable(text)) for text in self._texts if isinstance(text, str))
        return [patterns for patterns in quoted if patterns is not None]

    def with_prompt(self, prompt: object) -> "Redaction":
        """Return a redaction that also removes a prompt."""
        return Redaction(self._api_key, prompt)

    def with_prompts(self, prompts: Iterable[str]) -> "Redaction":
        """Return a redaction that also removes several prompts."""
        return Redaction(self._api_key, more_prompts=prompts)

    def finds_key(self, text: str) -> bool:
        """Whether a text contains the API key or a long part of it, escaped or not."""
        layers = [text]
        for unescape in _UNESCAPES:
            layers.append(unescape(layers[-1]))
        return any(self._holds_key(layer) for layer in dict.fromkeys(layers))

    def _holds_key(self, text: str) -> bool:
        # Base64 may be split into lines.
        dense = "".join(text.split())
        return any(secret.search(dense) for secret in self._secrets) or self._holds_part(dense)

    def _holds_part(self, text: str) -> bool:
        if not self._parts:
            return False
        return any(text[begin : begin + _KEY_PART] in self._parts for begin in range(len(text) - _KEY_PART + 1))

    def __call__(self, text: str, max_length: int = MAX_TEXT) -> str:
        """Redact a text and truncate it to a readable length.

        The text keeps its escapes, unless they hide something that has to be removed.
        """
        shown = folded = self._strip(_printable(text))
        for unescape in _UNESCAPES:
            unescaped = _printable(unescape(folded))
            if unescaped != folded:
                folded = self._strip(unescaped)
                shown = shown if folded == unescaped else folded
        return shown if len(shown) <= max_length else f"{shown[: max_length - 1]}…"

    def _strip(self, text: str) -> str:
        """Redact a text without unescaping it."""
        text = self._without_prompt(text)
        for secret in self._secrets:
            text = secret.sub("***", text)
        if self._holds_part(text):
            text = _WORD.sub(lambda word: "***" if self._holds_part(word[0]) else word[0], text)
        text = _INLINE_DATA.sub("data:…", text)
        text = _URL.sub(_plain_url, text)
        text = _QUERY.sub("?…", text)
        text = _SECRET_PARAMETER.sub(r"\1…", text)
        return _LONG_RUN.sub("…", text)

    def _without_prompt(self, text: str) -> str:
        """Remove the prompts, quoted completely or truncated."""
        for whole, beginning in self._prompts:
            text = whole.sub("…", text)
            cut = beginning.search(text)
            text = f"{text[: cut.start()]}…" if cut else text
        return text


def _quoted(prompt: str) -> tuple[re.Pattern[str], re.Pattern[str]] | None:
    """Compile patterns for a prompt and its beginning that never match within a word.

    Otherwise a short prompt could match part of a request id.
    """
    if len(prompt) < _SHORTEST_PROMPT:
        return None
    before = r"(?<![\w-])" if prompt[0].isalnum() else ""
    after = r"(?![\w-])" if prompt[-1].isalnum() else ""
    whole = re.compile(before + re.escape(prompt) + after)
    if len(prompt) <= _PROMPT_BEGINNING:
        return whole, whole
    return whole, re.compile(before + re.escape(prompt[:_PROMPT_BEGINNING]))


def _printable(text: str) -> str:
    """Replace control characters by spaces and repair lone surrogates, which Prefect can't store."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _UNPRINTABLE.sub(" ", whole).strip()


def _from_json(text: str) -> str:
    return _JSON_ESCAPE.sub(_unescaped, text)


def _unescaped(found: re.Match[str]) -> str:
    if found[3]:
        return " " if found[3] in "bfnrt" else found[3]
    return chr(int(found[1] or found[2], 16))


def _from_percent(text: str) -> str:
    return _PERCENT_ESCAPES.sub(lambda found: unquote(found[0], errors="replace"), text)


def _from_html(text: str) -> str:
    return _HTML_ESCAPE.sub(lambda found: html.unescape(found[0]), text)


def has_secret(url: str) -> bool:
    """Whether a URL has a part that must not be stored, such as a signature."""
    return Redaction()(url, len(url)) != url


def _plain_url(found: re.Match[str]) -> str:
    """Strip user, query and fragment from a URL that begins at its `://`."""
    rest = found[0].removeprefix("://")
    base = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = base.partition("/")
    _, at, host = host.rpartition("@")
    return f"://{'…@' if at else ''}{host}{slash}{path}{'?…' if base != rest else ''}"


_UNESCAPES = (_from_json, _from_percent, _from_html) * _LAYERS


def _parts_of(api_key: str) -> frozenset[str]:
    """List all runs of 16 characters that reveal a part of the key: verbatim, in hexadecimal, in base64."""
    in_hex = api_key.encode().hex()
    return frozenset(
        text[begin : begin + _KEY_PART]
        for text in (api_key, in_hex, in_hex.upper(), *_in_base64(api_key.encode()))
        for begin in range(len(text) - _KEY_PART + 1)
    )


def _in_base64(secret: bytes) -> list[str]:
    """Encode a secret in base64, at each of the three offsets that it may have within a longer text."""
    found = []
    for offset, begin in ((0, 0), (1, 2), (2, 3)):
        padded = bytes(offset) + secret
        text = base64.b64encode(padded).decode()[begin : len(padded) * 8 // 6]
        found += [text, text.replace("+", "-").replace("/", "_")]
    return list(dict.fromkeys(found))


_MAX_DEPTH = 5


def redacted_facts(facts: Mapping[str, Any], redact: Redaction) -> Mapping[str, Any]:
    """Redact all names and texts of a JSON object."""
    return {redact(name): _redacted_fact(value, redact) for name, value in facts.items()}


def _redacted_fact(value: object, redact: Redaction, depth: int = 1) -> object:
    """Redact all texts in a JSON value; values nested too deeply are dropped."""
    match value:
        case str():
            return redact(value)
        case Mapping() if depth < _MAX_DEPTH:
            return {redact(name): _redacted_fact(part, redact, depth + 1) for name, part in value.items()}
        case list() if depth < _MAX_DEPTH:
            return [_redacted_fact(part, redact, depth + 1) for part in value]
        case int() | float():
            return value
        case _:
            return None
