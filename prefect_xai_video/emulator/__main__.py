"""The command line: `python -m prefect_xai_video.emulator`."""

import sys

from cyclopts import App

from prefect_xai_video.emulator.serving import serve

if __name__ == "__main__":
    App(name="python -m prefect_xai_video.emulator", default_command=serve, version_flags=())(sys.argv[1:])
