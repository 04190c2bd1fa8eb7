"""`xai-video batch`, `submit` and `collect`: what they print, and how they end."""

import csv
import json
import os
import subprocess
import sys

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_xai_video.cli.app import run

from ..support.api_key import API_KEY
from ..support.terminal import Terminal, shown

pytestmark = pytest.mark.slow
COMMAND = ["-m", "prefect_xai_video"]
INTERRUPTED = 130


@pytest.fixture
def env(prefect_server, emulator) -> dict[str, str]:
    return {"PREFECT_API_URL": PREFECT_API_URL.value(), "XAI_API_KEY": API_KEY, "XAI_BASE_URL": emulator.base_url}


@pytest.fixture
def products(tmp_path):
    """A manifest of three rows, in the directory where the command runs."""
    path = tmp_path / "products.csv"
    path.write_text("sku,prompt,duration\n1,A red shoe,1\n2,A blue hat,1\n3,A green coat,1\n")
    return path


@pytest.fixture
def xai_video(tmp_path, env, forking):
    """Runs the command in a process of its own, in an empty directory; gives what it prints, and its end."""

    def xai_video(*arguments: object) -> tuple[str, str, int]:
        command = [*forking.command("prefect_xai_video"), *map(str, arguments)]
        ended = subprocess.run(
            command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False
        )
        return ended.stdout, ended.stderr, ended.returncode

    return xai_video


def test_the_lane_that_auto_chooses_is_shown_before_anything_is_paid(xai_video, products, submissions):
    batch = ["batch", "products.csv", "--key", "p/{sku}", "--keep", "sku", "--lane", "auto"]
    why = (
        "at 0.67 videos a second, the lowest rate known, and 10 in flight, 3 rows would take about 1 min in realtime"
    )
    out, err, code = xai_video(*batch, "--dry-run")
    assert (f"Lane      realtime: {why}" in out, err, code, submissions()) == (True, "", 0, 0)
    _, err, code = xai_video(*batch)
    assert (f"The lane is realtime: {why}" in err, code, submissions()) == (True, 0, 3)


def test_a_batch_is_estimated_made_and_free_the_second_time(xai_video, products, tmp_path, submissions):
    batch = ["batch", "products.csv", "--key", "p/{sku}", "--keep", "sku"]
    out, err, code = xai_video(*batch, "--dry-run")
    assert (out, err, code) == (
        "Rows      3: 0 stored, 3 to be paid for\nEstimate  $0.15. Nothing was sent.\n",
        "",
        0,
    )
    assert submissions() == 0
    out, err, code = xai_video(*batch, "--budget", "1", "--in-flight", "2")
    assert code == 0, err
    assert out == (
        "Videos    3 of 3 videos stored; $0.15 paid for 3 new videos\n"
        f"Report    {tmp_path}/videos/p/products.report.json\n"
        f"Page      {tmp_path}/videos/p/products.report/index.html\n"
    )
    out, err, code = xai_video(*batch, "--json", "--stills")
    assert (json.loads(out)["states"], json.loads(out)["cost_usd"], err, code) == ({"stored": 3}, "0", "", 0)
    assert submissions() == 3
    assert (tmp_path / "videos" / "p" / "3.last.png").is_file()
    with (tmp_path / "videos" / "p" / "products.report.csv").open(newline="") as file:
        assert [(row["key"], row["sku"]) for row in csv.DictReader(file)] == [
            ("p/1", "1"),
            ("p/2", "2"),
            ("p/3", "3"),
        ]


