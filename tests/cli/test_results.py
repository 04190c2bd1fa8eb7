"""What `xai-video generate` and `adopt` print: on a terminal, and where their output is read by a program."""

import json
import os
import re
import subprocess

import av
import pytest
from prefect.settings import PREFECT_API_URL

from ..support.api_key import API_KEY
from ..support.ports import free_port
from ..support.scripted import ScriptedServer, answer, mp4
from ..support.terminal import Terminal, shown

pytestmark = pytest.mark.slow
ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
ACCEPTED = answer("200 OK", json.dumps({"request_id": ID}).encode())
COMMAND = ["-m", "prefect_xai_video"]


@pytest.fixture
def server(prefect_server) -> dict[str, str]:
    """The variables of a process that uses the session's Prefect server."""
    return {"PREFECT_API_URL": PREFECT_API_URL.value()}


@pytest.fixture
def xai_video(tmp_path, forking):
    """Runs the command in a process of its own, in an empty directory; gives what it prints, and its end."""

    def xai_video(*arguments: str, **env: str) -> tuple[str, str, int]:
        command = [*forking.command("prefect_xai_video"), *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False
        )
        return ended.stdout, ended.stderr, ended.returncode

    return xai_video


@pytest.fixture
def paid_xai():
    """A stand-in for xAI that is not known as an emulator, and makes one video."""
    with ScriptedServer([ACCEPTED]) as server:
        done = {
            "status": "done",
            "video": {"url": f"{server.url}/video.mp4", "duration": 1},
            "usage": {"cost_in_usd_ticks": 500_000_000},
        }
        server.extend([answer("200 OK", json.dumps(done).encode())])
        server.extend([answer("200 OK", mp4(), "Content-Type: video/mp4")])
        yield {"XAI_API_KEY": API_KEY, "XAI_BASE_URL": f"{server.url}/v1"}


def test_frames_need_no_prompt_and_what_stays_at_xai_is_told(xai_video, server, emulator, tmp_path):
    av.VideoFrame(64, 64, "rgb24").save(tmp_path / "cat.png")
    generate = ["generate", "--image-url", "cat.png", "--duration", "1", "--keep-at-xai", "7200", "--public-url"]
    said, noted, code = xai_video(*generate, **server, XAI_API_KEY=API_KEY, XAI_BASE_URL=emulator.base_url)
    assert code == 0, noted
    at_xai, public = said.splitlines()[-2:]
    assert re.fullmatch(r"At xAI    xai-file:file_[0-9a-f-]+", at_xai)
    assert re.fullmatch(rf"Public    {re.escape(emulator.base_url.removesuffix('/v1'))}/xai-files/.+\.mp4", public)


def test_a_second_run_with_the_same_key_says_that_nothing_is_paid_now(xai_video, server, paid_xai, tmp_path):
    generate = ["generate", "A cat", "--duration", "1", "--key", "cat"]
    first, noted, code = xai_video(*generate, **server, **paid_xai)
    assert code == 0, noted
    assert first == (
        f"Video     {tmp_path}/videos/cat.mp4\n"
        "Duration  1 s (0 kB)\n"
        "Cost      $0.05\n"
        "Key       cat\n"
        f"Receipt   {tmp_path}/videos/cat.json\n"
    )
    assert f"xAI accepted request {ID} for key cat" in noted
    second, noted, code = xai_video(*generate, **server, **paid_xai)
    assert (second, noted, code) == (first.replace("$0.05", "nothing now: $0.05 was paid when it was made"), "", 0)


def test_with_json_only_json_is_printed(xai_video, server, paid_xai, tmp_path):
    generate = ["generate", "A cat", "--duration", "1", "--key", "cat", "--json"]
    made = [json.loads(xai_video(*generate, **server, **paid_xai)[0]) for _ in range(2)]
    assert [video.pop("paid_now") for video in made] == [True, False]
    assert made[0] == made[1]
    assert made[0]["uri"] == f"file://{tmp_path}/videos/cat.mp4"
    assert (made[0]["cost_usd"], made[0]["emulated"]) == ("0.05", False)


def test_an_emulated_video_costs_nothing(xai_video, server):
    out, err, code = xai_video("generate", "A cat", "--duration", "1", **server)
    assert code == 0, err
    assert "Cost      nothing: an emulator made it, xAI would have billed $0.05\n" in out
    assert "Nothing is billed, and the video is a test pattern" in err


def test_a_video_in_a_bucket(xai_video, server, bucket, aws_env, emulator):
    env = aws_env | emulator.environment()
    place = f"s3://{bucket.bucket_name}/{bucket.bucket_folder}"
    generate = ["generate", "A cat", "--duration", "1", "--key", "cats/one", "--storage", place, "--json"]
    out, err, code = xai_video(*generate, **env, **server)
    assert code == 0, err
    assert json.loads(out)["uri"] == f"{place}/cats/one.mp4"
    listed, err, _ = xai_video("receipts", place, "--json", **env)
    assert [receipt["key"] for receipt in json.loads(listed)["receipts"]] == ["cats/one"], err


