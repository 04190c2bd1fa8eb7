"""Histograms and sums of a batch's rows."""

from decimal import Decimal

from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.survey import MAX_BARS, Survey, evenly, histogram
from prefect_xai_video.ui.charts import bars_of_dollars, bars_of_seconds


def outcome(**facts):
    return RowOutcome(**{"number": 1, "place": "row 1", "key": "cat", "state": "stored", "is_new": True} | facts)


def test_few_values_have_a_bar_each_and_many_share_bars_of_one_width():
    assert [(bar.low, bar.high, bar.count) for bar in histogram([0.3, 0.05, 0.3])] == [(0.05, 0.05, 1), (0.3, 0.3, 2)]
    bars = histogram(list(range(101)))
    assert (len(bars), bars[0].low, bars[-1].high) == (MAX_BARS, 0, 100)
    assert sum(bar.count for bar in bars) == 101
    assert histogram([]) == ()


def test_money_is_added_up_by_model_and_state():
    rows = [
        outcome(model="one", cost_usd=Decimal("0.1"), render_seconds=4.5),
        outcome(model="one", cost_usd=Decimal("0.2")),
        outcome(model="one", state="moderated", estimated_cost_usd=Decimal("0.3")),
        outcome(model="two", cost_usd=Decimal("0.4"), is_new=False),
    ]
    survey = Survey.of(rows)
    assert survey.paid == {"one": {"stored": Decimal("0.3"), "moderated": Decimal("0.3")}}
    assert [bar.count for bar in survey.costs] == [1, 1, 1]
    assert [bar.label for bar in bars_of_dollars(survey.costs)] == ["$0.10", "$0.20", "$0.40"]
    assert [bar.label for bar in bars_of_seconds(survey.renders)] == ["4 s"]


def test_labels_are_as_exact_as_the_bars_need():
    assert [bar.label for bar in bars_of_dollars(histogram([0.052]))] == ["$0.052"]
    assert bars_of_seconds(histogram([number * 60 for number in range(50)]))[0].label == "0 s - 294 s"
    assert bars_of_dollars(histogram([0.05 + number / 1000 for number in range(50)]))[0].label == "$0.050 - $0.055"
    longest, shortest = (bar.text for bar in bars_of_seconds(histogram([1] * 999 + [2])))
    assert len(longest) == 24
    assert shortest == "▏"


def test_a_choice_is_spread_evenly():
    assert list(evenly(100, 4)) == [0, 25, 50, 75]
    assert list(evenly(3, 12)) == [0, 1, 2]
    assert list(evenly(0, 12)) == []
