"""Every option reaches the wire as xAI's contract has it, from every way in: bodies as the emulator received them."""

import base64
import io
import json
from contextlib import nullcontext
from fractions import Fraction
from inspect import signature
from pathlib import Path

import av
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_xai_video import (
    Keyframe,
    Voice,
    XaiVideoGenerator,
    agenerate_long_video,
    agenerate_video,
    agenerate_videos,
    asubmit_videos,
    start_video,
)
from prefect_xai_video.api.options import LISTS, VideoOptions, build_request
from prefect_xai_video.api.storage_options import is_own_name
from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.batch.own_columns import OPTIONS
from prefect_xai_video.batch.plan import make_plan
from prefect_xai_video.cli import videos
from prefect_xai_video.cli.app import app
from prefect_xai_video.engine.options import SavingOptions
from prefect_xai_video.errors import AccessDenied, InvalidRequest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

CLASSIC, NEWEST = "grok-imagine-video", "grok-imagine-video-1.5"
GENERATIONS, EDITS, EXTENSIONS = (f"/v1/videos/{kind}" for kind in ("generations", "edits", "extensions"))
CAT, DOG, CLIP, VOICE = (f"https://example.com/{name}" for name in ("cat.png", "dog.png", "cat.mp4", "eve.mp3"))
FILE, KEPT = "xai-file:file_1", {"file_id": "file_1"}
FIRST, LAST, MIDDLE = {"url": CAT}, {"url": DOG}, {"image": {"url": DOG}, "timestamp_s": 2.5}

CASES = [
    ({"duration": 6}, GENERATIONS, {"duration": 6}),
    ({"aspect_ratio": "9:16"}, GENERATIONS, {"aspect_ratio": "9:16"}),
    ({"resolution": "720p"}, GENERATIONS, {"resolution": "720p"}),
    ({"generate_audio": False}, GENERATIONS, {"generate_audio": False}),
    ({"model": NEWEST}, GENERATIONS, {"model": NEWEST}),
    ({"user": "u-1"}, GENERATIONS, {"user": "u-1"}),
    ({"image_url": CAT}, GENERATIONS, {"image": FIRST}),
    ({"image_url": FILE}, GENERATIONS, {"image": KEPT}),
    ({"last_frame_url": DOG, "model": NEWEST}, GENERATIONS, {"last_frame": LAST, "model": NEWEST}),
    ({"last_frame_url": FILE, "model": NEWEST}, GENERATIONS, {"last_frame": KEPT, "model": NEWEST}),
    (
        {"keyframes": [{"image_url": DOG, "timestamp": 2.5}], "model": NEWEST},
        GENERATIONS,
        {"keyframes": [MIDDLE], "model": NEWEST},
    ),
    (
        {"image_url": CAT, "last_frame_url": DOG, "keyframes": [f"2.5={DOG}"], "model": NEWEST},
        GENERATIONS,
        {"image": FIRST, "last_frame": LAST, "keyframes": [MIDDLE], "model": NEWEST},
    ),
    (
        {"keyframes": [{"image_url": FILE, "timestamp": 2.5}, {"image_url": DOG, "timestamp": 3}], "model": NEWEST},
        GENERATIONS,
        {"keyframes": [{"image": KEPT, "timestamp_s": 2.5}, MIDDLE | {"timestamp_s": 3}], "model": NEWEST},
    ),
    ({"reference_image_urls": [CAT, DOG]}, GENERATIONS, {"reference_images": [FIRST, LAST]}),
    ({"reference_image_urls": [CAT, FILE]}, GENERATIONS, {"reference_images": [FIRST, KEPT]}),
    (
        {"reference_audios": [{"voice_id": "Eve"}], "model": NEWEST},
        GENERATIONS,
        {"reference_audios": [{"voice_id": "eve"}], "model": NEWEST},
    ),
    (
        {"reference_audios": [{"url": VOICE}, {"voice_id": "eve"}], "model": NEWEST},
        GENERATIONS,
        {"reference_audios": [{"url": VOICE}, {"voice_id": "eve"}], "model": NEWEST},
    ),
    (
        {"reference_audios": [VOICE, "Eve"], "model": NEWEST},
        GENERATIONS,
        {"reference_audios": [{"url": VOICE}, {"voice_id": "eve"}], "model": NEWEST},
    ),
    ({"video_url": CLIP}, EDITS, {"video": {"url": CLIP}}),
    ({"video_url": FILE}, EDITS, {"video": KEPT}),
    ({"extend_video_url": CLIP}, EXTENSIONS, {"video": {"url": CLIP}}),
    ({"extend_video_url": FILE}, EXTENSIONS, {"video": KEPT}),
    ({"extend_video_url": CLIP, "duration": 4}, EXTENSIONS, {"video": {"url": CLIP}, "duration": 4}),
]
BODIES = pytest.mark.parametrize(
    ("options", "path", "body"), CASES, ids=[", ".join(options) for options, *_ in CASES]
)


