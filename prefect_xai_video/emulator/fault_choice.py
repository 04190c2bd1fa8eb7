"""Selects the faults of a submission: by markers, for the next submissions, or at random; and those of batches."""

import hashlib
import random
import re
from collections import deque

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.bodies import SubmissionBody
from prefect_xai_video.emulator.chosen_faults import ChosenFaults, Marker
from prefect_xai_video.emulator.faults import INJECTED, Fault


class FaultChoice:
    """Selects the faults of each submission, and of the calls of the Batch API.

    Attributes:
        of_batches: Faults of the next calls of the Batch API.

    Args:
        share: Share of the submissions without a selected fault that get a random one, from 0 to 1.
        seed: Seed of these faults.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._random = random.Random(f"faults {seed}")  # noqa: S311 - has to be reproducible
        self._of_body: dict[bytes, ChosenFaults] = {}
        self._for_next: deque[Marker] = deque()
        self.of_batches = ChosenFaults()

    def for_next(self, fault: str, submissions: int) -> None:
        """Select a fault, written as in a marker, for the next submissions without one, or calls of the Batch API.

        Raises:
            Refused: 400 if the fault does not exist.
        """
        marker = _marker(fault)
        if marker.fault.stage == "batch":
            self.of_batches.add(marker.fault, marker.times * submissions)
        else:
            self._for_next.extend([marker] * submissions)

    def of(self, body: SubmissionBody) -> ChosenFaults:
        """Return the faults of a submission; a body that was sent before continues with the remaining ones.

        Raises:
            Refused: 400 if a marker names an unknown fault, or one that no prompt can select.
        """
        markers = _markers(body.prompt or "")
        for marker in markers:
            if marker.fault.stage == "batch":
                raise refusals.invalid_argument(
                    f"{marker.fault} is selected by POST /emulator/faults, not by a prompt"
                )
        if markers:
            return self._of_body.setdefault(_digest(body), ChosenFaults(markers))
        if self._for_next:
            return ChosenFaults([self._for_next.popleft()])
        return ChosenFaults(self._injected())

    def _injected(self) -> list[Marker]:
        if self._random.random() >= self._share:
            return []
        fault = self._random.choice(INJECTED)
        return [Marker(fault, fault.times)]


# Refuse everything that resembles a marker: a test with a misspelled one must not pass by accident.
_MARKER = re.compile(r"\[\s*fault\s*:([^\]]*)(\]?)", re.IGNORECASE)
_FAULT = re.compile(r"(?P<name>[a-z0-9-]+)(?:\*(?P<times>[1-9][0-9]{0,8}))?")
_NAMED = {fault.value: fault for fault in Fault}


def _markers(prompt: str) -> list[Marker]:
    return [_marker(text if closed else f"{text} without ]") for text, closed in _MARKER.findall(prompt)]


def _marker(text: str) -> Marker:
    match = _FAULT.fullmatch(text)
    fault = _NAMED.get(match["name"]) if match else None
    if match is None or fault is None:
        raise refusals.invalid_argument(f'unknown fault "{text[:64]}"; GET /emulator/faults lists all faults')
    return Marker(fault, float(match["times"]) if match["times"] else fault.times)


def _digest(body: SubmissionBody) -> bytes:
    """Identify a submission by everything except the upload URL and the file name, which change with each attempt."""
    lasting = body.model_copy(update={"output": None, "storage_options": None})
    return hashlib.sha256(lasting.model_dump_json().encode()).digest()
