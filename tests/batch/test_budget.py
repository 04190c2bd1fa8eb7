"""The budget of a batch: reserved before each submission, settled with what was billed."""

import asyncio
from decimal import Decimal

import pytest

from prefect_xai_video.api.options import build_request
from prefect_xai_video.batch.budget import Budget
from prefect_xai_video.errors import LimitReached

CAT = build_request("A cat", duration=1)  # $0.05


async def test_without_a_limit_everything_fits():
    budget = Budget()
    for number in range(100):
        await budget.reserve(str(number), CAT)
    assert budget.reserved_usd == 5


async def test_what_does_not_fit_is_refused_when_nothing_can_turn_out_cheaper():
    budget = Budget(Decimal("0.10"))
    await budget.reserve("one", CAT)
    await budget.settle("one", Decimal("0.06"))
    with pytest.raises(LimitReached, match=r"\$0.10 has no room.*\$0.06 are spent.*Nothing was sent"):
        await budget.reserve("two", CAT)


async def test_a_row_waits_while_others_may_turn_out_cheaper():
    budget = Budget(Decimal("0.09"))
    await budget.reserve("one", CAT)
    waiting = asyncio.create_task(budget.reserve("two", CAT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    await budget.settle("one", Decimal("0.04"))
    await waiting
    assert (budget.paid_usd, budget.reserved_usd) == (Decimal("0.04"), Decimal("0.05"))


async def test_a_cost_that_is_not_reported_counts_as_estimated():
    budget = Budget(Decimal("0.10"))
    await budget.reserve("one", CAT)
    await budget.settle("one", None)
    assert budget.paid_usd == Decimal("0.05")


async def test_a_row_reserves_once_however_often_it_is_submitted():
    budget = Budget(Decimal("0.05"))
    await budget.reserve("one", CAT)
    await budget.reserve("one", CAT)
    assert budget.reserved_usd == Decimal("0.05")


async def test_a_row_that_was_not_sent_costs_nothing():
    budget = Budget(Decimal("0.05"))
    await budget.settle("never reserved", Decimal(0))
    await budget.reserve("one", CAT)
    await budget.settle("one", Decimal(0))
    assert (budget.paid_usd, budget.reserved_usd) == (0, 0)