def received(emulator) -> tuple[str, dict]:
    """Path and body of the last submission."""
    last = [request for request in emulator.requests() if request["method"] == "POST"][-1]
    return last["path"], last["body"]


def refused_after_all(options):
    """Expect the refusal of a voice that has a URL, which is for trusted partners only."""
    has_clip = any("https://" in str(voice) for voice in options.get("reference_audios", ()))
    return pytest.raises(AccessDenied, match="trusted partners") if has_clip else nullcontext()


def test_every_option_of_a_video_has_a_case():
    assert {name for options, *_ in CASES for name in options} == set(VideoOptions.__annotations__)


@BODIES
def test_an_option_reaches_the_wire(emulator, directory, xai, options, path, body):
    with refused_after_all(options):
        start_video("A cat", **options, storage=directory, credentials=xai)
    assert received(emulator) == (path, {"model": CLASSIC, "prompt": "A cat"} | body)


@BODIES
def test_a_row_of_a_file_makes_the_same_request(tmp_path, options, path, body):
    cells = {name: json.dumps(value) if name in LISTS else str(value) for name, value in options.items()}
    table = tmp_path / "cats.csv"
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells.values())
    table.write_text(f"prompt,{','.join(cells)}\nA cat,{','.join(quoted)}\n")
    with open_manifest(str(table)) as manifest:
        [row] = make_plan(manifest).rows()
    assert row.request.body() == {"model": CLASSIC, "prompt": "A cat"} | body


def typed(options: dict) -> list[str]:
    """Write options as a person types them."""
    arguments = []
    for name, value in options.items():
        if value is False:
            arguments.append(f"--no-{name.replace('_', '-')}")
        elif name == "keyframes":
            texts = [each if isinstance(each, str) else f"{each['timestamp']}={each['image_url']}" for each in value]
            arguments += [part for text in texts for part in ("--keyframe", text)]
        elif name == "reference_audios":
            texts = [each if isinstance(each, str) else each.get("url") or each["voice_id"] for each in value]
            arguments += [part for text in texts for part in ("--reference-audio", text)]
        elif name == "reference_image_urls":
            arguments += [part for each in value for part in ("--reference-image-url", each)]
        else:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


@BODIES
def test_a_command_makes_the_same_request(monkeypatch, options, path, body):
    given = {}
    monkeypatch.setattr(videos, "generate", lambda prompt, options, *_, **__: given.update(options))
    app(["generate", "A cat", *typed(options)], exit_on_error=False, result_action="return_value")
    made = build_request("A cat", **{name: given[name] for name in VideoOptions.__annotations__ if name in given})
    assert made.body() == {"model": CLASSIC, "prompt": "A cat"} | body


@BODIES
def test_a_saved_generator_makes_the_same_request(emulator, directory, xai, options, path, body):
    with refused_after_all(options):
        XaiVideoGenerator(storage=directory, credentials=xai).trigger("A cat", **options)
    assert received(emulator) == (path, {"model": CLASSIC, "prompt": "A cat"} | body)


