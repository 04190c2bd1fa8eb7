"""Errors travel between processes, and keep what they carry."""

import pickle
from decimal import Decimal

import pytest

from prefect_xai_video import errors
from prefect_xai_video.engine.stores import MisplacedReceipt, NotOverwritten

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.XaiVideoError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_is_pickled_with_all_that_it_carries(kind):
    error = kind("No.", key="cat", request_id="id-1", cost_usd=Decimal("0.05"), transient=True, maybe_paid=True)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", [MisplacedReceipt("It is elsewhere.", None), NotOverwritten("file:///cat.mp4")])
def test_errors_with_arguments_of_their_own_are_pickled_too(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
