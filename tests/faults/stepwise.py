"""Callers of the engine that stop at every point where the world can do something to them.

Each caller runs in a thread of its own, but only one of all moves at a time: it goes on when it is told how its point
ends, and is left alone again at the next one. So a test chooses every interleaving, every answer and every crash.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

STUCK_SECONDS = 120
DEAD = "dead"


class Killed(BaseException):
    """Lets the thread of a caller end whose process was killed, once nobody looks any more."""


class Caller:
    """Somebody who calls the engine.

    A caller that is killed just never goes on: no handler and no `finally` of it runs while the test looks.
    """

    def __init__(self, call: Callable[["Caller"], Coroutine[Any, Any, Any]], **facts: Any) -> None:
        self.__dict__.update(facts)
        self.at: str | None = None
        self.how = ""
        self.dead = self.cancelled = self.blind = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._point = threading.Lock()
        self._turn = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._released = False
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        self._thread.start()
        self._await_stop()

    def go_on(self, how: str) -> None:
        """Let the point end in some way, and wait for the next point or the end."""
        if how == "killed before":
            self.dead = True
            return
        self.how = how
        self._turn.release()
        self._await_stop()
        self.dead = self.at == DEAD

    def cancel(self) -> None:
        """Cancel the caller's task, and wait until that has reached whatever it waits for."""
        self.cancelled = True
        felt = threading.Event()

        def turn(left: int) -> None:
            self._loop.call_soon(turn, left - 1) if left else felt.set()

        self._loop.call_soon_threadsafe(self._task.cancel)
        self._loop.call_soon_threadsafe(turn, 20)
        assert felt.wait(STUCK_SECONDS), "the caller's event loop is blocked"

    def release(self) -> None:
        """Let a thread end that was left at its point."""
        self._released = True
        for _ in range(10):
            self._turn.release()
        self._thread.join(STUCK_SECONDS)
        assert not self._thread.is_alive(), "the caller does not end"

    @property
    def alive(self) -> bool:
        return self.at is not None and not self.dead

    @property
    def is_running(self) -> bool:
        """Whether it is its event loop that asks."""
        return threading.current_thread() is self._thread

    def stop(self, at: str) -> str:
        """Called in the caller's threads: stop at a point, and learn how it ends.

        Whoever is cancelled goes on with its clean-up, whose points come after the one that it was at.
        """
        with self._point:
            if self._released:
                raise Killed
            self.at = at
            self._stopped.release()
            self._turn.acquire()
            if self._released:
                raise Killed
            return self.how

    async def astop(self, at: str) -> str:
        """Stop like `stop`, in an event loop, which goes on and can be told of a cancellation."""
        return await asyncio.to_thread(self.stop, at)

    def _await_stop(self) -> None:
        assert self._stopped.acquire(timeout=STUCK_SECONDS), f"the caller is stuck after {self.at}: {self.how}"

    def _run(self) -> None:
        try:
            self.result = asyncio.run(self._main())
        except BaseException as error:
            self.error = error
        finally:
            self.at = None
            self._stopped.release()

    async def _main(self) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await self._call(self)
