"""Runs modules, each in a process of its own that is forked from this one: Prefect is imported only once.

Its standard input is a socket that listens. Each connection brings a job, a line of JSON `{module, argv, env, log}`,
and gets its exit code.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback

from . import pausing

for name in (
    "fastapi",
    "prefect._internal.metrics",
    "prefect.cli.flow_run",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect_xai_video.engine.stores.bucket",
):
    importlib.import_module(name)
gc.freeze()


def run(module, argv, env, log):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(env)
    sys.argv = [module, *argv]
    pausing.arm()
    runpy.run_module(module, run_name="__main__")


def fork(job) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run(**job)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(connection) -> None:
    """Run the job of a connection, and wait for it in yet another process."""
    if os.fork():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job = fork(json.loads(connection.makefile().readline()))
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    connection.sendall(str(code).encode())
    os._exit(0)


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listening = socket.socket(fileno=0)
while True:
    with listening.accept()[0] as connection:
        answer(connection)