def test_a_long_video_is_planned_and_made(xai_video, server, emulator, tmp_path):
    long = ["long", "A ship leaves", "It comes home", "--duration", "4", "--key", "ship"]
    long += ["--keep-at-xai", "7200", "--stills"]
    planned, err, code = xai_video(*long, "--dry-run")
    assert (err, code) == ("", 0)
    assert planned == (
        "4 s in 2 segments of grok-imagine-video, about $0.22\n"
        "01: 2 s, new clip, about $0.10\n"
        "02: 2 s, extends the last 2 s of 01, about $0.12\n"
        "Nothing was sent.\n"
    )
    env = server | {"XAI_API_KEY": API_KEY, "XAI_BASE_URL": emulator.base_url}
    out, err, code = xai_video(*long, **env)
    assert code == 0, err
    assert out.splitlines() == [
        f"Video     {tmp_path}/videos/ship.mp4",
        out.splitlines()[1],
        "Picture   848x480, 24 fps, with sound",
        "Cost      nothing: an emulator made it, xAI would have billed $0.22",
        "Key       ship",
        f"Record    {tmp_path}/videos/ship.long.json",
        f"Poster    {tmp_path}/videos/ship.poster.jpg",
        f"Last      {tmp_path}/videos/ship.last.png",
        "At xAI    2 of 2 segments; --json has their file ids",
    ]
    sent = [request["body"].get("storage_options") for request in emulator.requests() if request["method"] == "POST"]
    assert [options["expires_after"] for options in sent[-2:]] == [7200, 7200]
    assert out.splitlines()[1].startswith("Duration  4 s (")
    refused = xai_video(*long, "--public-url", "--delivery", "direct", "--dry-run")
    assert refused[1:] == ("keep_at_xai: 7200 with direct delivery is not allowed; allowed: false.\n", 2)
    refused = xai_video("long", "A ship", "--duration", "500")
    assert refused[1:] == (refused[1], 2)
    assert refused[1].startswith("duration: 500 s is not allowed; allowed: 1-405 s")


def test_a_moderated_video_ends_with_one_sentence(xai_video, server, emulator):
    env = server | emulator.environment()
    out, err, code = xai_video("generate", "A cat [fault:moderated]", "--duration", "1", "--key", "cat", **env)
    accepted, moderated = err.splitlines()
    assert (out, code) == ("", 1)
    assert accepted.startswith("xAI accepted request ")
    assert moderated.startswith("Content moderation blocked the video")


def test_a_request_id_is_adopted_and_its_video_stored(xai_video, server, emulator, tmp_path):
    env = server | emulator.environment()
    first = json.loads(xai_video("generate", "A cat", "--duration", "1", "--json", **env)[0])
    out, err, code = xai_video("adopt", first["request_id"], "found/cat", "--no-wait", "--json", **env)
    assert code == 0, err
    receipt_uri = f"file://{tmp_path}/videos/found/cat.json"
    expected = {
        "key": "found/cat",
        "request_id": first["request_id"],
        "state": "submitted",
        "receipt_uri": receipt_uri,
    }
    assert json.loads(out) == expected
    out, err, code = xai_video("adopt", first["request_id"], "found/cat", **env)
    assert code == 0, err
    assert out.startswith(f"Video     {tmp_path}/videos/found/cat.mp4\n")
    assert (tmp_path / "videos" / "found" / "cat.mp4").exists()


def test_an_unknown_request_id_is_one_sentence(xai_video, server, emulator):
    env = server | emulator.environment()
    out, err, code = xai_video("adopt", ID, "found/cat", **env)
    assert (out, err.count("\n"), code) == ("", 1, 1)


def test_a_key_is_checked(xai_video, emulator):
    env = emulator.environment()
    out, err, code = xai_video("check-key", **env)
    assert out.startswith(f"{emulator.base_url} accepts the API key emulator.")
    assert (err, code) == ("", 0)
    assert json.loads(xai_video("check-key", "--json", **env)[0])["name"] == "emulator"
    out, err, code = xai_video("check-key", **env | {"XAI_API_KEY": "xai-wrong"})
    assert (out, err.count("\n"), code) == ("", 1, 1)
    assert "--credentials xai-credentials/NAME" in xai_video("check-key")[1]


@pytest.mark.parametrize("command", [["generate", "A cat"], ["receipts", "s3-bucket/videos"]])
def test_a_prefect_server_that_is_down_is_one_sentence(xai_video, command):
    url = f"http://127.0.0.1:{free_port()}/api"
    out, err, code = xai_video(*command, PREFECT_API_URL=url)
    assert (out, err.count("\n"), code) == ("", 1, 1)
    assert err.startswith(f"The Prefect server at {url} (PREFECT_API_URL) can't be reached: ")


def test_a_terminal_shows_how_it_goes_on(server, tmp_path):
    options = ["generate", "A cat", "--duration", "1", "--directory", tmp_path]
    with Terminal(*COMMAND, *options, **server) as terminal:
        terminal.wait_for("Starting the run")
        terminal.wait_for("Rendering")
        assert terminal.end() == 0, terminal.said
    assert re.search(r"Rendering \d+ % .*\d+ s", terminal.said)
    screen = shown(terminal.said)
    assert "Rendering" not in screen
    assert screen.startswith("XAI_API_KEY is not set: a local emulator at http")
    assert screen.splitlines()[-6].startswith(f"Video     {tmp_path}/")
