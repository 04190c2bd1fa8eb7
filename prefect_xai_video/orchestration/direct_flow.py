"""`DirectFlow`: a Prefect flow whose results are never persisted."""

from typing import Any, ParamSpec, TypeVar

from prefect.flows import Flow
from typing_extensions import override

from prefect_xai_video.orchestration.direct_task import check_unpersisted

P = ParamSpec("P")
R = TypeVar("R")


class DirectFlow(Flow[P, R]):
    """A flow whose results Prefect never stores.

    When a parent run is retried, Prefect returns a persisted result to the call with the same number, which may
    request another video. Receipts make a retry safe instead.
    """

    @override
    def with_options(self, **options: Any) -> "DirectFlow[P, R]":
        """Create a copy with other options; it is a `DirectFlow`, too.

        Raises:
            InvalidRequest: If the copy would persist its results.
        """
        check_unpersisted(self.name, options)
        copy = super().with_options(**options)
        # Prefect creates a plain flow.
        copy.__class__ = type(self)
        return copy  # type: ignore[return-value]
