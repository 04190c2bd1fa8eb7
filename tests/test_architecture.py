"""The house: which way imports run, how large its rooms are, and what of it is public."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import prefect_xai_video
from prefect_xai_video import emulator, errors, testing

PACKAGE = Path(prefect_xai_video.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_ENTRIES, MAX_PAIRS, MAX_LINES = 16, 80, 400

LATER = {"batch", "testing"}
NO_ROOM = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}

PUBLIC = {
    "FirstClipOptions",
    "LongPlan",
    "LongVideo",
    "agenerate_long_video",
    "generate_long_video",
    "plan_long_video",
    "Collected",
    "acollect_videos",
    "asubmit_videos",
    "collect_videos",
    "submit_videos",
    "BatchReport",
    "RowOutcome",
    "agenerate_videos",
    "amake_video",
    "generate_videos",
    "make_video",
    "AspectRatio",
    "CredentialsBlock",
    "MAY_STAY_EMPTY",
    "Prompt",
    "StartOptions",
    "StorageBlock",
    "TriggerOptions",
    "VideoOptions",
    "VideoRequest",
    "build_request",
    "check_key",
    "check_limits",
    "dollars",
    "form_input",
    "readable_places",
    "EditRequest",
    "ExtendRequest",
    "ImageRequest",
    "Keyframe",
    "Receipt",
    "ReferenceRequest",
    "Retries",
    "TextRequest",
    "Timeouts",
    "Video",
    "VideoStatus",
    "Voice",
    "XaiCredentials",
    "XaiVideoClient",
    "XaiVideoGenerator",
    "XaiVideoRun",
    "XaiVideoSettings",
    "aadopt_video",
    "acollect_video",
    "adopt_video",
    "agenerate_video",
    "aget_video",
    "asave_video",
    "astart_video",
    "await_for_video",
    "collect_video",
    "generate_video",
    "get_video",
    "save_video",
    "start_video",
    "wait_for_video",
}

FORM_TYPES = {"AspectRatio", "CredentialsBlock", "MAY_STAY_EMPTY", "Prompt", "StorageBlock"}
"""Annotated types, of which `get_type_hints` knows nothing."""


def imported(path):
    """The modules of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE.name)


def room(module):
    return (module.split(".") + [""])[1]


def test_imports_run_downward_and_keep_to_their_wing():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_root_of_the_package_has_few_entries():
    entries = {path.stem for path in PACKAGE.iterdir() if path.name not in NO_ROOM} - LATER
    assert len(entries) <= MAX_ENTRIES, sorted(entries)


def test_no_file_is_too_long():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: number for name, number in lines.items() if number > MAX_LINES} == {}


def test_few_pairs_of_rooms_know_each_other():
    rooms = {path.stem for path in PACKAGE.iterdir()}
    pairs = {
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), room(module))
        for path in MODULES
        for module in imported(path)
        if path.parent != PACKAGE or path.name not in NO_ROOM
    }
    pairs = {(one, other) for one, other in pairs if one != other and other in rooms and not LATER & {one, other}}
    assert len(pairs) <= MAX_PAIRS, sorted(pairs)


def test_what_is_public_is_listed_here():
    assert emulator.__all__ == ["Emulator"]
    assert testing.__all__ == ["xai_emulator", "xai_emulator_server"]
    assert set(prefect_xai_video.__all__) == PUBLIC
    assert set(prefect_xai_video.__all__) <= set(dir(prefect_xai_video))


@pytest.mark.parametrize("name", sorted(PUBLIC - FORM_TYPES))
def test_a_public_name_has_a_docstring_and_types_that_can_be_read_at_run_time(name):
    public = getattr(prefect_xai_video, name)
    assert public.__doc__
    get_type_hints(getattr(public, "fn", public))


def test_every_error_is_in_the_tree_at_the_top_of_its_module():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)
    assert sorted(drawn) == sorted(kind.__name__ for kind in kinds if kind is not errors.XaiVideoError)


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "flows").glob("*.py"), *(ROOT / "deployments").glob("*.py")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_examples_import_only_what_is_public(path):
    allowed = PUBLIC | {f"errors.{name}" for name in dir(errors)} | {f"emulator.{name}" for name in emulator.__all__}
    allowed |= {"errors", "emulator"}
    names = {module.removeprefix("prefect_xai_video.") for module in imported(path)} - {"prefect_xai_video"}
    assert names <= allowed
