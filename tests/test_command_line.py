"""`python -m prefect_xai_video receipts` and `python flows/generate_video.py`, as a person types them."""

import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from api_key import API_KEY
from ports import free_port

from prefect_xai_video.__main__ import main
from prefect_xai_video.errors import RequestRejected, SubmissionUnknown
from prefect_xai_video.receipts import NOT_FOUND_STEP, Receipt
from prefect_xai_video.requests import build_request
from prefect_xai_video.stores import open_store
from prefect_xai_video.stores.bucket import S3Store

FLOWS = Path(__file__).parents[1] / "flows"
sys.path.append(str(FLOWS))

import generate_video

REQUEST = build_request("A cat", duration=1)


@pytest.fixture
def receipts(monkeypatch, capsys):
    """Runs the command, from a thread, since tests have an event loop of their own; gives what it prints."""

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["prefect_xai_video", "receipts", *arguments])
        try:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(main).result()
        except SystemExit as end:
            print(end)
        said = capsys.readouterr()
        return said.out + said.err

    return run


async def fill(store):
    await store.create(Receipt.claim("dogs/two", REQUEST).submitted("id-2"))
    await store.create(Receipt.claim("cats/one", REQUEST).unknown(SubmissionUnknown("The reply was lost.")))


async def test_receipts_are_listed_by_state_with_what_can_be_done(receipts, directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    (tmp_path / "store" / "bad.json").write_text("{")
    said = receipts(str(directory.basepath)).splitlines()
    assert [line.partition(" (")[0] for line in said if not line.startswith(" ")] == [
        "submitted",
        "unknown",
        "unreadable",
    ]
    assert said[0] == "submitted (1): run again with this key: it goes on waiting, without paying"
    assert said[1].split()[0] == "dogs/two"
    assert said[1].endswith("request id-2  about $0.05")
    assert 'on_unknown="resubmit"' in said[2]
    assert said[3].endswith("request id unknown  about $0.05  The reply was lost.")
    assert "bad.json can't be read" in said[5]


async def test_a_directory_may_be_named_from_here(receipts, directory, tmp_path, monkeypatch):
    await fill(open_store(directory, tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "cats/one" in receipts("store")
    monkeypatch.chdir(tmp_path / "store")
    assert "cats/one" in receipts(".")


async def test_a_request_that_xai_does_not_know_has_a_step_of_its_own(receipts, directory, tmp_path):
    store = open_store(directory, tmp_path)
    await fill(store)
    unknown = RequestRejected("xAI does not know the request id.", http_status=404)
    await store.create(Receipt.claim("cats/lost", REQUEST).submitted("id-3").not_found(unknown))
    lines = receipts(str(directory.basepath), "--state", "submitted").splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        f"submitted (1): {NOT_FOUND_STEP}",
        "submitted (1): run again with this key: it goes on waiting, without paying",
    ]
    assert "id-3" in lines[1]


async def test_one_state_can_be_asked_for(receipts, directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    said = receipts(str(directory.basepath), "--state", "unknown")
    assert "cats/one" in said
    assert "dogs/two" not in said


async def test_receipts_of_a_bucket_are_listed_under_a_prefix(receipts, bucket, s3_url, monkeypatch):
    await fill(S3Store(bucket))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "access",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_url,
    }.items():
        monkeypatch.setenv(name, value)
    said = receipts(f"s3://{bucket.bucket_name}/{bucket.bucket_folder}/cats/")
    assert said.startswith("unknown (1)")
    assert "dogs/two" not in said
    assert "submitted (1)" in receipts(f"s3://{bucket.bucket_name}/{bucket.bucket_folder}")


async def test_a_folder_within_a_store_can_be_named(receipts, directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    assert receipts(str(tmp_path / "store" / "cats")).startswith("unknown (1)")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "no such receipts here"),
        (["nowhere", "--state", "done"], "no such receipts"),
        (["--state", "paid"], "invalid choice: 'paid'"),
    ],
)
def test_what_is_not_there_is_one_sentence(receipts, arguments, text):
    assert text in receipts(*arguments)


@pytest.mark.slow
def test_a_storage_block_can_be_named(receipts, prefect_server, directory, tmp_path):
    directory.save("videos")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "bad.json").write_text("{")
    assert "unreadable (1)" in receipts("--block", "local-file-system/videos")
    assert "nobody" in receipts("--block", "local-file-system/nobody")


def test_it_is_a_command(tmp_path):
    command = [sys.executable, "-m", "prefect_xai_video", "receipts", str(tmp_path)]
    assert (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        == "There are no such receipts here.\n"
    )


@pytest.fixture
def refusal(monkeypatch, tmp_path, capsys):
    """Runs `generate_video.py` with what it refuses; gives what it prints, and checks that nothing has begun."""
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    level = logging.getLogger("prefect").level

    def run(*arguments: str, **env: str) -> str:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["generate_video.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            generate_video.main()
        said = capsys.readouterr()
        assert "Starting temporary server" not in said.out + said.err
        assert not list(tmp_path.rglob(".emulator"))
        return f"{ended.value.code}{said.err}"

    yield run
    logging.getLogger("prefect").setLevel(level)
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--duration", "six"], "duration: 'six' is not allowed"),
        (["--duration", "20"], "duration: 20 is not allowed"),
        (["--aspect-ratio", "2:1"], "aspect_ratio: '2:1' is not allowed"),
        (["--key", "cats/../cat"], "key: 'cats/../cat' is not allowed"),
        (["--on-unknown", "again"], "invalid choice: 'again'"),
        (["--image-url", "nowhere.png"], "image_url: 'nowhere.png' can't be used"),
        (["--image-url", __file__], "allowed: a PNG, JPEG or WebP image"),
        (["--video-url", __file__], "allowed: an MP4 video"),
        (["--directory", f"{__file__}/videos"], "videos can't be made"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_begins(refusal, arguments, text):
    said = refusal("A cat", *arguments)
    assert text in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"XAI_API_KEY": "two words"}, "XAI_API_KEY: An API key is needed"),
        ({"XAI_API_KEY": API_KEY, "XAI_BASE_URL": "http://example.com"}, "XAI_BASE_URL: "),
        ({"XAI_API_KEY": API_KEY, "XAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1"}, "No response from http"),
    ],
)
def test_a_bad_key_or_address_is_one_sentence_before_anything_begins(refusal, env, text):
    assert text in refusal("A cat", **env)


def test_a_key_that_xai_rejects_is_one_sentence_before_anything_begins(refusal, emulator, submissions):
    said = refusal("A cat", XAI_API_KEY="xai-wrong", XAI_BASE_URL=emulator.base_url)
    assert "Incorrect API key provided" in said
    assert submissions() == 0
