"""Create the virtual environment `.venv` here, and install the package: `python3 install.py [EXTRAS [GROUPS]]`.

EXTRAS of the package and dependency GROUPS of pyproject.toml are separated by commas, as in `install.py test dev`.

pip alone would do, but some versions of it search for many minutes when the Python version is too old, and pip shows
either hundreds of lines or nothing. Must run on any Python 3, to report one that is too old.
"""

import subprocess
import sys
import time
from collections import deque
from pathlib import Path

NEEDED = (3, 11)
PACKAGES_A_LINE = 25
LINES_ON_FAILURE = 30
NEWER_PIP = "pip>=25.1"  # the first that knows groups
ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def main():
    """Check the Python version, create the environment, and install into it."""
    if sys.version_info[:2] < NEEDED:
        sys.exit(f"Python 3.11 or newer is needed, but {sys.executable} is {sys.version.split()[0]}.")
    began = time.monotonic()
    create_environment()
    extras, groups = [*sys.argv[1:3], "", ""][:2]
    install(extras, groups.split(",") if groups else [])
    print(f"Installed in {time.monotonic() - began:.0f} s.", flush=True)


def create_environment():
    """Create `.venv`, replacing one whose Python is missing or too old."""
    probe = f"import sys; sys.exit(sys.version_info[:2] < {NEEDED})"
    is_usable = PYTHON.exists() and subprocess.call([str(PYTHON), "-c", probe]) == 0
    print(f"{'Using' if is_usable else 'Creating'} .venv", flush=True)
    command = [sys.executable, "-m", "venv", str(ROOT / ".venv")]
    if not is_usable and subprocess.call([*command, "--clear"]) != 0:
        sys.exit("The virtual environment could not be created.")


def install(extras, groups):
    """Install the package with these extras and groups, and report every few packages."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    what = ["-e", f"{ROOT}[{extras}]" if extras else str(ROOT)]
    for group in groups:
        what += ["--group", f"{ROOT / 'pyproject.toml'}:{group}"]
    if groups and subprocess.call([*command, "--quiet", NEWER_PIP]) != 0:
        sys.exit("pip could not be updated.")
    collected, said = 0, deque(maxlen=LINES_ON_FAILURE)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    with subprocess.Popen([*command, *what], **options) as pip:
        for line in pip.stdout:
            said.append(line)
            if line.startswith("Collecting "):
                collected += 1
                if collected % PACKAGES_A_LINE == 0:
                    print(f"Collected {collected} packages", flush=True)
            elif line.startswith("Installing collected packages"):
                print(f"Installing {line.count(',') + 1} packages, which takes about a minute", flush=True)
    if pip.returncode != 0:
        sys.exit("".join(said) + "pip could not install the package.")


if __name__ == "__main__":
    main()
