"""The command `xai-video`, as a person types it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import prefect_xai_video
from prefect_xai_video.api.options import LISTS, build_request
from prefect_xai_video.cli import batches, videos
from prefect_xai_video.cli.app import run
from prefect_xai_video.engine.handover import Handover, delivery_of
from prefect_xai_video.engine.next_steps import NOT_FOUND_STEP
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.errors import RequestRejected, SubmissionUnknown
from prefect_xai_video.orchestration.storage import open_store

from ..support.api_key import API_KEY
from ..support.ports import free_port

XAI_VIDEO = Path(sys.executable).with_name("xai-video")
REQUEST = build_request("A cat", duration=1)


@pytest.fixture
def xai_video(capsys):
    """Runs the command, from a thread, since tests have an event loop of their own.

    Gives what it prints to stdout and to stderr, and its exit code.
    """

    def xai_video(*arguments) -> tuple[str, str, int]:
        with ThreadPoolExecutor(1) as thread:
            code = thread.submit(run, [*map(str, arguments)]).result()
        said = capsys.readouterr()
        return said.out, said.err, code

    return xai_video


@pytest.fixture
def receipts(xai_video):
    """Runs `xai-video receipts`; gives what it prints."""

    def receipts(*arguments) -> str:
        out, err, _ = xai_video("receipts", *arguments)
        return out + err

    return receipts


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
        "3 receipts",
    ]
    assert said[0] == "submitted (1): run again with this key: that continues waiting, without paying again"
    assert said[1].split()[0] == "dogs/two"
    assert said[1].endswith("request id-2  about $0.05")
    assert "--on-unknown resubmit" in said[2]
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
    assert [line for line in lines[:-1] if not line.startswith(" ")] == [
        f"submitted (1): {NOT_FOUND_STEP.replace('regenerate switched on', '--regenerate')}",
        "submitted (1): run again with this key: that continues waiting, without paying again",
    ]
    assert "id-3" in lines[1]


async def test_one_state_can_be_asked_for(receipts, directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    said = receipts(str(directory.basepath), "--state", "unknown")
    assert "cats/one" in said
    assert "dogs/two" not in said


async def test_receipts_of_a_bucket_are_listed_under_a_prefix(receipts, bucket, aws_env, monkeypatch):
    await fill(S3Store(bucket))
    for name, value in aws_env.items():
        monkeypatch.setenv(name, value)
    said = receipts(f"s3://{bucket.bucket_name}/{bucket.bucket_folder}/cats/")
    assert said.startswith("unknown (1)")
    assert "dogs/two" not in said
    assert "submitted (1)" in receipts(f"s3://{bucket.bucket_name}/{bucket.bucket_folder}")


async def test_a_folder_within_a_store_can_be_named(receipts, directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    assert receipts(str(tmp_path / "store" / "cats")).startswith("unknown (1)")


async def test_the_receipts_end_with_what_all_attempts_cost(receipts, directory, tmp_path):
    store = open_store(directory, tmp_path)
    await fill(store)
    await store.create(Receipt.claim("cats/emulated", REQUEST, api="emulator").submitted("id-4"))
    said = receipts(directory.basepath).splitlines()
    assert said[-1] == "3 receipts (2 submitted, 1 unknown). xAI billed $0.00, and may have billed about $0.10 more."
    assert any(line.endswith("request id-4  about $0.05 (emulated)") for line in said)


async def test_receipts_as_json_have_the_beginning_of_the_prompt_and_the_totals(xai_video, directory, tmp_path):
    store = open_store(directory, tmp_path)
    await store.create(Receipt.claim("cats/one", build_request("A cat " * 50, duration=1)).submitted("id-1"))
    (tmp_path / "store" / "bad.json").write_text("{")
    out, err, code = xai_video("receipts", directory.basepath, "--json")
    listed = json.loads(out)
    by_key = {receipt["key"]: receipt for receipt in listed["receipts"]}
    assert (err, code) == ("", 0)
    assert by_key["cats/one"]["request_id"] == "id-1"
    assert by_key["cats/one"]["prompt"].startswith("A cat A cat")
    assert len(by_key["cats/one"]["prompt"]) == 60
    assert by_key["bad"]["state"] == "unreadable"
    assert listed["total"] == {"receipts": 2, "billed_usd": "0", "not_reported_usd": "0.05"}


def test_a_directory_without_receipts_says_so_and_one_that_is_missing_is_an_error(xai_video, tmp_path, monkeypatch):
    assert xai_video("receipts", tmp_path) == (f"There are no such receipts in {tmp_path}.\n", "", 0)
    monkeypatch.chdir(tmp_path)
    # Else the directory of the person who runs the tests would be named, if there is one.
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_HOME", str(tmp_path / "none"))
    for arguments in (["nowhere"], ["nowhere", "--state", "done"]):
        assert xai_video("receipts", *arguments) == ("", f"The directory {tmp_path / 'nowhere'} does not exist.\n", 1)
    out, err, code = xai_video("receipts", "--json")
    assert (out, code) == ("", 1)
    assert err.startswith(f"The directory {tmp_path / 'videos'} does not exist.")


def test_a_missing_directory_names_the_one_that_flows_use_by_default(receipts, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_HOME", str(tmp_path))
    assert f"store their videos in {tmp_path}." in receipts("nowhere")


@pytest.mark.slow
def test_a_storage_block_can_be_named(receipts, prefect_server, directory, tmp_path):
    directory.save("videos")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "bad.json").write_text("{")
    assert "unreadable (1)" in receipts("local-file-system/videos")
    assert "nobody" in receipts("--storage", "local-file-system/nobody")


@pytest.mark.parametrize(
    "command", [["-m", "prefect_xai_video"], ["-c", "from prefect_xai_video.cli import main; main()"]]
)
def test_it_is_a_command(command):
    result = subprocess.run([sys.executable, *command, "--version"], check=True, capture_output=True, text=True)
    assert result.stdout == f"{prefect_xai_video.__version__}\n"


@pytest.mark.parametrize("command", [[], ["generate"], ["adopt"], ["receipts"], ["check-key"], ["emulator"]])
def test_help_has_examples_and_exit_codes(xai_video, command):
    out, _, code = xai_video(*command, "--help")
    assert code == 0
    assert "Exit codes: 0 done, 1 failed" in out
    assert not command or f"xai-video {command[0]}" in out.partition("Examples:")[2]


def test_the_help_of_generate_has_all_options_of_a_video(xai_video):
    out, _, _ = xai_video("generate", "--help")
    for option in prefect_xai_video.TriggerOptions.__annotations__:
        # The option of a list is given once for each entry.
        name = option.removesuffix("s") if option in LISTS else option
        assert f"--{name.replace('_', '-')} " in out
    assert "--no-generate-audio" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "prompt: '' is not allowed; allowed: non-empty text"),
        (["A cat", "--duration", "six"], "--duration"),
        (["A cat", "--duration", "6.5"], '--duration: unable to convert "6.5" into int'),
        (["A cat", "--duration", "20"], "duration: 20 is not allowed"),
        (["A cat", "--aspect-ratio", "2:1"], "aspect_ratio: '2:1' is not allowed"),
        (["A cat", "--key", "cats/../cat"], "key: 'cats/../cat' is not allowed"),
        (["A cat", "--on-unknown", "again"], "--on-unknown"),
        (["A cat", "--timeout-seconds", "0"], "timeout_seconds: 0.0 is not allowed"),
        (["A cat", "--image-url", "nowhere.png"], "image_url: 'nowhere.png' can't be used"),
        (["A cat", "--image-url", __file__], "allowed: a PNG, JPEG or WebP image"),
        (["A cat", "--video-url", __file__], "allowed: an MP4 video"),
        (["A cat", "--durations", "2"], "Unknown option: --durations. Did you mean --duration?"),
        (["A cat", "--recovery", "file"], 'Invalid value "file" for --recovery. Choose from: "none", "files"'),
        (["A cat", "--recovery", "files", "--delivery", "direct"], "recovery: 'files' with direct delivery is not"),
        (["A cat", "--keep-at-xai", "1"], "keep_at_xai: 1 is not allowed; allowed: true, false or a whole number of"),
        (["A cat", "--keep-at-xai", "0"], "keep_at_xai: 0 is not allowed"),
        (["A cat", "--keep-at-xai", "7200.5"], '--keep-at-xai: unable to convert "7200.5" into int'),
        (["A cat", "--keep-at-xai", "2592001"], "whole number of seconds, 3600-2592000"),
        (["A cat", "--public-url"], "public_url: true without keep_at_xai is not allowed"),
        (["A cat", "--keep-at-xai", "--public-url", "7200"], "7200"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_sentence_before_anything_begins(refused, arguments, text):
    assert text in refused(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        ("", None),
        ("--recovery none", None),
        ("--recovery files", {"expires_after": 2592000}),
        ("--keep-at-xai", {}),
        ("--keep-at-xai true", {}),
        ("--no-keep-at-xai", None),
        ("--keep-at-xai 7200", {"expires_after": 7200}),
        ("--keep-at-xai=7200 --public-url", {"expires_after": 7200, "public_url": True}),
        ("--keep-at-xai --public-url --recovery files", {"public_url": True}),
    ],
)
@pytest.mark.parametrize("command", ["generate", "batch", "submit"])
def test_what_xai_keeps_is_read_as_it_is_typed(xai_video, monkeypatch, command, arguments, stored):
    given = {}
    monkeypatch.setattr(videos, "generate", lambda *_, saving, **__: given.update(delivery_of(saving)))
    for name in ("batch", "submit"):
        monkeypatch.setattr(batches, name, lambda _, options, *__, **___: given.update(delivery_of(options)))
    assert xai_video(command, "A cat", *arguments.split()) == ("", "", 0)
    file = Handover(**given).file("0" * 32)
    name = {"filename": f"prefect-xai-video-{'0' * 32}.mp4"}
    assert (file and file.options.body()) == (None if stored is None else name | stored)


def test_a_directory_that_cannot_be_made_is_one_sentence_before_anything_begins(refused):
    assert "videos can't be made" in refused("A cat", "--directory", f"{__file__}/videos", code=1)


@pytest.fixture
def refused(xai_video, monkeypatch, tmp_path):
    """Runs `generate` with what it refuses; gives its one sentence, and checks that nothing has begun."""

    def refused(*arguments: str, code: int, **env: str) -> str:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        out, err, ended = xai_video("generate", *arguments)
        assert (out, ended, err.count("\n")) == ("", code, 1)
        assert not list(tmp_path.rglob(".emulator"))
        return err

    return refused


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"XAI_API_KEY": "two words"}, "XAI_API_KEY: The API key is missing or not valid"),
        (
            {"XAI_API_KEY": API_KEY, "XAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1"},
            "No usable response from http",
        ),
    ],
)
def test_a_bad_key_or_address_is_one_sentence_before_anything_begins(refused, env, text):
    assert text in refused("A cat", code=1, **env)


def test_a_base_url_that_may_not_get_the_key_is_one_sentence_before_anything_begins(refused):
    env = {"XAI_API_KEY": API_KEY, "XAI_BASE_URL": "http://example.com"}
    assert "XAI_BASE_URL: " in refused("A cat", code=2, **env)


def test_a_key_that_xai_rejects_is_one_sentence_before_anything_begins(refused, emulator, submissions):
    said = refused("A cat", code=1, XAI_API_KEY="xai-wrong", XAI_BASE_URL=emulator.base_url)
    assert "Incorrect API key provided" in said
    assert submissions() == 0


@pytest.mark.parametrize("command", [["receipts"], ["report", "dogs", "--json"], ["--help"]])
async def test_a_closed_pipe_ends_a_command_without_a_traceback(command, directory, tmp_path):
    await fill(open_store(directory, tmp_path))
    end, pipe = os.pipe()
    os.close(end)
    place = [] if command == ["--help"] else ["--storage", str(directory.basepath)]
    ended = subprocess.run([XAI_VIDEO, *command, *place], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    os.close(pipe)
    # Rich ends the help by itself.
    assert (ended.returncode, ended.stderr) == (1 if command == ["--help"] else 141, "")
