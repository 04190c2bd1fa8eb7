"""Sentences of the package, as they are read on the command line."""

_OPTIONS = {
    'on_unknown="resubmit"': "--on-unknown resubmit",
    "On unknown outcome (on_unknown) set to resubmit": "--on-unknown resubmit",
    "which keep names": "which --keep names",
    ": keep names it": ": --keep names it",
    "regenerate=True": "--regenerate",
    "regenerate switched on": "--regenerate",
    "choose an XaiCredentials block": "name a block with --credentials xai-credentials/NAME",
}


def with_options(sentence: str) -> str:
    """Name the options of the command in place of the parameters of flows."""
    for parameter, option in _OPTIONS.items():
        sentence = sentence.replace(parameter, option)
    return sentence
