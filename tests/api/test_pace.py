import asyncio
import heapq
from itertools import pairwise
from random import Random

import pytest

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api import pace as pace_module
from prefect_xai_video.api import pacer as constants
from prefect_xai_video.api.pace import FAIR_EVERY, Pace, Urgency, paced
from prefect_xai_video.api.pacer import FRAME_SECONDS, START, Pacer, Turn, parse_rate_limit
from prefect_xai_video.api.requests import TextRequest
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import InvalidRequest, RateLimited, RequestRejected, ServiceUnavailable

from ..support.api_key import API_KEY
from ..support.scripted import ScriptedServer, answer


def pacer_at(ceiling, now=0.0):
    return Pacer(now, ceiling, Random(1))


def taken(pacer, now, until, *, more=False):
    """The turns that are due in a time, each with the time when it is due."""
    turns = []
    while (at := max(pacer.next_turn_at(now), now)) < until:
        turns.append((at, pacer.take(at, more=more)))
        now = at
    return turns


def served(pacer, limit, seconds, latency=0.1):
    """Statuses of the responses, per second, of a server that counts requests in fixed windows of a second."""
    now, events, counts, results = 0.0, [], {}, []
    while now < seconds:
        at = max(pacer.next_turn_at(now), now)
        if events and events[0][0] <= at:
            now, _, turn, is_accepted = heapq.heappop(events)
            pacer.on_accept(now, turn) if is_accepted else pacer.on_refuse(now, turn, limit=limit)
            continue
        now = at
        window = int(now)
        counts[window] = counts.get(window, 0) + 1
        is_accepted = counts[window] <= limit
        results.append((window, is_accepted))
        heapq.heappush(events, (now + latency, len(results), pacer.take(now, more=True), is_accepted))
    return results


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("Too many requests for team 5f0c. ... Requests per Second (actual/limit): 3/2. Please slow down.", 2),
        ("requests per second (actual / limit):  158 / 158", 158),
        ("Requests per Minute (actual/limit): 49/48", 0.8),
        ("Requests per Second (actual/limit): 2.5/1.5", 1.5),
        ("Requests per Second (actual/limit): 3/0", None),
        ("Tokens per Minute (actual/limit): 3/2", None),
        ("Your team has reached its limit of 1000 active public URLs.", None),
        ("Too many requests", None),
        ("", None),
    ],
)
def test_the_limit_is_read_from_the_text_of_a_429(text, limit):
    assert parse_rate_limit(text) == limit


def test_without_a_429_a_few_requests_never_wait():
    pacer = pacer_at(None)
    for second in range(100):
        assert len(taken(pacer, second, second + 1)) == START
    assert pacer.rate is None


def test_without_a_429_the_requests_double_with_each_response_time():
    pacer, now, sent = pacer_at(None), 0.0, []
    for _ in range(6):
        turns = taken(pacer, now, now + 0.1)
        sent.append(len(turns))
        now += 0.1
        for _, turn in turns:
            pacer.on_accept(now, turn)
    assert sent == [START * factor for factor in (1, 1, 2, 4, 8, 16)]


def test_the_first_429_sets_the_rate_to_that_of_the_last_second():
    pacer = pacer_at(None)
    turns = [pacer.take(10.0) for _ in range(5)]
    for turn in turns[:3]:
        pacer.on_accept(10.1, turn)
    pacer.on_refuse(10.1, turns[3])
    assert pacer.rate == pytest.approx(3 + 1 / FRAME_SECONDS)
    pacer.on_accept(10.2, turns[4])
    assert pacer.rate == pytest.approx(4 + 1 / FRAME_SECONDS)


def test_a_named_limit_is_not_exceeded_until_it_is_old():
    pacer = pacer_at(None)
    turns = [pacer.take(0.0) for _ in range(6)]
    pacer.on_refuse(0.1, turns[0], limit=2)
    for turn in turns[1:]:
        pacer.on_accept(0.1, turn)
    assert pacer.rate == 2
    for at, turn in taken(pacer, 1.0, constants.LIMIT_SECONDS, more=True):
        pacer.on_accept(at, turn)
    assert pacer.rate == 2
    for at, turn in taken(pacer, constants.LIMIT_SECONDS, constants.LIMIT_SECONDS + 60, more=True):
        pacer.on_accept(at, turn)
    assert pacer.rate > 2


