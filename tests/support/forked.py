"""Has `forking.py` run a module as if this process ran it: its arguments are an address, and those that follow `-m`.

That saves the seconds that the imports take. The other process has the environment, the directory, the files and the
signals of this one, and this one ends as the other does. Only its process group is another one.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM)

address, module, *argv = sys.argv[1:]
job = {"module": module, "argv": argv, "env": dict(os.environ), "cwd": os.getcwd()}  # noqa: PTH109
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("\0" + address)
    socket.send_fds(connection, [b" "], [0, 1, 2])
    connection.sendall(json.dumps(job).encode() + b"\n")
    replies = connection.makefile()
    process = int(replies.readline())
    for number in FORWARDED:
        signal.signal(number, lambda number, _: os.kill(process, number))
    code = int(replies.readline())
if code < 0:
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
