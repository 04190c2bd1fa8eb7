import asyncio
import inspect

import pytest
from prefect.flows import Flow
from prefect.tasks import Task

import prefect_xai_video
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


async def test_the_twin_refuses_to_block_an_event_loop():
    with pytest.raises(RuntimeError, match=r"await adouble\("):
        synchronous(adouble)(3)


def test_every_public_flow_and_task_has_its_twin():
    assert sorted(PAIRS) == sorted([*SYNC, *(f"a{name}" for name in SYNC)])
    assert len(SYNC) == 7


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
