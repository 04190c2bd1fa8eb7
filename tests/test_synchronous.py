import asyncio
import inspect
import signal
import subprocess
import sys
from contextvars import ContextVar

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.tasks import Task

import prefect_xai_video
from prefect_xai_video import generate_video
from prefect_xai_video.orchestration.derived_keys import run_tail
from prefect_xai_video.synchronous import synchronous

PAIRS = [name for name in prefect_xai_video.__all__ if isinstance(getattr(prefect_xai_video, name), Flow | Task)]
SYNC = [name for name in PAIRS if f"a{name}" in PAIRS]
METHODS = {
    prefect_xai_video.XaiCredentials: {"check_key"},
    prefect_xai_video.XaiVideoGenerator: {"run_of", "trigger"},
    prefect_xai_video.XaiVideoRun: {"fetch_result", "wait_for_completion"},
}


async def adouble(number: int, *, times: int = 2) -> int:
    """Multiply."""
    await asyncio.sleep(0)
    return number * times


def test_the_twin_runs_to_its_end_and_carries_the_public_name():
    double = synchronous(adouble)
    assert double(3, times=3) == 9
    assert (double.__name__, double.__doc__) == ("double", "Multiply.")
    assert not inspect.iscoroutinefunction(double)


async def test_the_twin_runs_where_an_event_loop_runs():
    assert synchronous(adouble)(3) == 6
    with pytest.raises(TypeError, match="unsupported operand"):
        synchronous(adouble)(None, times=None)


async def test_the_twin_sees_the_context_of_its_caller():
    name = ContextVar("name")
    name.set("caller")

    async def aname():
        return name.get()

    assert synchronous(aname)() == "caller"


INTERRUPTED = """
import asyncio, signal, sys
from prefect_xai_video.orchestration.derived_keys import run_tail
from prefect_xai_video.synchronous import synchronous

async def await_long():
    print("waiting", flush=True)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        print("cleaned up", flush=True)
        raise

async def main():
    synchronous(await_long)()

signal.signal(signal.SIGINT, signal.default_int_handler)
"""


@pytest.mark.parametrize("run", ["asyncio.run(main())", "asyncio.new_event_loop().run_until_complete(main())"])
def test_an_interrupt_cancels_the_twin_and_waits_for_its_clean_up(run):
    command = [sys.executable, "-c", INTERRUPTED + run]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert out == "cleaned up\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
async def test_a_twin_in_an_async_flow_is_a_subflow_of_it(directory, xai):
    @flow
    async def publish():
        return flow_run.id, generate_video("A cat", duration=1, storage=directory, credentials=xai)

    outer, video = await publish()
    assert run_tail(outer) in video.key
    async with get_client() as prefect:
        (called,) = await prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[outer]))
        )
    assert called.state.is_completed()


def test_every_public_flow_and_task_has_its_twin():
    assert sorted(PAIRS) == sorted([*SYNC, *(f"a{name}" for name in SYNC)])
    assert len(SYNC) == 12


@pytest.mark.parametrize("name", SYNC)
def test_twins_have_one_signature_one_docstring_and_one_configuration(name):
    one, other = getattr(prefect_xai_video, name), getattr(prefect_xai_video, f"a{name}")
    assert inspect.signature(one.fn) == inspect.signature(other.fn)
    assert one.__doc__ == other.__doc__
    assert one.name == other.name
    assert one.retries == other.retries
    assert (one.isasync, other.isasync) == (False, True)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_public_async_method_has_a_twin_of_one_signature(kind):
    methods = {name: method for name, method in vars(kind).items() if inspect.isfunction(method) and name[0] != "_"}
    waiting = {name for name, method in methods.items() if inspect.iscoroutinefunction(method)}
    assert waiting == {f"a{name}" for name in METHODS[kind]}
    for name in METHODS[kind]:
        assert inspect.signature(methods[name]) == inspect.signature(methods[f"a{name}"])
