"""Switches Python's garbage collector off in the temporary server of `prefect_test_harness`; see `e2e/server.py`."""

import gc
import sys

if "uvicorn" in sys.orig_argv:
    gc.disable()