def test_failures_are_listed_with_what_to_do_and_exit_with_1(xai_video, products):
    products.write_text(products.read_text().replace("A blue hat", "A blue hat [fault:moderated]"))
    out, err, code = xai_video("batch", "products.csv", "--key", "p/{sku}")
    assert code == 1
    assert "Videos    2 of 3 videos stored (1 moderated); $0.15 paid for 3 new videos\n" in out
    assert "Moderated 1: p/2\n          Content moderation blocked the video" in out
    assert "Wasted    $0.05" in out
    assert err.splitlines()[-1].startswith("2 of 3 videos stored (1 moderated)")
    assert "Traceback" not in err
    assert xai_video("batch", "products.csv", "--key", "p/{sku}", "--allow-failures")[2] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.csv"], "manifest: "),
        (["products.csv", "--key", "{nothing}"], "header: nothing: the key template names it"),
        (["products.csv"], "header: sku: there is no such column"),
        (["products.csv", "--keep", "sku,titles"], "header: titles: --keep names it, but there is no such column"),
        (["products.csv", "--keep", "sku", "--keep", "prompt"], "keep: 'prompt' is not allowed"),
        (["products.csv", "--key", "{sku}", "--in-flight", "10001"], "in_flight: 10001 is not allowed"),
        (["products.csv", "--key", "{sku}", "--in-flight", "0"], "in_flight: 0 is not allowed"),
        (["products.csv", "--key", "{sku}", "--budget", "0"], "budget_usd: 0"),
        (["products.csv", "--key", "{sku}", "--budget", "0.01"], "budget_usd: 0.01 is not allowed"),
    ],
)
def test_bad_input_is_told_and_exits_with_2(env, products, monkeypatch, capsys, submissions, arguments, says):
    monkeypatch.chdir(products.parent)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert run(["batch", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert submissions() == 0


def test_submitted_rows_are_collected_later(xai_video, products, submissions):
    out, err, code = xai_video("submit", "products.csv", "--key", "p/{sku}")
    assert code == 0, err
    assert out.startswith("Videos    0 of 3 videos stored (3 open); $0.15 paid for 3 new videos\n")
    assert "\nOpen      3: p/1, p/2, p/3\n" in out
    stored = 0
    while stored < 3:
        out, err, code = xai_video("collect", "p/", "--json")
        assert code == 0, err
        stored += json.loads(out)["counts"].get("stored", 0)
    assert xai_video("collect") == ("No key is open.\n", "", 0)
    assert submissions() == 3


def test_ctrl_c_stops_the_submissions_and_the_same_command_goes_on(env, products, tmp_path, submissions):
    command = [
        *COMMAND,
        "batch",
        products,
        "--key",
        "p/{sku}",
        "--in-flight",
        "1",
        "--directory",
        tmp_path / "videos",
    ]
    patient = {"PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS": "60"}
    with Terminal(*command, **env, **patient) as terminal:
        terminal.wait_for("1 in flight")
        terminal.wait_until(lambda: submissions() == 1)
        terminal.interrupt()
        assert terminal.end() == INTERRUPTED
    assert "0 of 3 videos are stored. Run the same command again to continue" in shown(terminal.said)
    with Terminal(*command, **env) as terminal:
        assert terminal.end() == 0, terminal.said
    assert "3 of 3 videos stored; $0.10 paid for 2 new videos" in terminal.said
    assert submissions() == 3


def test_a_terminal_shows_the_table_and_a_killed_command_leaves_the_request_ids(env, products, tmp_path, emulator):
    batch = [*COMMAND, "batch", products, "--directory", tmp_path / "videos", "--key"]
    ids, before = tmp_path / "videos" / ".requests", len(emulator.ledger()["requests"])
    patient = {"PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS": "60"}
    with Terminal(*batch, "killed/{sku}", **env, **patient) as terminal:
        terminal.wait_for("3 in flight")
        terminal.wait_until(lambda: "".join(path.read_text() for path in ids.glob("*")).count("\n") == 3)
    [path] = ids.iterdir()
    sent = [row["request_id"] for row in emulator.ledger()["requests"][before:]]
    assert (len(sent), all(request_id in path.read_text() for request_id in sent)) == (3, True)
    assert "xAI accepted request" not in terminal.said
    path.unlink()
    # One that ends, with each id in its receipt, leaves nothing.
    with Terminal(*batch, "ended/{sku}", **env) as terminal:
        assert terminal.end() == 0, terminal.said
    assert not ids.exists() or not [*ids.iterdir()]


def test_a_closed_pipe_of_stderr_loses_no_request_id(env, products, tmp_path, submissions):
    end, pipe = os.pipe()
    os.close(end)
    command = [sys.executable, *COMMAND, "batch", products, "--key", "p/{sku}", "--directory", tmp_path / "videos"]
    ended = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, stderr=pipe, text=True, check=False)
    os.close(pipe)
    assert (ended.returncode, ended.stdout.partition(";")[0]) == (0, "Videos    3 of 3 videos stored")
    assert submissions() == 3
