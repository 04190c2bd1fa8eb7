"""The script that README's commands begin with."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "install.py"
COMMANDS = re.findall(r"^```bash\n(.+?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[:2]
WITH_OLD_PYTHON = """
import runpy, sys
sys.version_info = (3, 10, 13)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture
def checkout(tmp_path):
    """A place with the script and a package that can't be installed."""
    (tmp_path / "install.py").write_text(SCRIPT.read_text())
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nowhere'\n")
    return tmp_path


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


def test_a_python_that_is_too_old_is_one_sentence_and_leaves_nothing_behind(checkout):
    ended = run("-c", WITH_OLD_PYTHON, checkout / "install.py")

    assert ended.returncode != 0
    assert ended.stderr.startswith("Python 3.11 or newer is needed, but ")
    assert ended.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


def test_any_python_3_can_read_the_script():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_what_pip_says_is_shown_when_it_fails(checkout):
    ended = run(checkout / "install.py")

    assert ended.returncode != 0
    assert ended.stdout == "Creating .venv\n"
    assert "nowhere" in ended.stderr
    assert ended.stderr.endswith("pip could not install the package.\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_are_single_lines_that_begin_with_it(command):
    assert re.fullmatch(r"python3 install\.py \w+ && \.venv/bin/[\w-]+ [^\n]+\n", command)
