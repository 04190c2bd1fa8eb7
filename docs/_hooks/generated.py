"""Generates the parts of the reference that would go stale if they were typed by hand.

A page asks for one with a line `<!-- generated: NAME -->`; NAME is a key of `PARTS`. An unknown name fails the build.
`python docs/_hooks/generated.py NAME` prints a part, for readers of a checkout.
"""

import re
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from prefect.blocks.core import Block
from prefect.flows import Flow
from prefect.tasks import Task
from pydantic_core import PydanticUndefined

import prefect_xai_video
from prefect_xai_video.api.capabilities import MODELS, RESOLUTIONS, ModeLimits
from prefect_xai_video.cli.app import app
from prefect_xai_video.settings import PREFIX, XaiVideoSettings

# Now, since Prefect reads the docstring of a flow by griffe, and mkdocs counts griffe's warnings later.
PUBLIC = {name: getattr(prefect_xai_video, name) for name in prefect_xai_video.__all__}
MARKER = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each marker of a page by its part."""
    return MARKER.sub(lambda marker: PARTS[marker[1]](), markdown)


def public_names() -> str:
    """Document each public name of the package, grouped by what it is, an async name together with its twin."""
    groups = {"Flows": Flow, "Tasks": Task, "Blocks": Block, "Classes": type, "Functions": FunctionType}
    groups["Form inputs"] = object
    left = dict(PUBLIC)
    lines = []
    for title, kind in groups.items():
        names = [name for name, value in left.items() if is_a(value, kind)]
        left = {name: value for name, value in left.items() if name not in names}
        pairs = {f"a{name}": name for name in names if f"a{name}" in names}
        singles = {name: None for name in names if name not in pairs and name not in pairs.values()}
        lines += [f"## {title}", "", *(documented(name, twin) for name, twin in (pairs | singles).items())]
    return "\n".join(lines)


def is_a(value: object, kind: type) -> bool:
    """Whether a public value is of this kind, or a class of this kind."""
    return isinstance(value, kind) or (isinstance(value, type) and issubclass(value, kind))


def documented(name: str, twin: str | None) -> str:
    """Document one name; its synchronous twin has the same parameters, and links to it lead here."""
    if twin is None:
        return f"::: prefect_xai_video.{name}\n"
    options = [f'heading: "{twin}, {name}"', f'toc_label: "{twin}, {name}"']
    indented = "".join(f"      {option}\n" for option in options)
    return f'<a id="prefect_xai_video.{twin}"></a>\n\n::: prefect_xai_video.{name}\n    options:\n{indented}'


def settings() -> str:
    """Describe every setting from the fields of `XaiVideoSettings`, each under a heading of its own."""
    sections = []
    for name, field in XaiVideoSettings.model_fields.items():
        default = "" if field.default is PydanticUndefined else f" Default: {as_text(field.default)}."
        sections.append(f"## {name.upper()}\n\n`{PREFIX}{name.upper()}`\n\n{field.description}{default}\n")
    return "\n".join(sections)


def as_text(default: object) -> str:
    """A default as it is written in an environment variable."""
    match default:
        case bool():
            return f"`{str(default).lower()}`"
        case None | ():
            return "none"
        case _:
            return f"`{default}`"


def models() -> str:
    """Tabulate what each model makes and costs, from the table that checks requests."""
    rows: dict[str, list[str]] = {"": [f"`{entry.model}`" for entry in MODELS]}
    for mode in ("text", "image", "reference", "edit", "extend"):
        rows[f"{mode} mode"] = [allowed(entry.modes.get(mode)) for entry in MODELS]
    rows["reference images"] = [up_to(entry.max_reference_images) for entry in MODELS]
    rows["reference images with a first frame"] = ["yes" if entry.has_frames else "no" for entry in MODELS]
    rows["last frame, keyframes, voices"] = ["yes" if entry.has_frames else "no" for entry in MODELS]
    for resolution in RESOLUTIONS:
        rows[f"USD a second, {resolution}"] = [str(entry.usd_per_second.get(resolution, "-")) for entry in MODELS]
    rows["USD an input image"] = [str(entry.usd_per_input_image) for entry in MODELS]
    rows["USD a second of input video"] = [str(entry.usd_per_input_video_second or "-") for entry in MODELS]
    head, *lines = (f"| {title} | {' | '.join(cells)} |" for title, cells in rows.items())
    return "\n".join([head, "|---" * (len(MODELS) + 1) + "|", *lines])


def allowed(limits: ModeLimits | None) -> str:
    """Write the durations and resolutions of a mode."""
    if limits is None:
        return "no"
    duration = f"{limits.duration[0]}-{limits.duration[1]} s" if limits.duration else "as its input"
    return ", ".join([duration, *limits.resolutions])


def up_to(number: int) -> str:
    """Write a limit of 0 or more."""
    return f"at most {number}" if number else "no"


def command_line() -> str:
    """Document every command of `xai-video` by its own help, examples included."""
    _, *commands = app.generate_docs(output_format="markdown").split("\n## xai-video ")
    sections = []
    for command in commands:
        epilogue = app[command.split(maxsplit=1)[0]].help_epilogue or ""
        sections.append(f"## xai-video {command.strip()}\n\n{epilogue.partition('Exit codes:')[0].strip()}\n")
    return "\n".join(sections)


PARTS: dict[str, Callable[[], str]] = {
    "public names": public_names,
    "settings": settings,
    "models": models,
    "command line": command_line,
}

if __name__ == "__main__":
    print(PARTS[" ".join(sys.argv[1:])]())
