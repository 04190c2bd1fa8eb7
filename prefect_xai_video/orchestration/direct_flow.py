"""`DirectFlow`: a Prefect flow whose results are never persisted."""

from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect.flows import Flow
from typing_extensions import override

from prefect_xai_video.errors import no_such
from prefect_xai_video.orchestration.direct_task import check_unpersisted
from prefect_xai_video.orchestration.final_states import awaited_with_result, with_result

P = ParamSpec("P")
R = TypeVar("R")


class DirectFlow(Flow[P, R]):
    """A flow whose results Prefect never stores.

    When a parent run is retried, Prefect returns a persisted result to the call with the same number, which may
    request another video. Receipts make a retry safe instead.

    Prefect's own validation of parameters must be off: theirs is that of the request. Only their names are checked.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Prefect calls `validate_parameters` then.
        self.should_validate_parameters = True

    if not TYPE_CHECKING:  # Callers see the overloads of Prefect.

        @override
        def __call__(self, *args, **kwargs):
            """Run the flow. Its result is not lost if the server's reply to its final state is."""
            run = partial(super().__call__, *args, **kwargs)
            return awaited_with_result(run()) if self.isasync else with_result(run)

    @override
    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Check the names of parameters, which come from a form, an API call or a schedule.

        Raises:
            InvalidRequest: If there is no such parameter.
        """
        for name in parameters:
            if name not in self.parameters.properties:
                raise no_such("parameter", name, self.parameters.properties)
        return parameters

    @override
    def with_options(self, **options: Any) -> "DirectFlow[P, R]":
        """Create a copy with other options; it is a `DirectFlow`, too.

        Raises:
            InvalidRequest: If the copy would persist its results.
        """
        check_unpersisted(self.name, options)
        copy = super().with_options(**options | {"validate_parameters": False})
        # Prefect creates a plain flow.
        copy.__class__ = type(self)
        copy.should_validate_parameters = True
        return copy  # type: ignore[return-value]
