"""How a video shows itself in a notebook."""

import base64
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from prefect_xai_video import Video
from prefect_xai_video.engine.video_html import MAX_INLINE_BYTES


class Shown(HTMLParser):
    """What a browser shows of HTML."""

    def __init__(self, video):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(video._repr_html_())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f"{data}\n"

    def attributes_of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def video(uri, **facts):
    known = {
        "key": "cats/ball",
        "request_id": "req-1",
        "model": "grok-imagine-video",
        "duration": 6,
        "size": 1_500_000,
    }
    costs = {"cost_usd": Decimal("0.30"), "content_type": "video/mp4", "sha256": "0" * 64}
    return Video(uri=uri, receipt_uri=f"{uri}.json", **known | costs | facts)


def test_a_file_on_this_machine_has_a_player_and_its_facts(tmp_path):
    path = tmp_path / "a cat #1 & 50%.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42")
    shown = Shown(video(path.as_uri()))
    (player,) = shown.attributes_of("video")
    assert player["src"] == f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    assert "controls" in player
    facts = ("cats/ball", "6 s", "$0.30", "grok-imagine-video", "1.5 MB", "req-1", path.as_uri())
    assert set(facts) <= set(shown.text.splitlines())


def test_a_large_file_is_linked(tmp_path):
    path = tmp_path / "<b>cat.mp4"
    with path.open("wb") as file:
        file.truncate(MAX_INLINE_BYTES + 1)
    shown = Shown(video(path.as_uri()))
    assert not shown.attributes_of("video")
    assert [link["href"] for link in shown.attributes_of("a")] == [path.as_uri()]
    assert "<b>cat.mp4" in shown.text


@pytest.mark.parametrize("uri", ["s3://my-videos/cats/ball.mp4", "https://example.com/a.mp4", "javascript:alert(1)"])
def test_a_video_elsewhere_is_named_and_neither_read_nor_linked(uri):
    shown = Shown(video(uri))
    assert not shown.attributes_of("video") + shown.attributes_of("a")
    assert uri in shown.text
    assert "not on this machine" in shown.text


@pytest.mark.parametrize(
    "uri", ["file:///nowhere/cat.mp4", "file:///", "file:///a%00b.mp4", "file://[", f"file:///{'a' * 5000}"]
)
def test_a_file_that_is_missing_or_no_file_does_no_harm(uri):
    shown = Shown(video(uri))
    assert not shown.attributes_of("video") + shown.attributes_of("a")
    assert "cats/ball" in shown.text
    assert "missing" in shown.text or "can't be read" in shown.text


def test_unknown_facts_are_left_out():
    text = Shown(video("s3://my-videos/a.mp4", request_id=None, model=None, duration=None, cost_usd=None)).text
    assert "None" not in text
    assert not {"Request id", "Model", "Duration", "Cost"} & set(text.splitlines())


def test_markup_in_facts_is_text(tmp_path):
    nasty = "<script>alert(1)</script>\"' onload=alert(1) x='"
    path = tmp_path / "cat.mp4"
    path.write_bytes(b"mp4")
    shown = Shown(video(path.as_uri(), key=nasty, request_id=nasty, model=nasty, content_type=nasty))
    assert shown.text.count(nasty) == 3
    assert {tag for tag, _ in shown.tags} == {"div", "video", "dl", "dt", "dd"}
    assert {name for _, names in shown.tags for name in names} == {"style", "controls", "loop", "playsinline", "src"}
