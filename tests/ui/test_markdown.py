"""Text from outside is shown as it is, and means nothing."""

import re
from html.parser import HTMLParser

import pytest

from prefect_xai_video.ui.markdown import code, cut, details, escaped, paragraph, table

NASTY = {
    "table": "a | b\n|---|---|\n| c | d |",
    "empty-lines": "one\n\n# two\n\n- three\r\n\r\n    four",
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "breaks-out": "</td></tr></table></details></p></code>\n\n<h1>out</h1>",
    "image": "![x](http://evil.example/x.png) [y](javascript:alert(1)) [z]: http://evil.example",
    "address": "www.evil.example http://evil.example me@evil.example <http://evil.example>",
    "code": "` `` ``` ~~~ &amp; &#60;b&#62; \\| \\`",
    "quotes": '" onmouseover="alert(1)" \'',
    "other-line-ends": "one\u2028two\u2029three\x0bfour\x0cfive\x85six",
}


class Shown(HTMLParser):
    """What a browser shows of HTML."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, text):
        self.text += text


def as_one_line(text):
    return re.sub(r"[\x00-\x1f\x85\u2028\u2029]", " ", text)


@pytest.mark.parametrize("name", NASTY)
def test_any_text_is_shown_as_it_is_and_starts_no_tag(name):
    shown = Shown(escaped(NASTY[name]))
    assert shown.tags == []
    assert shown.text == as_one_line(NASTY[name])


@pytest.mark.parametrize("name", NASTY)
def test_no_text_ends_the_block_that_it_stands_in(name):
    for block in (
        table([("Prompt", escaped(NASTY[name])), ("Key", code(NASTY[name]))]),
        paragraph(NASTY[name]),
        details("The whole", NASTY[name]),
    ):
        assert block.startswith("<")
        assert all(line.strip() for line in re.split(r"\r\n|\n|\r", block))
        assert not set(Shown(block).tags) - {"table", "tr", "td", "b", "p", "br", "code", "details", "summary"}


def test_what_turns_text_round_or_hides_is_left_out_and_letters_and_emoji_stay():
    assert escaped("\u202eabc\u202c\u2066d\u2069\u200be\ufeff\U000e0041") == "abcde"
    assert escaped("שלום 猫 é 👩\u200d🚀") == "שלום 猫 é 👩\u200d🚀"
    assert escaped("\ud800") == "\ufffd"


def test_a_cut_text_says_so():
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abcde…"


def test_a_row_without_a_value_is_left_out():
    assert "Cost" not in table([("Key", "cat"), ("Cost", None), ("Cost", "")])
