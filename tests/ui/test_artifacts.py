"""What the Prefect UI is given to show: nothing that it should not, and never at the price of a run."""

import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from prefect_xai_video import agenerate_video, astart_video, errors
from prefect_xai_video.api.requests import EditRequest, TextRequest
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.attempts import StoredFile, XaiFile
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.orchestration.storage import open_store
from prefect_xai_video.ui import artifacts
from prefect_xai_video.ui.artifacts import ProgressArtifact, publish_failure, publish_video
from prefect_xai_video.ui.pages import (
    Link,
    artifact_key,
    failure_description,
    failure_markdown,
    video_description,
    video_markdown,
)
from prefect_xai_video.ui.previews import MAX_BYTES

LINK = Link("https://bucket.example/cats/one.mp4?a=1&X-Amz-Signature=abc", datetime(2026, 11, 29, 12, tzinfo=UTC))
DONE = VideoStatus(request_id="id-1", state="done", duration=6, cost_usd=Decimal("0.30"))
FILE = StoredFile(uri="s3://videos/cats/one.mp4", size=272000, sha256="ab" * 32, content_type="video/mp4")


def stored(request=None, file=FILE) -> Receipt:
    request = request or TextRequest(prompt="A cat", duration=6, aspect_ratio="9:16", resolution="720p")
    return Receipt.claim("cats/one", request).submitted("id-1").finished(DONE).stored(file)


def shown(receipt=None, **parameters) -> str:
    receipt = receipt or stored()
    return video_markdown(receipt, receipt.video("s3://videos/cats/one.json"), **parameters)


def test_a_video_is_shown_by_picture_link_player_and_table():
    markdown = shown(picture=b"webp", link=LINK)
    picture, link, player, table = markdown.split("\n\n")
    assert picture == "![preview](data:image/webp;base64,d2VicA==)"
    assert link.startswith(f"[Open the video](<{LINK.url}>)")
    assert "until 2026-11-29 12:00:00 UTC at the latest" in link
    assert player.startswith("<video controls ")
    assert 'src="https://bucket.example/cats/one.mp4?a=1&amp;X-Amz-Signature=abc"' in player
    facts = ["A cat", "text", "grok-imagine-video", "720p", "9:16", "6 s", "$0.30", "cats/one", "id-1", FILE.uri]
    for fact in [*facts, "272 kB", "s3://videos/cats/one.json", "ab" * 16, "Accepted&nbsp;after", "Save"]:
        assert fact in table


def test_without_picture_and_link_there_is_the_table():
    markdown = shown()
    assert markdown.startswith("<table")
    assert "](" not in markdown
    assert "<video" not in markdown


def test_a_link_signed_for_a_session_says_that_it_may_end_earlier():
    assert "credentials" not in shown(link=LINK)
    assert "until the credentials" in shown(link=LINK._replace(url=f"{LINK.url}&X-Amz-Security-Token=t"))


def test_what_was_not_asked_for_is_not_guessed():
    assert shown(stored(TextRequest(prompt="A cat"))).count("xAI&#x27;s default") == 0
    assert shown(stored(TextRequest(prompt="A cat"))).count("xAI's default") == 2
    edit = EditRequest(prompt="Larger", video_url="https://example.com/cat.mp4")
    assert shown(stored(edit)).count("same as the input") == 2
    adopted = Receipt.adopt("cats/one", "id-1").finished(DONE).stored(FILE)
    markdown = shown(adopted)
    assert "Adopted" in markdown
    for unknown in ("Prompt", "Mode", "Resolution", "Queue", "Accepted"):
        assert unknown not in markdown


def test_times_that_nobody_saw_are_left_out():
    receipt = stored()
    seen = receipt.attempt.model_copy(
        update={
            "submitted_at": receipt.attempt.started_at + timedelta(seconds=0.4),
            "done_at": receipt.attempt.started_at + timedelta(seconds=200.4),
            "outcome_at": receipt.attempt.started_at + timedelta(seconds=202.9),
        }
    )
    markdown = shown(receipt.model_copy(update={"attempts": (seen,)}))
    assert all(f"<td>{time}</td>" in markdown for time in ("0.4 s", "0:03:20", "2.5 s"))
    old = seen.model_copy(update={"submitted_at": None, "done_at": None})
    markdown = shown(receipt.model_copy(update={"attempts": (old,)}))
    assert "Sent" in markdown
    assert not any(step in markdown for step in ("Accepted", "Queue", "Save"))


