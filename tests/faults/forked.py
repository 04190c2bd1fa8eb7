"""Has `forking.py` run a module, with the environment and the output of this process, and ends as that ends.

`forked.py <port> <module>` is what a worker starts instead of `python -m <module>`: that saves seconds of imports.
"""

import json
import os
import socket
import sys

port, module = sys.argv[1:]
job = {"module": module, "argv": [], "env": dict(os.environ), "log": f"/proc/{os.getpid()}/fd/1"}
with socket.create_connection(("127.0.0.1", int(port))) as connection:
    connection.sendall(json.dumps(job).encode() + b"\n")
    code = int(connection.makefile().read())
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
