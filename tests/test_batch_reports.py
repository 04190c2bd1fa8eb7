"""The page of a batch after a run, and the same report from its receipts alone."""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefect_xai_video import agenerate_videos
from prefect_xai_video.cli.app import run
from prefect_xai_video.orchestration.storage import open_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ROWS = [
    {"key": f"cats/{number}", "prompt": f"Cat {number}{fault}", "duration": 1 + number % 2}
    for number, fault in enumerate(["", "", " [fault:moderated]", " [fault:start-accepted-cut]", ""])
]


@pytest.fixture
def xai_video(capsys, aws_env, monkeypatch):
    """Runs the command; gives what it prints to stdout and to stderr, and its exit code."""
    for name, value in aws_env.items():
        monkeypatch.setenv(name, value)

    def xai_video(*arguments) -> tuple[str, str, int]:
        with ThreadPoolExecutor(1) as thread:
            code = thread.submit(run, [*map(str, arguments)]).result()
        said = capsys.readouterr()
        return said.out, said.err, code

    return xai_video


def place_of(storage) -> str:
    if hasattr(storage, "bucket_name"):
        return f"s3://{storage.bucket_name}/{storage.bucket_folder}"
    return str(storage.basepath)


def content_of(storage, name) -> str:
    if hasattr(storage, "bucket_name"):
        s3 = storage.credentials.get_s3_client()
        found = s3.get_object(Bucket=storage.bucket_name, Key=f"{storage.bucket_folder}/{name}")
        assert not name.endswith(".html") or found["ContentType"] == "text/html; charset=utf-8"
        return found["Body"].read().decode()
    return (Path(storage.basepath) / name).read_text()


async def test_a_batch_has_a_page_with_stills_beside_its_videos(storage, xai, monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_PREVIEW", "true")
    report = await agenerate_videos(ROWS[:2], storage=storage, credentials=xai)
    store = open_store(storage, Path(tempfile.gettempdir()))
    assert report.page == store.uri("cats/batch.report/index.html")
    page = content_of(storage, "cats/batch.report/index.html")
    assert page.count('poster="data:image/webp;base64,') == 2
    assert "Cat 1" in page
    assert "X-Amz" not in page
    assert "secret" not in page
    assert [key async for key in store.keys("")] == ["cats/0", "cats/1"]


async def test_a_report_from_receipts_equals_that_of_the_batch(storage, xai, xai_video):
    with tempfile.TemporaryDirectory() as elsewhere:
        manifest = Path(elsewhere, "cats.jsonl")
        manifest.write_text("\n".join(map(json.dumps, ROWS)))
        options = {"storage": storage, "credentials": xai, "allow_failures": True, "return_state": True}
        report = await (await agenerate_videos(str(manifest), **options)).result()
    out, err, code = xai_video("report", "cats", "--storage", place_of(storage), "--json")
    assert (err, code) == ("", 0)
    facts, own = json.loads(out), report.facts()
    # The report of the batch itself, which has more, stays.
    assert json.loads(content_of(storage, "cats/cats.report.json"))["run_id"] == report.run_id
    for name in ("count", "states", "new", "estimated_usd", "due_usd", "cost_usd", "wasted_usd", "reserved_usd"):
        assert facts[name] == own[name], name
    for name in ("folder", "by_model", "times"):
        assert facts[name] == own[name], name
    kinds, own_kinds = (
        sorted((kind["state"], kind["error_type"], kind["keys"], kind["next_step"]) for kind in each["failures"])
        for each in (facts, own)
    )
    assert kinds == own_kinds
    assert facts["page"].endswith("cats/cats.receipts.report/index.html")
    assert json.loads(content_of(storage, "cats/cats.receipts.report.json"))["states"] == own["states"]
    rows = content_of(storage, "cats/cats.receipts.report.csv").splitlines()
    assert len(rows) == 1 + len(ROWS)
    assert "Cat 0" in content_of(storage, "cats/cats.receipts.report/index.html")


async def test_a_report_says_its_totals_and_where_it_lies(directory, xai, xai_video):
    await agenerate_videos(ROWS[:2], storage=directory, credentials=xai)
    root = Path(directory.basepath)
    (root / "cats" / "broken.json").write_text("{}")
    out, _, code = xai_video("report", "cats/", "--storage", root)
    assert code == 0
    assert out.startswith("Videos    2 of 3 videos stored (1 unknown); $0.15 paid for 2 new videos\n")
    assert "Unknown   1: cats/broken\n" in out
    assert f"Page      {root}/cats/cats.receipts.report/index.html\n" in out
    assert xai_video("report", ".", "--storage", root)[0].endswith(f"{root}/all.receipts.report/index.html\n")


@pytest.mark.parametrize("prefix", ["dogs", "../cats", "cat", ""])
async def test_a_prefix_without_receipts_is_refused(prefix, directory, xai, xai_video, tmp_path):
    await agenerate_videos(ROWS[:1], storage=directory, credentials=xai)
    before = sorted(tmp_path.rglob("*"))
    out, err, code = xai_video("report", prefix, "--storage", directory.basepath)
    assert (out, code) == ("", 2)
    assert "is not allowed" in err
    assert sorted(tmp_path.rglob("*")) == before
