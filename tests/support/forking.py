"""Runs modules, each in a process of its own that is forked from this one: Prefect is imported only once.

Its standard input is a socket that listens. Each connection brings the standard files of a process and a line of
JSON, `{module, argv, env, cwd}`; it gets the id of the process and then its exit code, in a line each. A process is
killed if its connection ends.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback

for name in (
    "fastapi",
    "prefect._internal.metrics",
    "prefect.cli.flow_run",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect_xai_video.cli",
    "prefect_xai_video.engine.stores.bucket",
    "prefect_xai_video.flows",
):
    importlib.import_module(name)
from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging

IMPORTED_FIRST = "FORKED_IMPORTS_FIRST"
"""The variable with a module that a process imports before its own."""


def run(module, argv, env, cwd):
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # As with `-m`.
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *argv]
    refresh_global_settings_context()
    setup_logging(incremental=False)
    if first := env.get(IMPORTED_FIRST):
        importlib.import_module(first)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def fork(files, job) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
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
    _, files, *_ = socket.recv_fds(connection, 1, 3)
    child = fork(files, json.loads(connection.makefile().readline()))
    for file in files:
        os.close(file)
    connection.sendall(f"{child}\n".encode())
    ready, *_ = select.select([os.pidfd_open(child), connection], [], [])
    if connection in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listening = socket.socket(fileno=0)
while True:
    with listening.accept()[0] as connection:
        answer(connection)