def test_turns_are_evenly_spaced_up_to_the_ceiling():
    pacer = pacer_at(10)
    times = [at for at, _ in taken(pacer, 0.0, 30.0)]
    gaps = [after - before for before, after in pairwise(times)]
    assert 299 <= len(times) <= 301
    assert min(gaps) > 0.09
    assert max(gaps) < 0.11


def test_an_idle_pacer_saves_up_one_turn():
    pacer = pacer_at(2)
    assert len([at for at, _ in taken(pacer, 100.0, 100.45) if at == 100.0]) == 1


def test_a_late_timer_misses_no_turn():
    pacer = pacer_at(158)
    taken(pacer, 0.0, 10.0)
    assert 14 <= len([at for at, _ in taken(pacer, 10.1, 10.101) if at == 10.1]) <= 17


def test_only_a_refused_slot_is_given_up_and_the_others_stay():
    pacer = pacer_at(10)
    turns = [turn for _, turn in taken(pacer, 0.0, FRAME_SECONDS)]
    pacer.on_refuse(3.0, turns[4], retry_after=0)
    after = {turn.slot for _, turn in taken(pacer, 3.1, 3.1 + FRAME_SECONDS)}
    assert turns[4].slot not in after
    assert len({turn.slot for turn in turns} - after) <= 2


def test_the_429s_of_one_burst_are_one_decrease():
    pacer = pacer_at(30)
    turns = [turn for _, turn in taken(pacer, 0.0, FRAME_SECONDS)]
    number = len(turns)
    for turn in turns[:60]:
        pacer.on_refuse(3.0, turn)
        pacer.on_refuse(3.0, turn)
    assert pacer.rate * FRAME_SECONDS == number // 2
    pacer.on_refuse(3.0 + constants.BURST_SECONDS, turns[-1])
    assert number // 2 - 3 <= pacer.rate * FRAME_SECONDS < number // 2


def test_the_rate_grows_while_requests_wait_and_faster_with_each_success():
    pacer = pacer_at(None)
    pacer.on_refuse(0.0, pacer.take(0.0))
    rates, now = [], 0.0
    for _ in range(4):
        for at, turn in taken(pacer, now, now + 30, more=True):
            pacer.on_accept(at, turn)
        now += 30
        rates.append(pacer.rate)
    steps = [after - before for before, after in pairwise(rates)]
    assert steps[0] > 0
    assert steps == sorted(steps)


def test_the_rate_does_not_grow_if_no_request_waits():
    pacer = pacer_at(None)
    pacer.on_refuse(0.0, pacer.take(0.0))
    for at, turn in taken(pacer, 0.0, 300.0):
        pacer.on_accept(at, turn)
    assert pacer.rate == 1 / FRAME_SECONDS


def test_the_rate_never_exceeds_the_ceiling():
    pacer = pacer_at(4)
    for at, turn in taken(pacer, 0.0, 300.0, more=True):
        pacer.on_accept(at, turn)
        assert pacer.rate <= 4


@pytest.mark.parametrize("ceiling", [0, 0.5, -1, float("nan")])
def test_a_ceiling_below_one_is_an_error(ceiling):
    with pytest.raises(InvalidRequest, match="ceiling"):
        Pacer(0.0, ceiling)


@pytest.mark.parametrize("ceiling", [None, 10])
def test_no_turn_is_due_before_retry_after_and_none_is_saved_up_meanwhile(ceiling):
    pacer = pacer_at(ceiling)
    at = max(pacer.next_turn_at(1.0), 1.0)
    pacer.on_refuse(at, pacer.take(at), retry_after=7, limit=10)
    assert pacer.next_turn_at(at) >= at + 7
    assert len(taken(pacer, at + 7, at + 7.001)) <= 1


def test_a_very_long_retry_after_is_cut():
    pacer = pacer_at(None)
    pacer.on_refuse(0.0, pacer.take(0.0), retry_after=10**6)
    assert pacer.next_turn_at(0.0) <= constants.MAX_RETRY_AFTER + FRAME_SECONDS


