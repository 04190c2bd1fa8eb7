"""`xai-video files`: what this package has left at xAI, and nothing else."""

import json

import httpx
import pytest

from prefect_xai_video.api.storage_options import file_name
from prefect_xai_video.cli.app import run
from prefect_xai_video.emulator import Emulator

from ..support.api_key import API_KEY

NAMES = [file_name(letter * 32) for letter in "ab"]


@pytest.fixture
def xai(monkeypatch):
    with Emulator(api_key=API_KEY) as emulator:
        monkeypatch.setenv("XAI_API_KEY", API_KEY)
        monkeypatch.setenv("XAI_BASE_URL", emulator.base_url)
        client = httpx.Client(base_url=emulator.base_url, headers={"Authorization": f"Bearer {API_KEY}"})
        with client:
            for name in (*NAMES, "report.mp4", f"{NAMES[0]}.mp4", "prefect-xai-video-mine.mp4"):
                client.post("/files", files={"file": (name, b"content")})
            yield client


def listed(xai):
    return {file["filename"] for file in xai.get("/files").json()["data"]}


def test_only_own_names_are_listed(xai, capsys):
    assert run(["files"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} (0.0 MB, stored " in said for name in NAMES)
    assert said.endswith("\n2 files at xAI.\n")
    assert run(["files", "--json"]) == 0
    assert {file["name"] for file in json.loads(capsys.readouterr().out)} == {*NAMES}


def test_only_own_files_that_no_run_may_look_for_are_deleted(xai, capsys):
    before = listed(xai)
    assert run(["files", "--delete"]) == 0
    assert capsys.readouterr().out == "0 files deleted at xAI.\n"
    assert listed(xai) == before
    assert run(["files", "--delete", "--older-than-hours", "0"]) == 0
    assert listed(xai) == before - {*NAMES}
