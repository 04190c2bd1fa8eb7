"""What Prefect makes of the flows' parameters: the schemas that both UIs draw, and that the server enforces."""

import sys
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from prefect_xai_video import (
    acollect_video,
    agenerate_long_video,
    agenerate_video,
    agenerate_videos,
    collect_video,
    generate_long_video,
    generate_video,
    generate_videos,
)

sys.path.append(str(Path(__file__).parents[2] / "flows"))

from animate_image import animate_image
from draft_and_final import draft_and_final
from generate_then_edit import generate_then_edit
from videos_from_table import videos_from_table

EXAMPLES = [animate_image, draft_and_final, generate_then_edit, videos_from_table]
DEPLOYED = [agenerate_video, agenerate_long_video, agenerate_videos, acollect_video, *EXAMPLES]
SYNCHRONOUS = [generate_video, generate_long_video, generate_videos, collect_video]
FLOWS = pytest.mark.parametrize("flow", [*DEPLOYED, *SYNCHRONOUS], ids=lambda flow: flow.fn.__name__)


def schema_of(flow):
    return parameter_schema(flow).model_dump()


@FLOWS
def test_each_parameter_has_a_title_and_help_and_is_one_input(flow):
    for name, field in schema_of(flow)["properties"].items():
        assert field["title"] not in {name, ""}
        assert 10 < len(field["description"]) < 200
        assert field.get("type") or "$ref" in field or {"title", "anyOf"} <= field.keys()
        assert {"type": "null"} not in field.get("anyOf", [])
        assert field.get("default", "") is not None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"duration": 15, "aspect_ratio": "9:16", "resolution": "1080p", "model": "grok-imagine-video-9"},
        {"duration": None, "image_url": None, "key": None, "timeout_seconds": None, "user": None},
        {"generate_audio": False},
        {"timeout_seconds": 0.5, "regenerate": True, "on_unknown": "resubmit", "delivery": "direct"},
        {"recovery": "files"},
        {"keep_at_xai": True, "public_url": True},
        {"keep_at_xai": 3600},
        {"storage": {"$ref": {"block_document_id": "1a621bcb-55fa-431f-9f61-a0ef12f8cd7a"}}},
    ],
    ids=lambda given: " ".join(given) or "nothing",
)
def test_the_server_takes_what_is_allowed(given):
    assert validate({"prompt": "A cat"} | given, schema_of(agenerate_video), raise_on_error=True) == []


def test_the_server_takes_what_a_batch_passes_to_its_shards():
    shard = {"number": 1, "start": 0, "stop": 200, "digest": "0" * 64, "name": "cats", "folder": ""}
    given = {"manifest": "s3://videos/cats.csv", "shard": shard, "shard_rows": None, "shard_deployment": None}
    given |= {"budget_usd": None, "key": None, "timeout_seconds": None, "in_flight": 1, "allow_failures": True}
    given |= {"keep": ["sku", "title"]}
    assert validate(given, schema_of(agenerate_videos), raise_on_error=True) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("duration", 0),
        ("duration", 16),
        ("duration", "ten"),
        ("aspect_ratio", "5:3"),
        ("resolution", "8k"),
        ("timeout_seconds", 0),
        ("generate_audio", "loud"),
        ("delivery", "post"),
        ("recovery", "file"),
        ("keep_at_xai", 3599),
        ("keep_at_xai", 2592001),
        ("keep_at_xai", "for ever"),
        ("on_unknown", "wait"),
        ("regenerate", "perhaps"),
    ],
)
def test_the_server_refuses_what_is_out_of_bounds_and_names_the_field(field, value):
    with pytest.raises(ValidationError, match=field):
        validate({"prompt": "A cat", field: value}, schema_of(agenerate_video), raise_on_error=True)
