"""The Markdown of a long video's artifact, as pure functions of data."""

from collections.abc import Sequence

from prefect_xai_video.engine.segments import LongPlan
from prefect_xai_video.engine.video_html import size_in_words
from prefect_xai_video.engine.videos import LongVideo
from prefect_xai_video.ui.markdown import code, cut, escaped, table
from prefect_xai_video.ui.pages import Link, shown, video_description

MAX_PROMPT_CHARACTERS = 120
"""Longest prompt of a segment in the table, in characters; its own artifact has all of it."""


def long_video_description(video: LongVideo, words: str = "") -> str:
    """Describe a long video in one line of Markdown; arguments as for `video_description`."""
    return f"{video_description(video, words)} · {len(video.segments)} segments"


def long_video_markdown(
    video: LongVideo, plan: LongPlan, picture: bytes | None = None, link: Link | None = None
) -> str:
    """Write the page of a long video: preview, link, player, facts, and a table of its segments.

    Args:
        video: The video.
        plan: Its plan.
        picture: Its preview, an animated WebP.
        link: Link to the video.
    """
    rows = [
        ("Picture", video.picture),
        ("Duration", f"{video.duration} s" if video.duration else None),
        ("Cost", video.price),
        ("Key", code(video.key)),
        ("Video", code(video.uri)),
        ("Size", size_in_words(video.size)),
        ("SHA-256", f"{code(video.sha256[:32])}<br>{code(video.sha256[32:])}"),
        ("Record", code(video.receipt_uri)),
        ("Poster", code(video.poster) if video.poster else None),
        ("Last frame", code(video.last_frame) if video.last_frame else None),
    ]
    costs = [segment.price or "not reported" for segment in video.segments]
    segments = _segments(plan, video.key, costs)
    return "\n\n".join(part for part in (shown(picture, link), table(rows), segments) if part)


def long_plan_markdown(plan: LongPlan, key: str) -> str:
    """Write the page of a long video of which nothing was sent: the estimated cost, and a table of its segments.

    Args:
        plan: Its plan.
        key: Its key.
    """
    facts = f"<p>{escaped(plan.summary)}. Nothing was sent.</p>"
    return f"{facts}\n\n{_segments(plan, key, [segment.cost for segment in plan.segments])}"


def _segments(plan: LongPlan, key: str, costs: Sequence[str]) -> str:
    lines = ["<tr><th>Key</th><th>Seconds</th><th>Begins</th><th>Cost</th><th>Prompt</th></tr>"]
    for segment, cost in zip(plan.segments, costs, strict=True):
        begins = f"with {segment.tail} s of the one before" if segment.tail else segment.continuation
        prompt = escaped(cut(segment.prompt, MAX_PROMPT_CHARACTERS))
        cells = (code(f"{key}/{segment.name}"), f"{segment.seconds}", begins, cost, prompt)
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "\n".join(['<table cellpadding="4">', *lines, "</table>"])
