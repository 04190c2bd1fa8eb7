"""How a video comes from xAI to the store, checked before anything is paid for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from prefect_xai_video.api.capabilities import MAX_STORAGE_SECONDS, PUBLIC_URL_SECONDS
from prefect_xai_video.api.storage_options import file_name
from prefect_xai_video.engine.attempts import XaiFile
from prefect_xai_video.engine.options import Delivery, DeliveryOptions, Recovery, SavingOptions
from prefect_xai_video.engine.stills import check_stills
from prefect_xai_video.errors import not_allowed, shown


def delivery_of(options: Mapping[str, object]) -> DeliveryOptions:
    """Select, of all options of a video, those that say how it comes to the store."""
    given = {name: value for name, value in options.items() if name in DeliveryOptions.__annotations__}
    return cast("DeliveryOptions", given)


def check_saving(options: SavingOptions) -> None:
    """Check, before anything is paid for, how a video comes to the store and what is stored beside it.

    Raises:
        InvalidRequest: If a value is not allowed, can't be combined with another one, or needs PyAV.
    """
    Handover(**delivery_of(options))
    check_stills(options.get("stills", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """How a video comes from xAI to the store: the values of `DeliveryOptions`.

    Raises:
        InvalidRequest: If a value is not allowed, or can't be combined with another one.
    """

    delivery: Delivery = "download"
    recovery: Recovery = "none"
    keep_at_xai: bool | int = False
    public_url: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name, allowed in (("delivery", get_args(Delivery)), ("recovery", get_args(Recovery))):
            if getattr(self, name) not in allowed:
                raise not_allowed(name, shown(getattr(self, name)), " or ".join(allowed))
        self._check_keeping()
        if self.is_direct and self.recovery == "files":
            raise not_allowed(
                "recovery",
                "'files' with direct delivery",
                "none",
                "Direct delivery recognises a lost submission by its video in the bucket.",
            )

    def _check_keeping(self) -> None:
        # xAI publishes no shortest life of a file; with that of a public URL, each kept file can have one.
        shortest, longest = PUBLIC_URL_SECONDS
        is_lifetime = isinstance(self.keep_at_xai, int) and shortest <= self.keep_at_xai <= longest
        if not isinstance(self.keep_at_xai, bool) and not is_lifetime:
            allowed = f"true, false or a whole number of seconds, {shortest}-{longest}"
            raise not_allowed("keep_at_xai", shown(self.keep_at_xai), allowed)
        if not isinstance(self.public_url, bool):
            raise not_allowed("public_url", shown(self.public_url), "true or false")
        if self.public_url and not self.keep_at_xai:
            raise not_allowed("public_url", "true without keep_at_xai", "false, or keep_at_xai")
        if self.is_direct and self.keep_at_xai:
            raise not_allowed("keep_at_xai", f"{self.keep_at_xai} with direct delivery", "false")

    @property
    def is_direct(self) -> bool:
        """Whether xAI uploads the video to the store."""
        return self.delivery == "direct"

    def file(self, claim: str) -> XaiFile | None:
        """Describe the file as which xAI stores the video of a claim; None if it stores none."""
        name = file_name(claim)
        if self.keep_at_xai:
            seconds = None if self.keep_at_xai is True else self.keep_at_xai
            return XaiFile(name=name, expires_after=seconds, keep=True, is_public=self.public_url)
        # What is left behind ends by itself.
        return XaiFile(name=name, expires_after=MAX_STORAGE_SECONDS) if self.recovery == "files" else None
