"""Create the virtual environment `.venv` here, and install the package into it: `python3 install.py [EXTRA]`.

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
ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def main():
    """Check the Python version, create the environment, and install into it."""
    if sys.version_info[:2] < NEEDED:
        sys.exit(f"Python 3.11 or newer is needed, but {sys.executable} is {sys.version.split()[0]}.")
    began = time.monotonic()
    create_environment()
    install(",".join(sys.argv[1:]))
    print(f"Installed in {time.monotonic() - began:.0f} s.", flush=True)


def create_environment():
    """Create `.venv`, replacing one whose Python is missing or too old."""
    probe = f"import sys; sys.exit(sys.version_info[:2] < {NEEDED})"
    is_usable = PYTHON.exists() and subprocess.call([str(PYTHON), "-c", probe]) == 0
    print(f"{'Using' if is_usable else 'Creating'} .venv", flush=True)
    command = [sys.executable, "-m", "venv", str(ROOT / ".venv")]
    if not is_usable and subprocess.call([*command, "--clear"]) != 0:
        sys.exit("The virtual environment could not be created.")


def install(extras):
    """Install the package with these extras, and report every few packages."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    what = f"{ROOT}[{extras}]" if extras else str(ROOT)
    collected, said = 0, deque(maxlen=LINES_ON_FAILURE)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    with subprocess.Popen([*command, "-e", what], **options) as pip:
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
