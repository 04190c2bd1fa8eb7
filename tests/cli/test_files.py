"""`xai-video files`: what this package has left at xAI, why, and what may be deleted there."""

import asyncio
import base64
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.storage_options import file_name
from prefect_xai_video.cli.app import run
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine import uploads
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import XaiVideoError

from ..support.api_key import API_KEY

FOREIGN = ["report.mp4", f"{file_name('a' * 32)}.mp4", "prefect-xai-video-mine.mp4"]
"""Names that this package does not give."""

KILLED_SAVING = Path(__file__).with_name("killed_saving.py")
LOST = "A lost cat [fault:start-accepted-cut]"


@pytest.fixture
def emulator(monkeypatch, tmp_path):
    monkeypatch.setattr(uploads, "UPLOAD_ABOVE_BYTES", 50)
    monkeypatch.chdir(tmp_path)
    with Emulator(render_seconds=0.2, api_key=API_KEY) as emulator:
        monkeypatch.setenv("XAI_API_KEY", API_KEY)
        monkeypatch.setenv("XAI_BASE_URL", emulator.base_url)
        yield emulator


@pytest.fixture
def xai(emulator):
    """xAI's Files API, with files of others."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=emulator.base_url, headers=headers) as client:
        for name in FOREIGN:
            client.post("/files", files={"file": (name, b"content")})
        yield client


@pytest.fixture
def make(emulator, tmp_path):
    """Makes a video under a key of the store `videos` in the current directory, as far as it gets; or starts it."""

    async def _make(key, text, store, waits, image, options):
        request = await resolve_inputs(build_request(text, duration=1, **({"image_url": image} if image else {})))
        schedule = PollSchedule(first=0.1, shortest=0.05, longest=0.1)
        async with XaiVideoClient(API_KEY, emulator.base_url, retries=Retries(attempts=1)) as client:
            engine = Generation(client, LocalStore(tmp_path / store), schedule)
            try:
                await engine.start(request, key, **options)
                if waits:
                    await engine.wait(key, timeout=60)
                    await engine.save(key)
            except XaiVideoError as error:
                return error
        return None

    def make(key, text="A cat", *, store="videos", waits=True, image=None, **options):
        return asyncio.run(_make(key, text, store, waits, image, options))

    return make


@pytest.fixture
def files(capsys):
    """Runs the command; gives what it prints."""

    def files(*arguments, code=0):
        assert run(["files", *arguments]) == code
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    return files


def image(grey):
    """A small image as a data: URL, with which a request has a content of its own."""
    content = b"\x89PNG\r\n\x1a\n" + bytes([grey]) * 200
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def names(xai):
    return {file["filename"] for file in xai.get("/files").json()["data"]}


def wait_for_files(xai, count):
    while len(names(xai)) < len(FOREIGN) + count:
        time.sleep(0.05)


def why(files, *arguments):
    return {file["why"]: file["is_needed"] for file in json.loads(files("--json", *arguments))}


def test_only_own_names_are_listed_each_with_its_purpose(xai, make, files):
    make("cats/kept", keep_at_xai=7200)
    make("cats/lost", LOST, waits=False, recovery="files")
    make("cats/drawn", image=image(1))
    wait_for_files(xai, 3)
    lines = files().splitlines()
    assert {line.partition("): ")[2] for line in lines[:-1]} == {
        "an uploaded input; not needed",
        "the video of cats/lost, which is unknown",
        "the video of cats/kept, kept on purpose",
    }
    assert lines[-1] == "3 files at xAI."
    assert not set(FOREIGN) & {file["name"] for file in json.loads(files("--json"))}


def test_the_only_copy_of_a_paid_video_and_what_was_kept_on_purpose_are_not_deleted(xai, make, files):
    make("kept", keep_at_xai=True)
    make("lost", LOST, waits=False, recovery="files")
    make("rendering", "A slow cat [fault:never-done]", waits=False, image=image(1))
    make("drawn", image=image(2))
    make("elsewhere", LOST, store="other", waits=False, recovery="files")
    wait_for_files(xai, 5)
    before = names(xai)
    assert why(files) == {
        "the video of kept, kept on purpose": True,
        "the video of lost, which is unknown": True,
        "an input of rendering, which is submitted": True,
        "an uploaded input": False,
        "a video, no receipt of it in this storage": True,
    }
    said = files("--delete", "--older-than-hours", "0").splitlines()
    assert "an uploaded input; not needed" in said[0]
    assert said[1:] == ["1 file deleted at xAI. 4 stay; to delete one of them, name its id."]
    assert len(before - names(xai)) == 1
    # The paid video is still there to be found.
    assert make("lost", LOST, recovery="files") is None


def test_without_a_storage_every_video_is_needed(xai, make, files):
    make("lost", LOST, store="other", waits=False, recovery="files")
    wait_for_files(xai, 1)
    assert why(files) == {"a video, no storage was searched for its receipt": True}
    assert files("--delete", "--older-than-hours", "0").startswith("0 files deleted at xAI. 1 stays")
    assert "does not exist" in files("--storage", "nowhere", code=1)
    assert why(files, "--storage", "other") == {"the video of lost, which is unknown": True}


@pytest.mark.parametrize("storage", ["videos", "videos/cats", "."])
def test_an_input_of_an_open_key_is_needed_in_any_folder_of_its_storage(make, files, storage):
    make("cats/rendering", "A slow cat [fault:never-done]", waits=False, image=image(1))
    assert why(files, "--storage", storage) == {"an input of cats/rendering, which is submitted": True}


def test_an_input_of_a_submission_of_unknown_outcome_is_needed(make, files):
    make("lost", LOST, waits=False, image=image(1))
    assert why(files) == {"an input of lost, which is unknown": True}


def test_an_input_whose_key_can_not_be_found_out_is_needed(xai, make, files, tmp_path):
    make("rendering", "A slow cat [fault:never-done]", waits=False, image=image(1))
    for path in (tmp_path / "videos").glob("*rendering*.json"):
        path.write_text("{")
    before = names(xai)
    unreadable = "an uploaded input, maybe of rendering, whose receipt can't be read"
    assert why(files) == {unreadable: True}
    assert files("--delete", "--older-than-hours", "0").startswith("0 files deleted at xAI. 1 stays")
    shutil.move(tmp_path / "videos", tmp_path / "moved")
    assert why(files) == {"an uploaded input, no storage was searched for its receipt": True}
    assert files("--delete", "--older-than-hours", "0").startswith("0 files deleted at xAI. 1 stays")
    assert names(xai) == before


@pytest.mark.parametrize("hours", ["nan", "inf", "-1", "1e300"])
def test_an_age_that_is_none_is_refused(xai, make, files, hours):
    make("drawn", image=image(1))
    assert "older_than_hours" in files("--delete", f"--older-than-hours={hours}", code=2)
    assert len(names(xai)) == len(FOREIGN) + 1


def test_what_a_killed_process_left_between_storing_and_deletion_is_deleted(xai, emulator, make, files, tmp_path):
    command = [
        sys.executable,
        Path(__file__).with_name("killed_saving.py"),
        emulator.base_url,
        API_KEY,
        tmp_path / "videos",
        "cats/left",
    ]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    make("cats/lost", LOST, waits=False, recovery="files")
    wait_for_files(xai, 2)
    stored = (tmp_path / "videos/cats/left.mp4").read_bytes()
    assert why(files) == {
        "the video of cats/left, which is stored": False,
        "the video of cats/lost, which is unknown": True,
    }
    # It is the only copy once the stored video is gone.
    (tmp_path / "videos/cats/left.mp4").unlink()
    assert why(files)["the video of cats/left, which is missing from the storage"]
    (tmp_path / "videos/cats/left.mp4").write_bytes(stored)
    said = files("--delete", "--older-than-hours", "0").splitlines()
    assert said[0].endswith("the video of cats/left, which is stored; not needed")
    assert said[1].startswith("1 file deleted at xAI. 1 stays")
    assert why(files) == {"the video of cats/lost, which is unknown": True}


def test_a_named_file_is_deleted_whatever_it_is_and_nothing_else(xai, make, files):
    make("kept", keep_at_xai=True)
    make("drawn", image=image(1))
    kept = next(file for file in json.loads(files("--json")) if file["key"] == "kept")
    said = files("--delete", kept["id"]).splitlines()
    assert said[0].startswith(kept["id"])
    assert said[1].startswith("1 file deleted at xAI. 1 stays")
    assert why(files) == {"an uploaded input": False}


def test_an_id_of_somebody_else_s_file_is_refused_before_anything_is_deleted(xai, make, files):
    make("drawn", image=image(1))
    before = names(xai)
    foreign = next(file["id"] for file in xai.get("/files").json()["data"] if file["filename"] == FOREIGN[0])
    own = json.loads(files("--json"))[0]["id"]
    said = files("--delete", own, foreign, code=2)
    assert said == f"ids: {foreign!r} is not allowed; allowed: ids of files that xai-video files lists.\n"
    assert names(xai) == before


def test_new_files_are_not_deleted_since_a_run_may_be_about_to_use_them(xai, make, files):
    make("drawn", image=image(1))
    before = names(xai)
    assert files("--delete") == "0 files deleted at xAI. 1 stays; to delete one of them, name its id.\n"
    assert json.loads(files("--older-than-hours", "2", "--json")) == []
    assert names(xai) == before


def test_the_files_are_listed_before_the_first_is_deleted(xai, make, monkeypatch, capsys):
    async def fail(*_):
        raise XaiVideoError("No usable response.")

    make("drawn", image=image(1))
    monkeypatch.setattr("prefect_xai_video.api.files.XaiFiles.delete", fail)
    assert run(["files", "--delete", "--older-than-hours", "0"]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith("an uploaded input; not needed\n")
    assert printed.err == "No usable response.\n"
