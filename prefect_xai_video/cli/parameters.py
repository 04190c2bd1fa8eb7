"""How the parameters of commands are written on the command line."""

from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative="")]
Spread = Parameter(name="*")
Repeated = Annotated[tuple[str, ...], Parameter(negative="")]
Place = Annotated[str, Parameter(name=["--storage", "--directory"])]
OptionalPlace = Annotated[str | None, Parameter(name=["--storage", "--directory"])]
Keep = Annotated[list[str] | None, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="")]
