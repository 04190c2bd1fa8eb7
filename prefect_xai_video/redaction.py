"""Redaction: all texts from outside pass through it, after parsing and before they are shown or kept. No I/O.

A response may repeat the API key, the prompt, a signed URL or inline data, as they are or escaped. Each pattern below
is matched in one pass that can't backtrack, so the time is linear in the length of the text.
"""

import base64
import html
import re
from urllib.parse import unquote

MAX_TEXT = 500
"""Characters of a text that are kept."""
MAX_CODE = 100
"""Characters of a code, a name or an id that are kept."""

SHORTEST_KEY = 8
"""A shorter API key belongs to an emulator: it is no secret, and would be found within words."""
_KEY_BEGINNING = 12
"""A text that was cut may hold a part of the key: so many characters are recognised as its beginning."""
_SHORTEST_PROMPT = 4
_PROMPT_BEGINNING = 12

_LAYERS = 3
"""How often escapes may be nested: JSON within a percent-encoded URL within JSON."""

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
_LONG_RUN = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{200,}")


class Redaction:
    """Takes secrets out of a text: `redact = Redaction(api_key)`, then `redact(text)`.

    Args:
        api_key: The API key that must not be repeated; one of fewer than 8 characters is not looked for.
        prompt: The prompt that must not be repeated, if it is known.
    """

    def __init__(self, api_key: str = "", prompt: object = None) -> None:
        self._api_key = api_key
        self._secrets: list[re.Pattern[str]] = []
        self._encoded: list[str] = []
        if len(api_key) >= SHORTEST_KEY:
            beginning = api_key[:_KEY_BEGINNING]
            self._secrets = [
                re.compile(re.escape(api_key), re.IGNORECASE),
                re.compile(rf"{re.escape(beginning)}[\w-]*", re.IGNORECASE),
                re.compile(re.escape(api_key.encode().hex()), re.IGNORECASE),
            ]
            self._encoded = _in_base64(api_key.encode())
        self._prompt = _quoted(_printable(prompt)) if isinstance(prompt, str) else None

    def with_prompt(self, prompt: object) -> "Redaction":
        """Make one that knows a prompt, too."""
        return Redaction(self._api_key, prompt)

    def finds_key(self, text: str) -> bool:
        """Whether a text repeats the API key, without escapes."""
        return any(secret.search(text) for secret in self._secrets) or any(part in text for part in self._encoded)

    def __call__(self, text: str, max_length: int = MAX_TEXT) -> str:
        """Redact a text and cut it to a readable length.

        The text keeps its escapes unless something was found beneath them.
        """
        shown = folded = self._strip(_printable(text))
        for unescape in (_from_json, _from_percent, _from_html) * _LAYERS:
            unescaped = _printable(unescape(folded))
            if unescaped != folded:
                folded = self._strip(unescaped)
                shown = shown if folded == unescaped else folded
        return shown if len(shown) <= max_length else f"{shown[: max_length - 1]}…"

    def _strip(self, text: str) -> str:
        """Redact a text as it stands, without looking beneath escapes."""
        text = self._without_prompt(text)
        for secret in self._secrets:
            text = secret.sub("***", text)
        for encoded in self._encoded:
            text = text.replace(encoded, "***")
        text = _INLINE_DATA.sub("data:…", text)
        text = _URL.sub(_plain_url, text)
        text = _QUERY.sub("?…", text)
        text = _SECRET_PARAMETER.sub(r"\1…", text)
        return _LONG_RUN.sub("…", text)

    def _without_prompt(self, text: str) -> str:
        """Take the prompt out, quoted whole or cut."""
        if self._prompt is None:
            return text
        whole, beginning = self._prompt
        text = whole.sub("…", text)
        cut = beginning.search(text)
        return f"{text[: cut.start()]}…" if cut else text


def _quoted(prompt: str) -> tuple[re.Pattern[str], re.Pattern[str]] | None:
    """Find a prompt and its beginning, but not within a word: a request id may hold the letters of a short one."""
    if len(prompt) < _SHORTEST_PROMPT:
        return None
    before = r"(?<![\w-])" if prompt[0].isalnum() else ""
    after = r"(?![\w-])" if prompt[-1].isalnum() else ""
    whole = re.compile(before + re.escape(prompt) + after)
    if len(prompt) <= _PROMPT_BEGINNING:
        return whole, whole
    return whole, re.compile(before + re.escape(prompt[:_PROMPT_BEGINNING]))


def _printable(text: str) -> str:
    """Put a space for white space and control characters, and make surrogates whole: Prefect can't store them."""
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


def _plain_url(found: re.Match[str]) -> str:
    """A URL, from its `://` on, without user, query and fragment."""
    rest = found[0].removeprefix("://")
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = place.partition("/")
    _, at, host = host.rpartition("@")
    return f"://{'…@' if at else ''}{host}{slash}{path}{'?…' if place != rest else ''}"


def _in_base64(secret: bytes) -> list[str]:
    """The characters that a secret becomes in base64, at each of the three offsets it may have within longer text."""
    found = []
    for offset, begin in ((0, 0), (1, 2), (2, 3)):
        padded = bytes(offset) + secret
        text = base64.b64encode(padded).decode()[begin : len(padded) * 8 // 6]
        found += [text, text.replace("+", "-").replace("/", "_")]
    return list(dict.fromkeys(found))
