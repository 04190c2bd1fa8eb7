"""A command in a terminal of its own, where Ctrl-C reaches all processes of the foreground group."""

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from select import select

# A process in the background inherits SIGINT as ignored.
START = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


PIECES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\r\n\x1b]+")


def shown(said: str) -> str:
    """What stands on the screen in the end, where lines are erased and written again."""
    lines, row = [""], 0
    for piece in PIECES.findall(said):
        match piece:
            case "\n":
                row += 1
                lines += [""] * (row == len(lines))
            case "\x1b[2K":
                lines[row] = ""
            case "\x1b[1A":
                row -= 1
            case text if text.isprintable():
                lines[row] += text
    return "\n".join(lines).strip()


class Terminal:
    """Runs `python ARGUMENTS` as the leader of a session with a terminal."""

    def __init__(self, *arguments: object, **env: str) -> None:
        self._screen, tty = pty.openpty()
        self._said = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)],
            env=os.environ | {"TERM": "xterm"} | env,
            stdin=tty,
            stdout=tty,
            stderr=tty,
            start_new_session=True,
        )
        os.close(tty)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._screen)

    @property
    def said(self) -> str:
        """What was written to the screen so far."""
        return self._said.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, words: str, seconds: float = 200) -> None:
        """Wait until words stand on the screen."""
        self.wait_until(lambda: words in self.said, seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 200) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            ended = not self._read() and self._process.poll() is not None
            assert condition() or not ended, f"it ended:\n{self.said}"
            assert time.monotonic() < end, f"it goes on:\n{self.said}"

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        os.write(self._screen, b"\x03")

    def end(self, seconds: float = 200) -> int:
        """Wait until the command has ended; gives its exit status."""
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            self._read()
            assert time.monotonic() < end, f"it goes on:\n{self.said}"
        while self._read():
            pass
        return self._process.returncode

    def _read(self) -> bool:
        if not select([self._screen], [], [], 0.05)[0]:
            return False
        try:
            chunk = os.read(self._screen, 65536)
        except OSError:  # all who could write have ended
            return False
        self._said += chunk
        return bool(chunk)
