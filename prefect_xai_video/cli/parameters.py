"""How the parameters of commands are written on the command line."""

from collections.abc import Sequence
from typing import Annotated, Any, get_args

from cyclopts import CoercionError, Parameter, Token, convert

Flag = Annotated[bool, Parameter(negative="")]
Spread = Parameter(name="*")
Repeated = Annotated[tuple[str, ...], Parameter(negative="")]
Place = Annotated[str, Parameter(name=["--storage", "--directory"])]
OptionalPlace = Annotated[str | None, Parameter(name=["--storage", "--directory"])]
Keep = Annotated[list[str] | None, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="")]


def converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert the text of a parameter.

    A number must be whole where a whole one is expected: Cyclopts would round 6.5 seconds to 6. It is a number even
    where a boolean is allowed, too: Cyclopts would read 1 second as True.

    Args:
        kind: Type of the parameter.
        tokens: The text, as Cyclopts passes it.

    Raises:
        CoercionError: If the text has no such value.
    """
    kinds = get_args(kind) or (kind,)
    if int in kinds and tokens[0].value[:1] in {*"+-.0123456789"}:
        try:
            return int(tokens[0].value)
        except ValueError:
            raise CoercionError(token=tokens[0], target_type=int) from None
    return convert(kind, tokens)
