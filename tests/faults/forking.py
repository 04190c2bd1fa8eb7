"""Runs modules at once, each in a process of its own that is forked from this one: Prefect is imported only once.

Each line of its input is a JSON list of jobs `{module, argv, env, log}`; it answers each with a line of exit codes.
"""

import gc
import importlib
import json
import os
import runpy
import sys
import traceback

import pausing

for name in ("fastapi", "prefect._internal.metrics", "prefect.cli.flow_run", "prefect.flow_engine"):
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


for line in sys.stdin:
    children = [fork(job) for job in json.loads(line)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