SENT_BY_A_FORM = {
    "generate_audio": True,
    "model": CLASSIC,
    "delivery": "download",
    "recovery": "none",
    "keep_at_xai": False,
    "public_url": False,
    "stills": False,
    "regenerate": False,
    "on_unknown": "raise",
}
"""What a form sends although nobody has touched it."""


async def run_of_a_form(directory, xai, **filled_in):
    """Make a run of a deployment as its form does, and execute it."""
    deployment = await (await agenerate_video.ato_deployment("form")).aapply()
    given = {"prompt": "A cat", **SENT_BY_A_FORM, **filled_in}
    async with get_client() as prefect:
        run = await prefect.create_flow_run_from_deployment(deployment, parameters=given)
    blocks = {"storage": directory, "credentials": xai}
    return await run_flow(agenerate_video, flow_run=run, parameters=run.parameters | blocks, return_type="state")


def entries(options):
    """Write lists as a form does, whose entries are objects."""
    keyframes = [Keyframe.model_validate(each).model_dump() for each in options.get("keyframes", ())]
    voices = [
        Voice.model_validate(each).model_dump(exclude_none=True) for each in options.get("reference_audios", ())
    ]
    lists = {"keyframes": keyframes, "reference_audios": voices}
    return options | {name: given for name, given in lists.items() if given}


@BODIES
async def test_a_form_makes_the_same_request(emulator, directory, xai, options, path, body):
    await run_of_a_form(directory, xai, timeout_seconds=0.2, **entries(options))
    sound = {"generate_audio": True} if path == GENERATIONS else {}
    assert received(emulator) == (path, {"model": CLASSIC, "prompt": "A cat"} | sound | body)


async def test_a_misspelt_option_in_a_form_is_one_clear_error_before_anything_is_sent(directory, xai, submissions):
    state = await run_of_a_form(directory, xai, durations=6)
    assert state.is_failed()
    assert "durations: there is no such parameter; allowed: prompt, image_url" in state.message
    assert state.message.endswith("Did you mean duration?")
    assert submissions() == 0


def test_every_way_in_has_all_options_of_storing(capsys):
    wanted = set(SavingOptions.__annotations__)
    for flow in (agenerate_video, agenerate_long_video, agenerate_videos):
        assert wanted <= signature(flow.fn).parameters.keys()
    assert wanted <= XaiVideoGenerator.model_fields.keys()
    assert wanted <= OPTIONS
    for command in ("generate", "long", "batch"):
        app([command, "--help"], result_action="return_value")
        shown = capsys.readouterr().out
        assert all(f"--{name.replace('_', '-')} " in shown for name in wanted)
    # It saves no video.
    assert wanted - signature(asubmit_videos.fn).parameters.keys() == {"stills"}


KEEPING = pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"recovery": "files"}, {"expires_after": 2592000}),
        ({"keep_at_xai": True}, {}),
        ({"keep_at_xai": True, "public_url": True}, {"public_url": True}),
        ({"keep_at_xai": 7200, "public_url": True}, {"expires_after": 7200, "public_url": True}),
    ],
)


def storage_options(emulator):
    sent = dict(received(emulator)[1]["storage_options"])
    assert is_own_name(sent.pop("filename"))
    return sent


@KEEPING
def test_what_xai_keeps_reaches_the_wire(emulator, directory, xai, options, stored):
    start_video("A cat", **options, storage=directory, credentials=xai)
    assert storage_options(emulator) == stored
    XaiVideoGenerator(storage=directory, credentials=xai, **options).trigger("A dog")
    assert received(emulator)[1]["prompt"] == "A dog"
    assert storage_options(emulator) == stored


@KEEPING
async def test_what_xai_keeps_reaches_the_wire_from_a_row(emulator, directory, xai, tmp_path, options, stored):
    table = tmp_path / "cats.csv"
    table.write_text(f"prompt,{','.join(options)}\nA cat,{','.join(map(str, options.values()))}\n")
    await asubmit_videos(str(table), storage=directory, credentials=xai)
    assert storage_options(emulator) == stored


