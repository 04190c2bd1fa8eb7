"""Runs a module as if it was run here, in a process that `forking.py` forks: `forked.py <port> <log> <module>`."""

import json
import os
import socket
import sys

port, log, module = sys.argv[1:]
with socket.create_connection(("127.0.0.1", int(port))) as forking:
    job = {"module": module, "argv": [], "env": dict(os.environ), "log": log}
    forking.sendall(json.dumps(job).encode() + b"\n")
    sys.exit(int(forking.makefile().read()))
