"""The wheel alone, without the checkout, in an environment that has nothing else."""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import prefect_xai_video
from prefect_xai_video import XaiCredentials

from .support.server import WITHOUT_EVENTS, running_server, server_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
UV = [sys.executable, "-m", "uv"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run([*UV, "build", "--quiet", "--wheel", "--out-dir", directory, ROOT], check=True)
    [wheel] = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The directory with the programs of an environment in which the wheel is installed."""
    environment = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([*UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([*UV, "pip", "install", "--quiet", "--python", python, f"{wheel}[emulator]", "pytest"], check=True)
    return python.parent


@pytest.fixture(scope="module")
def env(tmp_path_factory, database):
    """The variables of a process that uses a fresh server."""
    home = tmp_path_factory.mktemp("server")
    with running_server(home, database, **WITHOUT_EVENTS) as url:
        yield server_environment(home, url)


@pytest.fixture
def run(programs, env, tmp_path):
    """Runs a program of that environment; gives what it prints."""

    def run(program: str, *arguments: str, **more: str) -> str:
        command = [programs / program, *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=env | more, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


def test_it_says_its_version(run):
    assert run("xai-video", "--version") == f"{prefect_xai_video.__version__}\n"


def test_it_makes_a_video_with_the_emulator(run, tmp_path):
    video = json.loads(run("xai-video", "generate", "A cat", "--duration", "1", "--key", "cat", "--json"))
    assert video["emulated"]
    assert (tmp_path / "videos" / "cat.mp4").stat().st_size == video["size"]


def test_its_blocks_are_registered(run):
    registered = run("prefect", "block", "register", "-m", "prefect_xai_video")
    assert "xAI Credentials" in registered
    assert "xAI Video Generator" in registered


def test_it_sets_up_a_server(run, emulator):
    said = run("xai-video", "setup", **emulator.environment()).splitlines()
    assert [line for line in said if line.startswith("deployment ")] == [
        "deployment generate-video/make-a-video: created",
        "deployment generate-long-video/make-a-long-video: created",
        "deployment collect-video/collect-a-video: created",
        "deployment generate-videos/make-videos: created",
        "deployment submit-videos/submit-videos: created",
        "deployment collect-videos/collect-open-videos: created",
    ]


def test_its_fixtures_are_there_in_any_pytest(run, tmp_path):
    (tmp_path / "test_own.py").write_text("def test_it(xai_emulator): assert not xai_emulator.requests()")
    # The options of this suite, such as --cov, need plugins that are not there.
    assert "1 passed" in run("pytest", PYTEST_ADDOPTS="")


def test_the_logo_is_a_square_png_whose_address_is_derived_from_the_homepage(wheel):
    content = zipfile.ZipFile(wheel).read("prefect_xai_video/ui/logo.png")
    width, height = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG\r\n")
    assert 45 < width == height < 1000
    assert (ROOT / "docs" / "images" / "logo.png").read_bytes() == content
    assert str(XaiCredentials._logo_url) == f"{XaiCredentials._documentation_url}images/logo.png"


def test_it_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "prefect_xai_video",
        f"prefect_xai_video-{prefect_xai_video.__version__}.dist-info",
    }
    assert {"prefect_xai_video/py.typed", "prefect_xai_video/setup/prefect.yaml"} <= set(names)
