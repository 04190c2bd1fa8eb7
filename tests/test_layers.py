"""Dependencies point downward only: the engine and what is below it know no Prefect."""

import ast
from pathlib import Path
from typing import get_type_hints

import pytest

import prefect_xai_video

PACKAGE = Path(prefect_xai_video.__file__).parent
WITHOUT_PREFECT = (
    "accounts",
    "capabilities",
    "client",
    "destinations",
    "download",
    "errors",
    "failures",
    "generation",
    "inputs",
    "inquiry",
    "journal",
    "markdown",
    "polling",
    "presigning",
    "previews",
    "reading",
    "receipts",
    "receipt_format",
    "redaction",
    "replies",
    "requests",
    "responses",
    "saving",
    "submission",
)
ORDER = [
    {"capabilities", "markdown", "previews", "reading", "receipt_format", "redaction", "replies"},
    {"errors"},
    {"failures", "polling", "presigning", "responses", "synchronous"},
    {"requests"},
    {"destinations", "download", "inputs", "receipts"},
    {"client", "stores"},
    {"accounts", "journal"},
    {"inquiry"},
    {"saving", "submission"},
    {"generation"},
    {"settings"},
    {"credentials", "direct_task", "assets", "events", "prefect_api"},
    {"deployed", "hooks", "keys", "limits", "rescues"},
    {"artifacts", "blocks", "forms"},
    {"tasks"},
    {"flows", "interruption", "jobs"},
]


def imports(module):
    folder = PACKAGE / module
    for file in sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("module", WITHOUT_PREFECT)
def test_the_engine_and_what_is_below_it_do_not_import_prefect(module):
    names = {name.split(".")[0] for name in imports(module)}
    assert "prefect" not in names


def test_every_module_has_its_place():
    modules = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")} - {"emulator", "py"}
    assert modules == set().union(*ORDER)


@pytest.mark.parametrize("level", range(len(ORDER)))
def test_a_module_imports_from_below_only(level):
    below = set().union(*ORDER[:level])
    for module in ORDER[level]:
        own = {name.split(".")[1] for name in imports(module) if name.startswith("prefect_xai_video.")} - {module}
        assert own <= below, f"{module} imports {own - below}"


@pytest.mark.parametrize("name", prefect_xai_video.__all__)
def test_the_types_of_public_names_can_be_read_at_run_time(name):
    public = getattr(prefect_xai_video, name)
    get_type_hints(getattr(public, "fn", public))
