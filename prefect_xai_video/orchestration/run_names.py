"""Names of flow runs: the first words of the prompt, unless a person has named the run.

In Prefect, the name that a flow generates replaces the one that a person has typed into the form of a deployment or
passed to `create_flow_run(name=...)`. So the flows of this package keep every name that is not random. Random names
come from Prefect's server or client, or from the form, which fills its name field with one.
"""

import re
from typing import Any, cast

from coolname.data import config
from prefect.context import FlowRunContext

from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.settings import XaiVideoSettings

MAX_RUN_NAME_LENGTH = 100

_PREFECT_WORDS = {
    word for part in cast("dict[str, dict[str, Any]]", config).values() for word in part.get("words", ())
}
"""Words of Prefect's random names, each of two words: `fearless-koala`."""

_CLASSIC_UI = re.compile(
    r"(alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi"
    r"|chi|psi|omega)\d*(-+[a-z]+)*"
)
"""Random names of the classic UI, such as `alpha4-andromedae-cluster`."""

_V2_UI = re.compile(
    "(Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical|Ergonomic"
    "|Handcrafted|Tasty|Handmade|Incredible)-.{1,6}"
)
"""Random names of the new UI, such as `Gorgeous-Zebra`."""


def name_run(*facts: object) -> str:
    """Name the current flow run.

    Args:
        facts: Parts of the generated name; empty ones are omitted.

    Returns:
        The present name of the run, unless it is random; otherwise the facts, at most 100 characters.
    """
    context = FlowRunContext.get()
    given = context.flow_run.name if context and context.flow_run else ""
    if given and not is_generated(given):
        return given
    return " ".join(str(fact) for fact in facts if fact)[:MAX_RUN_NAME_LENGTH]


def is_generated(name: str) -> bool:
    """Whether the name of a run is random: from Prefect, or from the form of one of its UIs."""
    words = name.split("-")
    by_prefect = len(words) == 2 and _PREFECT_WORDS.issuperset(words)
    return by_prefect or bool(_CLASSIC_UI.fullmatch(name) or _V2_UI.fullmatch(name))


def prompt_words(prompt: object) -> str:
    """Return the first words of a prompt for a name; empty if the settings exclude them."""
    try:
        return XaiVideoSettings.current().words_of(prompt)
    except InvalidRequest:  # The run itself reports the invalid setting.
        return ""
