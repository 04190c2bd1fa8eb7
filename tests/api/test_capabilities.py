from decimal import Decimal

import pytest

from prefect_xai_video.api.capabilities import estimate_cost
from prefect_xai_video.money import dollars


@pytest.mark.parametrize(
    ("amount", "text"), [("0.4", "$0.40"), ("0.400", "$0.40"), ("12", "$12.00"), ("0.052", "$0.052"), ("0", "$0.00")]
)
def test_an_amount_is_written_with_cents_or_more(amount, text):
    assert dollars(Decimal(amount)) == text


def test_an_edit_is_estimated_as_output_plus_input_seconds():
    assert estimate_cost("grok-imagine-video", seconds=5, resolution="720p", input_video_seconds=5) == Decimal("0.4")


def test_a_model_or_resolution_without_a_price_has_no_estimate():
    assert estimate_cost("grok-imagine-video-9", seconds=1) is None
    assert estimate_cost("grok-imagine-video", seconds=1, resolution="1080p") is None
    assert estimate_cost("grok-imagine-video-1.5", seconds=1, input_video_seconds=1) is None