def test_the_only_slot_pauses_after_refusals():
    pacer, now = pacer_at(1), 0.0
    pauses = []
    for _ in range(12):
        at = max(pacer.next_turn_at(now), now)
        pauses.append(at - now)
        pacer.on_refuse(at, pacer.take(at))
        now = at
    assert max(pauses) > FRAME_SECONDS
    assert max(pauses) < (constants.MAX_BACKOFF + 2) * FRAME_SECONDS


@pytest.mark.parametrize("limit", [1, 2, 10, 158])
def test_a_process_alone_settles_at_the_limit(limit):
    responses = served(Pacer(0.5, random=Random(1)), limit, 180)
    results = [is_accepted for window, is_accepted in responses if window >= 60]
    assert sum(results) >= 0.95 * limit * 120
    assert results.count(False) < 0.02 * len(results)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once while it has nothing to do."""

    def __init__(self):
        super().__init__()
        self.virtual, self.waits, select = 0.0, 0, self._selector.select

        def selected(timeout):
            assert timeout is not None, "all tasks wait for ever"
            self.waits += timeout > 0
            self.virtual += timeout
            return select(0)

        self._selector.select = selected

    def time(self):
        return self.virtual


def run(test):
    """Run a test in virtual time, with a pace of one request every half second, after its first turn."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(test(loop))
    finally:
        loop.close()


async def after_first_turn(loop, ceiling=2):
    pace = Pace(ceiling, loop.time)
    await pace.turn(Urgency.EARLY)
    await asyncio.sleep(0.01)
    return pace


async def started(pace, order, name, urgency):
    async def wait():
        await pace.turn(urgency)
        order.append(name)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return task


def test_turns_go_by_urgency_and_first_come_first_served_within_one(monkeypatch):
    monkeypatch.setattr(pace_module, "FAIR_EVERY", 100)

    async def test(loop):
        pace, order = await after_first_turn(loop), []
        kinds = [Urgency.EARLY, Urgency.SUBMISSION, Urgency.LIKELY_DONE] * 2
        tasks = [await started(pace, order, f"{kind.name} {number}", kind) for number, kind in enumerate(kinds)]
        await asyncio.gather(*tasks)
        assert order == ["SUBMISSION 1", "SUBMISSION 4", "LIKELY_DONE 2", "LIKELY_DONE 5", "EARLY 0", "EARLY 3"]

    run(test)


@pytest.mark.parametrize("kind", [Urgency.LIKELY_DONE, Urgency.EARLY])
def test_a_stream_of_urgent_requests_starves_no_other(kind):
    async def test(loop):
        pace, order = await after_first_turn(loop), []
        older = [await started(pace, order, "older", Urgency.SUBMISSION) for _ in range(3)]
        tasks = [*older, await started(pace, order, "other", kind)]
        while not tasks[3].done():
            tasks.append(await started(pace, order, "younger", Urgency.SUBMISSION))
            await asyncio.sleep(0.1)
        assert len(order) <= FAIR_EVERY * len(older)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(test)


def test_a_cancelled_request_takes_no_turn():
    async def test(loop):
        pace, order = await after_first_turn(loop), []
        tasks = [await started(pace, order, number, Urgency.SUBMISSION) for number in range(5)]
        for task in tasks[:4]:
            task.cancel()
        began = loop.time()
        await tasks[4]
        assert order == [4]
        assert loop.time() - began <= 0.5

    run(test)


def test_a_turn_that_was_handed_out_is_not_lost_with_its_request(monkeypatch):
    async def test(loop):
        pace, order = await after_first_turn(loop), []
        first = await started(pace, order, "first", Urgency.SUBMISSION)
        take = Pacer.take

        def take_and_cancel(*args, **options):
            # Runs after the turn has been handed out, and before the task that waited for it.
            loop.call_soon(first.cancel)
            monkeypatch.undo()
            return take(*args, **options)

        monkeypatch.setattr(Pacer, "take", take_and_cancel)
        await asyncio.wait({first})
        assert first.cancelled()
        now = loop.time()
        await (await started(pace, order, "second", Urgency.SUBMISSION))
        assert order == ["second"]
        assert loop.time() == now

    run(test)


