"""`BatchFlow`: a flow whose manifest may be a list, which Prefect does not store with the run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from typing_extensions import override

from prefect_xai_video.orchestration.direct_flow import DirectFlow

P = ParamSpec("P")
R = TypeVar("R")


class GivenRows:
    """Rows that were passed in a call.

    Prefect stores the parameters of a run, and no more than 512 KiB of them. It can't encode this class, so it stores
    `<GivenRows>`.

    Attributes:
        rows: The rows.
    """

    __slots__ = ("rows",)

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows


class BatchFlow(DirectFlow[P, R]):
    """A flow whose first parameter, `manifest`, may be a list of rows."""

    if not TYPE_CHECKING:  # Callers see the overloads of Prefect.

        @override
        def __call__(self, *args, **kwargs):
            """Run the flow; a list of rows is kept from Prefect."""
            if args:
                args = (_hidden(args[0]), *args[1:])
            elif "manifest" in kwargs:
                kwargs["manifest"] = _hidden(kwargs["manifest"])
            return super().__call__(*args, **kwargs)


def _hidden(manifest: Any) -> Any:
    is_list = isinstance(manifest, Sequence) and not isinstance(manifest, str | bytes)
    return GivenRows(manifest) if is_list else manifest
