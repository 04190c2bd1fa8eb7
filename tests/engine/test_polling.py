import math
import random
from statistics import mean

import pytest

from prefect_xai_video.api.pace import Urgency
from prefect_xai_video.engine.polling import Poll, PollSchedule, expected_end, next_wait, urgency_of

SCHEDULE = PollSchedule()


def simulate(renders, report):
    """Polls and delays of simulated renders: log-normal, median 40 s, sigma 0.5."""
    counts, delays = [], []
    for _ in range(renders):
        end = random.lognormvariate(math.log(40), 0.5)
        polls, now = [], 0.0
        while True:
            now += next_wait(SCHEDULE, polls, now)
            if now >= end:
                break
            polls.append(Poll(now, report(100 * now / end)))
        counts.append(len(polls) + 1)
        delays.append(now - end)
    return mean(counts), mean(delays)


@pytest.mark.parametrize("noise", [0, 2, 5])
def test_with_noisy_progress_five_polls_find_the_end_within_a_second(noise):
    random.seed(1)
    polls, delay = simulate(8_000, lambda true: round(min(max(random.gauss(true, noise), 0), 99)))
    assert polls <= 5
    assert delay <= 1


def test_without_progress_nine_polls_find_the_end_within_three_seconds():
    random.seed(1)
    polls, delay = simulate(8_000, lambda true: None)
    assert polls <= 9
    assert delay <= 3


@pytest.mark.parametrize("report", [lambda true: 0, lambda true: 100, lambda true: 24, lambda true: 99 - true])
def test_implausible_progress_never_leads_to_many_polls(report):
    random.seed(1)
    polls, delay = simulate(2000, report)
    assert polls <= 40
    assert delay <= SCHEDULE.longest


def test_the_first_poll_comes_after_the_expected_time_or_at_once_if_that_has_passed():
    assert next_wait(SCHEDULE, [], 0) == SCHEDULE.first
    assert next_wait(SCHEDULE, [], SCHEDULE.first - 5) == 5
    assert next_wait(SCHEDULE, [], 300) == 0


def test_waits_stay_within_the_bounds():
    for progress in (None, 1, 50, 99):
        for elapsed in (1.0, 20.0, 5000.0):
            wait = next_wait(SCHEDULE, [Poll(elapsed, progress)], elapsed)
            assert SCHEDULE.shortest <= wait <= SCHEDULE.longest


def test_late_reports_weigh_more_than_early_ones():
    assert expected_end([Poll(20, 10), Poll(30, 75)]) == pytest.approx(40, abs=4)
    assert expected_end([Poll(20, None), Poll(30, 0)]) is None


@pytest.mark.parametrize(
    ("polls", "elapsed", "urgency"),
    [
        ([], 18, Urgency.EARLY),
        ([], 30, Urgency.LIKELY_DONE),
        ([Poll(18)], 29, Urgency.EARLY),
        ([Poll(18, 18)], 40, Urgency.EARLY),
        ([Poll(18, 18)], 91, Urgency.LIKELY_DONE),
    ],
)
def test_a_poll_is_urgent_when_the_video_is_likely_to_be_done(polls, elapsed, urgency):
    assert urgency_of(polls, elapsed) == urgency