def test_ten_thousand_requests_wait_without_work_in_between():
    async def test(loop):
        pace = await after_first_turn(loop, 158)
        await asyncio.sleep(1)
        waits = loop.waits
        await asyncio.gather(*(pace.turn(Urgency.SUBMISSION) for _ in range(10_000)))
        assert 62 < loop.time() < 66
        assert loop.waits - waits <= 10_000

    run(test)


def test_an_unlimited_pace_hands_out_turns_at_once():
    async def test(loop):
        pace = Pace(clock=loop.time)
        for _ in range(1000):
            pace.accepted(await pace.turn(Urgency.SUBMISSION))
        assert loop.time() == 0
        assert pace.rate is None

    run(test)


def test_a_pace_outlives_its_event_loop_but_is_never_shared_by_two():
    pace = Pace()

    async def turn():
        assert await pace.turn(Urgency.EARLY) == Turn()
        with pytest.raises(RuntimeError, match="two event loops"):
            await asyncio.to_thread(asyncio.run, pace.turn(Urgency.EARLY))

    asyncio.run(turn())
    asyncio.run(turn())


@pytest.mark.parametrize(
    ("error", "rate"),
    [
        (RateLimited("Requests per Second (actual/limit): 3/2", http_status=429), 1 / FRAME_SECONDS),
        (RequestRejected("no", http_status=404), None),
        (ServiceUnavailable("no connection"), None),
        (ValueError(), None),
    ],
)
async def test_only_a_429_limits_the_rate(error, rate):
    async def fail():
        raise error

    pace = Pace()
    with pytest.raises(type(error)):
        await paced(pace, Urgency.EARLY, fail)
    assert pace.rate == rate


class SeenPace(Pace):
    """A pace that records the turns."""

    def __init__(self, *args):
        super().__init__(*args)
        self.turns = []

    async def turn(self, urgency):
        self.turns.append(urgency)
        return await super().turn(urgency)


async def test_each_attempt_of_a_poll_and_of_a_post_takes_its_own_turn():
    refused = answer(
        "429 Too Many Requests", b'{"error":"Requests per Second (actual/limit): 3/2."}', "Retry-After: 0"
    )
    pending, accepted = answer("202 Accepted"), answer("200 OK", b'{"request_id":"abc"}')
    pace = SeenPace()
    with ScriptedServer([pending, pending, refused, accepted, pending]) as server:
        async with XaiVideoClient("key", f"{server.url}/v1", pace=pace) as client:
            for _ in range(2):
                await client.get("abc")
            assert pace.rate is None
            assert await client.start(TextRequest(prompt="A cat")) == "abc"
            await client.get("abc", urgency=Urgency.EARLY)
    assert pace.turns == [Urgency.LIKELY_DONE] * 2 + [Urgency.SUBMISSION] * 2 + [Urgency.EARLY]
    assert 0 < pace.rate <= 2
    assert len(server.requests) == 5


async def test_a_pace_keeps_the_rate_limit_of_the_emulator():
    pace = SeenPace()
    with Emulator(requests_per_second=4, api_key=API_KEY) as emulator:
        async with XaiVideoClient(API_KEY, emulator.base_url, pace=pace, retries=Retries(attempts=20)) as client:
            request_id = await client.start(TextRequest(prompt="A cat"))
            statuses = await asyncio.gather(*(client.get(request_id) for _ in range(12)))
    assert len(statuses) == 12
    assert len(pace.turns) == len(emulator.requests())
    # A machine so slow that nothing was refused has learned nothing.
    assert pace.rate is None or pace.rate <= 4


def test_a_single_429_after_many_accepted_requests_hardly_slows_down():
    """One refusal among requests that were accepted faster than the limit that it names."""
    now = 0.0
    pacer = Pacer(now)
    for second in range(5):
        for number in range(40):
            now = second + number / 40
            pacer.on_accept(now, pacer.take(now))
    # A second of silence, as when all videos are being rendered.
    now = 6.5
    turn = pacer.take(now)
    pacer.on_refuse(now, turn, limit=2)
    assert pacer.rate >= 35
