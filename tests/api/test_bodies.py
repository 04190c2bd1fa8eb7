import json

import pytest

from prefect_xai_video.api.bodies import written
from prefect_xai_video.errors import InvalidRequest


def test_a_body_is_written_as_compact_json():
    body = {"prompt": 'Kätzchen "Mimi"', "keyframes": [{"timestamp_s": 2.5}], "generate_audio": False}
    content = written(body).read()
    assert json.loads(content) == body
    assert content.startswith('{"prompt":"Kätzchen'.encode())


@pytest.mark.parametrize("value", ["\udcff", float("nan")])
def test_a_body_that_can_not_be_written_is_refused_before_it_is_sent(value):
    with pytest.raises(InvalidRequest, match="Nothing was sent"):
        written({"prompt": value})