@KEEPING
async def test_what_xai_keeps_reaches_the_wire_from_a_form(emulator, directory, xai, options, stored):
    await run_of_a_form(directory, xai, timeout_seconds=0.2, **options)
    assert storage_options(emulator) == stored


async def test_saved_defaults_of_a_new_clip_do_not_apply_to_an_extension(emulator, directory, xai):
    saved = XaiVideoGenerator(duration=15, resolution="720p", storage=directory, credentials=xai)
    await saved.atrigger("A cat", extend_video_url=CLIP)
    assert received(emulator) == (EXTENSIONS, {"model": CLASSIC, "prompt": "A cat", "video": {"url": CLIP}})


def picture(path: Path, grey: int) -> str:
    """Write a PNG of one grey."""
    frame = av.VideoFrame(64, 64, "gray")
    frame.planes[0].update(bytes([grey]) * frame.planes[0].buffer_size)
    coder = av.CodecContext.create("png", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = 64, 64, "gray", Fraction(1)
    path.write_bytes(b"".join(bytes(packet) for packet in [*coder.encode(frame), *coder.encode()]))
    return str(path)


async def test_a_video_of_local_references_and_frames_is_made_and_found_again(tmp_path, directory, xai, submissions):
    cat, dog = picture(tmp_path / "cat.png", 50), picture(tmp_path / "dog.png", 200)
    asked = {
        "image_url": cat,
        "last_frame_url": dog,
        "keyframes": [Keyframe(image_url=cat, timestamp=0.5)],
        "reference_image_urls": [cat, dog],
        "reference_audios": [Voice(voice_id="eve")],
        "model": NEWEST,
        "duration": 1,
        "key": "whole",
        "storage": directory,
        "credentials": xai,
    }
    video = await agenerate_video("<IMAGE_0> meets <IMAGE_1>", **asked)
    assert video.cost_usd is not None
    assert await agenerate_video("<IMAGE_0> meets <IMAGE_1>", **asked) == video
    assert submissions() == 1

    receipt = json.loads((Path(directory.basepath) / "whole.json").read_text())
    request = receipt["attempts"][-1]["request"]
    inputs = [request["image"], request["last_frame"], request["keyframes"][0]["image"], *request["reference_images"]]
    assert all(each["url"].startswith("sha256:") for each in inputs)
    assert len({each["url"] for each in inputs}) == 2


async def test_a_clip_is_continued_and_both_parts_are_in_the_result(tmp_path, directory, xai):
    stored = {"storage": directory, "credentials": xai}
    first = await agenerate_video("A ship leaves", duration=2, key="ship/1", aspect_ratio="1:1", **stored)
    longer = await agenerate_video("It comes home", extend_video_url=first.uri, duration=2, key="ship/2", **stored)
    assert longer.duration == 4
    with av.open(str(Path(directory.basepath) / "ship" / "2.mp4")) as clip:
        assert float(clip.duration / av.time_base) == pytest.approx(4, abs=0.2)


def clip_of(seconds: int) -> str:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(seconds):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    return f"data:video/mp4;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("option", "seconds", "allowed"),
    [("video_url", 9, "at most 8.7 s"), ("extend_video_url", 1, "2-15 s"), ("extend_video_url", 16, "2-15 s")],
)
def test_a_clip_of_the_wrong_length_is_refused_before_anything_is_sent(
    directory, xai, submissions, option, seconds, allowed
):
    with pytest.raises(
        InvalidRequest, match=rf"^{option}: a clip of {seconds}.0 s is not allowed; allowed: {allowed}"
    ):
        start_video("A cat", **{option: clip_of(seconds)}, storage=directory, credentials=xai)
    assert submissions() == 0


@pytest.mark.parametrize(("option", "usd"), [("video_url", "0.24"), ("extend_video_url", "0.34")])
def test_the_length_of_a_known_clip_is_part_of_the_estimate(directory, xai, option, usd):
    receipt = start_video("A cat", **{option: clip_of(4)}, storage=directory, credentials=xai)
    assert str(receipt.attempt.estimated_cost_usd) == usd