@pytest.mark.parametrize("text", ["'", "<", "a\n", "猫", "👩"])
def test_the_largest_artifact_fits(text):
    receipt = stored(TextRequest(prompt=text * (4096 // len(text))))
    link = LINK._replace(url=f"{LINK.url}&X-Amz-Security-Token={'t' * 2000}")
    assert len(shown(receipt, picture=bytes(MAX_BYTES), link=link).encode()) < 150_000


def test_a_long_prompt_is_shown_whole_on_demand():
    markdown = shown(stored(TextRequest(prompt="word " * 400)))
    assert markdown.count("word") == 60 + 400
    assert markdown.index("…") < markdown.index("<details>")
    assert "<details>" not in shown()


def test_an_artifact_key_belongs_to_one_video_key():
    keys = ["cats/one", "cats-one", "Cats/One", "cats/one-", "cats_one", "c" * 200, "c" * 201, "@", "=", "猫"]
    names = {artifact_key(key) for key in keys}
    assert len(names) == len(keys)
    assert artifact_key("cats/one") == "xai-video-cats-one-297718f353b1"
    assert artifact_key(f"{'campaign/' * 5}a-cat-{'0' * 50}").startswith("xai-video-a-cat-000")
    for name in names:
        assert name.replace("-", "").isascii()
        assert name == name.lower()
        assert len(name) < 80


def test_a_video_is_described_in_one_line():
    assert video_description(stored().video("")) == "Video stored · 6 s · $0.30 · key `cats/one`"
    assert video_description(stored().video(""), "a-cat") == "A cat · Video stored · 6 s · $0.30 · key `cats/one`"
    assert failure_description(errors.VideoFailed("no"), SENT, "a-cat").startswith("A cat · xAI could not render")


REQUEST = TextRequest(prompt="A cat", duration=6)
SENT = Receipt.claim("cats/one", REQUEST)
AFTER = {"key": "cats/one", "request_id": "id-1"}
FAILURES = {
    "moderated": (errors.VideoModerated("no", cost_usd=Decimal("0.3"), **AFTER), "$0.30", "another prompt"),
    "failed": (errors.VideoFailed("no", **AFTER), "possibly about $0.30", "regenerate"),
    "failed-free": (errors.VideoFailed("no", cost_usd=Decimal(0), **AFTER), "nothing", "regenerate"),
    "unknown": (errors.SubmissionUnknown("no", key="cats/one"), "possibly about $0.30", "collect-video"),
    "late": (errors.VideoTimeout("no", **AFTER), "about $0.30", "continues waiting, without paying again"),
    "download": (errors.DownloadError("no", **AFTER), "possibly about $0.30", "downloads the video"),
    "store": (errors.StorageError("no", key="cats/one"), "nothing", "run again with this key"),
    "store-paid": (errors.StorageError("no", **AFTER), "possibly about $0.30", "run again with this key"),
    "input": (errors.InvalidRequest("no"), "nothing", "fix the value named"),
    "refused": (errors.RateLimited("no", key="cats/one"), "nothing", "wait a while"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_happened_what_it_cost_and_what_to_do(name):
    error, cost, step = FAILURES[name]
    markdown = failure_markdown(error, SENT)
    assert markdown.startswith("## ")
    assert f"**Cost:** {cost}" in markdown
    assert step in markdown.partition("**Next step:**")[2]
    assert type(error).__name__ in markdown
    assert f"cost: {cost}" in failure_description(error, SENT)
    for known in (error.key, error.request_id):
        assert known is None or known in markdown


def kinds(kind=errors.XaiVideoError):
    return [kind, *(below for child in kind.__subclasses__() for below in kinds(child))]


def test_a_reply_that_was_not_understood_is_shown_with_its_trace_id():
    error = errors.SubmissionUnknown("no id", key="cats/one", trace_id="trace-7", answer='{"id": "3f7a"}')
    markdown = failure_markdown(error, SENT)
    assert "trace-7" in markdown
    assert "3f7a" in markdown


def test_a_request_that_xai_does_not_know_is_told_with_the_way_on():
    error = errors.RequestRejected("xAI does not know this request id", key="cats/one", http_status=404)
    markdown = failure_markdown(error, SENT.submitted("aged").not_found(error))
    assert markdown.startswith("## xAI does not know the request")
    assert "regenerate switched on: that gives the request up" in markdown
    assert not failure_markdown(error).startswith("## xAI does not know the request")


def test_a_submission_whose_video_may_be_found_is_told_to_look_first():
    error = errors.SubmissionUnknown("The reply was lost.", key="cats/one")
    file = XaiFile(name="a.mp4", expires_after=60)
    markdown = failure_markdown(error, Receipt.claim("cats/one", REQUEST, xai_file=file).unknown(error))
    steps = markdown.partition("**Next step:** ")[2]
    assert steps.startswith("run again with this key: that looks for the video, without paying. If it does not")
    assert "set to `resubmit`" in steps
    assert "that looks for the video" not in failure_markdown(error, SENT.unknown(error))


def test_every_error_is_told():
    grouping = {errors.XaiVideoError, errors.ApiError, errors.GenerationError}
    own = {kind for kind in kinds() if kind.__module__ == errors.__name__} - grouping
    titles = [failure_markdown(kind("no")).splitlines()[0] for kind in own]
    assert len(set(titles)) == len(own)
    assert failure_markdown(errors.XaiVideoError("no")).splitlines()[0] not in titles


@pytest.mark.parametrize(
    "error",
    [
        errors.KeyConflict("It has another.", request_id="id-1"),
        errors.RequestRejected("Malformed", request_id="id-1"),
    ],
)
def test_taking_over_a_request_id_costs_nothing_and_its_page_says_so(error):
    error.is_free = True
    markdown = failure_markdown(error)
    assert "**What it cost:** nothing" in markdown or "**Cost:** nothing" in markdown
    assert "nothing was changed" in markdown


def test_what_an_error_says_can_not_break_out():
    error = errors.RequestRejected("no </p>\n\n# A title\n<script>alert(1)</script>", code="`|<b>", key="a`b")
    markdown = failure_markdown(error)
    assert "<script>" not in markdown
    assert "\n# A title" not in markdown
    assert "`" not in failure_description(error)


@pytest.fixture
def unreachable(monkeypatch):
    async def refuse(*_, **__):
        raise OSError("no server")

    monkeypatch.setattr(artifacts.MarkdownArtifact, "acreate", refuse)
    monkeypatch.setattr(artifacts, "acreate_progress_artifact", refuse)


@pytest.mark.usefixtures("unreachable")
async def test_what_goes_wrong_with_an_artifact_is_logged_and_no_more(tmp_path, caplog):
    store = LocalStore(tmp_path)
    with caplog.at_level(logging.DEBUG, logger=artifacts.__name__):
        await publish_video(stored().video(""), stored(), store)
        await publish_failure(errors.VideoTimeout("no", key="cats/one"), store)
        await publish_failure(errors.StorageError("no", key="cats/one"), None)
        await ProgressArtifact("Rendering").show(DONE)
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert sum("no server" in str(record.exc_info) for record in caplog.records) == 4


@pytest.mark.parametrize(("step_seconds", "expected"), [(0, [0, 50, 100]), (60, [0, 100])])
async def test_progress_is_told_in_few_steps_and_to_its_end(monkeypatch, step_seconds, expected):
    told = []

    async def create(progress, **_):
        told.append(progress)
        return "id"

    async def update(_, progress):
        told.append(progress)

    monkeypatch.setattr(artifacts, "acreate_progress_artifact", create)
    monkeypatch.setattr(artifacts, "aupdate_progress_artifact", update)
    monkeypatch.setattr(artifacts, "STEP_SECONDS", step_seconds)
    artifact = ProgressArtifact("Rendering")
    for progress in [None, *range(100)]:
        await artifact.show(VideoStatus(request_id="id-1", state="pending", progress=progress))
    await artifact.show(DONE)
    await artifact.show(DONE)
    assert told == expected


async def published(run_id):
    async with get_client() as client:
        return await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("seconds", [3600, 0])
async def test_a_run_shows_its_video(storage, tmp_path, monkeypatch, seconds):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_LINK_SECONDS", str(seconds))
    store = open_store(storage, tmp_path)
    file = FILE.model_copy(update={"uri": store.uri("cats/one.mp4")})
    await store.create(stored(file=file))

    @flow
    async def run():
        receipt = stored(file=file)
        await publish_video(receipt.video(store.receipt_uri("cats/one")), receipt, store)
        await publish_failure(errors.KeyConflict("no", key="cats/one"), store)

    state = await run(return_state=True)
    video, failure = sorted(await published(state.state_details.flow_run_id), key=lambda artifact: artifact.key)
    assert (video.key, failure.key) == (artifact_key("cats/one"), artifact_key(None))
    assert video.description.startswith("A cat · Video stored")
    assert file.uri.replace("'", "&#x27;") in video.data
    linked = hasattr(storage, "bucket_name") and seconds > 0
    assert video.data.count("X-Amz-Signature") == (2 if linked else 0)
    assert "secret" not in video.data


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
async def test_the_flow_shows_its_video_with_a_preview(directory, xai, monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_PREVIEW", "true")
    state = await agenerate_video("A cat", duration=1, storage=directory, credentials=xai, return_state=True)
    (shown,) = [found for found in await published(state.state_details.flow_run_id) if found.type == "markdown"]
    assert "](data:image/webp;base64," in shown.data
    assert "$0.05" in shown.data
    assert len(shown.data) < 150_000


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("A cat [fault:moderated]", "Content moderation blocked the video"),
        ("A cat to be explained [fault:start-accepted-cut]", "It is unknown whether xAI accepted the request"),
        ("A cat " * 1000, "Invalid request"),
    ],
)
async def test_the_flow_explains_a_failure_once(prompt, said, directory, xai):
    state = await agenerate_video(prompt, duration=1, storage=directory, credentials=xai, return_state=True)
    (explained,) = [found for found in await published(state.state_details.flow_run_id) if found.type == "markdown"]
    assert said in explained.data
    assert "**Cost:**" in explained.data


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
async def test_what_is_tried_again_is_not_explained_before_it_has_failed(directory, xai, monkeypatch):
    monkeypatch.setattr(astart_video, "retry_delay_seconds", 0)
    state = await agenerate_video(
        "A cat to be tried again [fault:start-429-retry-after*6]",
        duration=1,
        storage=directory,
        credentials=xai,
        return_state=True,
    )
    (shown,) = [found for found in await published(state.state_details.flow_run_id) if found.type == "markdown"]
    assert state.is_completed()
    assert shown.description.startswith("A cat to be tried again · Video stored")
