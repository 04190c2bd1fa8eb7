"""README and docs: their code runs, against the emulator, and their tables leave nothing out."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect_aws import AwsCredentials, S3Bucket

import prefect_xai_video
from prefect_xai_video import Receipt, XaiCredentials, agenerate_video, errors
from prefect_xai_video.orchestration.events import EVENT_OF, payload_of

from .support.code_blocks import PAGES, ROOT, CodeBlock, code_blocks, run_bash, run_python, run_tests

BLOCKS = [block for page in PAGES for block in code_blocks(page)]
NOT_RUN = {
    "README.md": 4,
    "docs/concepts/unknown-outcomes.md": 1,
    "docs/how-to/automations.md": 3,
    "docs/how-to/batch-lane.md": 3,
    "docs/how-to/batches.md": 3,
    "docs/how-to/compose.md": 6,
    "docs/how-to/deployments.md": 7,
    "docs/how-to/emulator.md": 3,
    "docs/how-to/recover.md": 3,
    "docs/how-to/storage.md": 2,
    "docs/how-to/testing.md": 2,
    "docs/promises.md": 1,
    "docs/tutorial.md": 8,
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000a49444154789c63000100000500010d0a2db4"
    "0000000049454e44ae426082"
)


def running(language, tests=False):
    """The pages with blocks of a language that run, and those blocks; tests are for pytest to run."""
    by_page = {}
    for block in BLOCKS:
        if block.language == language and block.has_tests == tests and block.reason is None:
            by_page.setdefault(block.page, []).append(block)
    return [pytest.param(blocks, id=page) for page, blocks in by_page.items()]


@pytest.fixture(scope="module")
def emulator(emulator_of_module):
    return emulator_of_module


@pytest.fixture(scope="module")
def saved_blocks(prefect_server, emulator, aws_env):
    """What the pages take for granted: an API key, a bucket, and both as saved blocks."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (aws_env | emulator.environment()).items():
            patch.setenv(name, value)
        AwsCredentials().get_s3_client().create_bucket(Bucket="my-videos")
        XaiCredentials.from_environment().save("xai", overwrite=True)
        S3Bucket(bucket_name="my-videos", credentials=AwsCredentials()).save("xai-videos", overwrite=True)
        yield
    # Pages create limits, and other tests use the server, too.
    with get_client(sync_client=True) as prefect:
        for limit in prefect.read_global_concurrency_limits():
            prefect.delete_global_concurrency_limit_by_name(limit.name)


@pytest.fixture
def reader(saved_blocks, tmp_path, monkeypatch):
    """The directory of somebody who follows a page."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_HOME", str(tmp_path / "xai-video"))
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "street.png"):
        (tmp_path / name).write_bytes(PNG)
    shutil.copytree(ROOT / "flows", tmp_path / "flows")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("blocks", running("python"))
def test_the_python_of_a_page_runs(blocks, reader):
    run_python(blocks, reader)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", running("python", tests=True))
def test_the_tests_of_a_page_pass(blocks, reader):
    run_tests(blocks, reader, PREFECT_API_URL=PREFECT_API_URL.value())


@pytest.mark.slow
@pytest.mark.parametrize("blocks", running("bash"))
def test_the_commands_of_a_page_run(blocks, reader, monkeypatch, forking):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("PATH", str(forking.commands), prepend=":")
    run_bash(blocks, reader, PREFECT_API_URL=PREFECT_API_URL.value())


@pytest.mark.parametrize("code", ["assert 1 == 2", "from prefect_xai_video import gone"])
def test_python_that_breaks_is_found(code, tmp_path):
    with pytest.raises((AssertionError, ImportError)) as raised:
        run_python([CodeBlock("page.md", 7, "python", code, None)], tmp_path)
    assert raised.value.__notes__ == [f"in the block of page.md:7:\n{code}"]


def test_a_test_that_breaks_is_found(tmp_path):
    code = "def test_it():\n    assert 1 == 2\n"
    with pytest.raises(AssertionError, match=r"test_page_md_7\.py:2: AssertionError"):
        run_tests([CodeBlock("page.md", 7, "python", code, None)], tmp_path)


def test_a_command_that_breaks_is_found(tmp_path):
    blocks = [CodeBlock("page.md", line, "bash", f"{code}\n", None) for line, code in ((1, "true"), (5, "false"))]
    with pytest.raises(AssertionError, match=r"== page\.md:5"):
        run_bash(blocks, tmp_path)


def test_blocks_that_do_not_run_say_why_and_are_counted():
    counts = dict.fromkeys(sorted({block.page for block in BLOCKS if block.reason}), 0)
    for block in BLOCKS:
        if block.reason:
            counts[block.page] += 1
    assert counts == NOT_RUN


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.place)
def test_python_imports_only_what_is_public(block):
    public = {"prefect_xai_video": prefect_xai_video.__all__, "prefect_xai_video.emulator": ["Emulator"]}
    public["prefect_xai_video.errors"] = dir(errors)
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prefect_xai_video"):
            assert {alias.name for alias in node.names} <= set(public[node.module])


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md"]
)
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def table(page):
    """The names in the first column of the tables of a page."""
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_option_is_in_its_table():
    assert set(inspect.signature(agenerate_video.fn).parameters) <= table("reference/options.md")


def test_every_error_is_in_its_table():
    every = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert every - {"XaiVideoError"} == table("reference/errors.md")


def test_every_event_and_field_of_it_is_in_its_table():
    tabled = table("reference/events.md")
    receipt = Receipt.from_json((ROOT / "tests/engine/receipts_version_1/stored.json").read_bytes())
    assert set(EVENT_OF.values()) | set(payload_of(receipt, "")) == tabled


@pytest.mark.parametrize(("part", "text"), [("models", "| extend mode | 2-10 s"), ("settings", "## HOME")])
def test_a_generated_part_can_be_read_in_a_checkout(part, text):
    command = [sys.executable, ROOT / "docs/_hooks/generated.py", part]
    assert text in subprocess.run(command, check=True, capture_output=True, text=True).stdout
