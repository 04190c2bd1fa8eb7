import base64
import html
import json
import re
import time
from functools import reduce
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_xai_video.api.redaction import Redaction

KEY = "xai-very-secret-0123456789"
PROMPT = 'A "cat"\nplaying with a ball'
SIGNED = "https://vidgen.x.ai/cats/cat.mp4?X-Amz-Signature=s3cr3t&X-Amz-Expires=60"
REDACT = Redaction(KEY, PROMPT)


def in_json(text):
    return json.dumps(text)[1:-1].replace("/", "\\/")


def in_json_wholly(text):
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def in_html(text):
    return "".join(f"&#{ord(letter)};" for letter in text)


def percent(text):
    return quote(text, safe="")


def percent_wholly(text):
    return "".join(f"%{byte:02x}" for byte in text.encode())


def in_base64(text):
    return base64.b64encode(text.encode()).decode()


ESCAPES = [in_json, in_json_wholly, in_html, html.escape, percent, percent_wholly]


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        KEY.upper(),
        f"Bearer {KEY}",
        KEY[:15],
        KEY.replace("-", "\\u002d"),
        KEY.replace("-", "\\\\u002d"),
        KEY.replace("-", "\\x2d"),
        KEY.replace("-", "%2D"),
        KEY.replace("-", "%252d"),
        KEY.replace("-", "&#45;"),
        KEY[:13] + KEY[13:].replace("-", "%2D"),
        KEY[:13] + KEY[13:].replace("-", "\\u002d"),
        KEY.encode().hex(),
        *(in_base64(f"{'x' * padding}{KEY}") for padding in range(4)),
        base64.urlsafe_b64encode(f">>>{KEY}".encode()).decode(),
    ],
)
def test_an_api_key_is_removed_however_it_is_echoed(echo):
    said = REDACT(f"Incorrect API key: {echo} (see the console)")
    assert "***" in said
    assert said.startswith("Incorrect API key: ")
    assert said.endswith("(see the console)")
    assert KEY[4:12].lower() not in said.lower()


@given(
    before=st.text(max_size=20), after=st.text(max_size=20), escapes=st.lists(st.sampled_from(ESCAPES), max_size=3)
)
def test_no_nesting_of_escapes_hides_a_secret(before, after, escapes):
    for secret in KEY, PROMPT, SIGNED:
        echo = reduce(lambda text, escape: escape(text), escapes, secret)
        said = REDACT(f"{before} {echo} {after}", 10_000)
        for _ in range(4):
            said = html.unescape(unquote(re.sub(r"\\u(....)", lambda found: chr(int(found[1], 16)), said)))
        assert KEY not in said
        assert "playing with" not in said
        assert "s3cr3t" not in said


@pytest.mark.parametrize(
    "url",
    [
        SIGNED,
        SIGNED.replace("/", "\\/"),
        SIGNED.replace("https", "HTTPS"),
        SIGNED.removeprefix("https://"),
        SIGNED.removeprefix("https:"),
        SIGNED.replace("https", "s3"),
        SIGNED.replace("?", "#"),
        quote(SIGNED, safe=""),
        quote(SIGNED),
        quote(quote(SIGNED, safe=""), safe=""),
        SIGNED.replace("?", "?title=a%20cat&"),
        SIGNED.replace("?", "?title='cat'&"),
        "https://user:s3cr3t@vidgen.x.ai/cat.mp4",
        "https://vidgen.x.ai/cat.mp4?s3cr3t",
        "the parameters Signature=s3cr3t and access_token=s3cr3t",
    ],
)
def test_a_signature_is_removed_from_every_form_of_a_url(url):
    said = REDACT(f"Cannot fetch {url} now")
    assert "s3cr3t" not in said
    assert said.startswith("Cannot fetch ")
    assert said.endswith(" now")


def test_text_without_secrets_is_unchanged():
    text = 'Cannot fetch https://vidgen.x.ai/cats/cat.mp4: 50% of "it" \\u00e9 &amp; more? data: none, tokens: 5'
    assert REDACT(text) == text


def test_inline_data_is_removed():
    picture = base64.b64encode(bytes(range(256))).decode()
    said = REDACT(f"data:image/png;base64,{picture} or data%3Aimage%2Fpng%3Bbase64%2CiVBORw0 or {picture}")
    assert said == "data:… or data:… or …"


def test_a_truncated_prompt_is_removed():
    assert REDACT('Prompt "A \\"cat\\"\\nplaying wi') == 'Prompt "…'


def test_a_prompt_is_not_found_within_a_word():
    redact = Redaction(prompt="cafe")
    assert redact('"cafe" 0b6fcafe-cafe-4b3a cafes') == '"…" 0b6fcafe-cafe-4b3a cafes'


def test_a_short_key_and_a_short_prompt_are_not_secrets():
    assert Redaction("a cat", "cat")("a cat") == "a cat"


@given(st.text(alphabet=st.characters(), max_size=300))
def test_every_text_becomes_storable(text):
    said = REDACT(text)
    assert len(said) <= 500
    assert "\0" not in said
    said.encode()
    assert REDACT(said) == said


UNITS = [
    "?",
    "?a",
    "https://",
    "://",
    "data:",
    "data:a/",
    "a",
    "a.",
    "a=",
    "%25",
    "%",
    "\\",
    "\\u002d",
    "&#45;",
    "&",
    "x-amz-",
    "xai-very-sec",
    "token-",
    "A_",
]


@pytest.mark.parametrize("unit", UNITS)
def test_the_time_is_linear_in_the_length(unit):
    def seconds(length):
        text, times = (unit * length)[:length], []
        for _ in range(3):
            begin = time.process_time()
            REDACT(text)
            times.append(time.process_time() - begin)
        return min(times)

    assert seconds(160_000) < 8 * seconds(40_000) + 0.05
