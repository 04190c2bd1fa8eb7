"""Whether a change of a receipt was legal, judged from outside: by what was on the disk before and after it."""

from prefect_xai_video.engine.attempts import ENDED_BADLY, LEGAL, Attempt
from prefect_xai_video.engine.receipts import Receipt

from .stepwise import Caller

LIVE = {"submitted", "done"}


def told(receipt: Receipt | None) -> str:
    """A receipt in one line."""
    if receipt is None:
        return "nothing"
    attempts = (f"{a.reason} {a.outcome} {a.request_id} by {a.flow_run_id}" for a in receipt.attempts)
    return f"{receipt.state} ({', '.join(attempts)})"


def problem_of_change(before: Receipt | None, after: Receipt) -> str | None:
    """What is wrong with a change of a receipt."""
    if before is None:
        adopted = after.state == "submitted" and after.attempt.reason == "adopted"
        return None if after.state == "sending" or adopted else "a receipt begins in the middle"
    old, new = ({attempt.claim for attempt in receipt.attempts} for receipt in (before, after))
    if not (old <= new and ids_of(before) <= ids_of(after)):
        return "an attempt or a request id was lost"
    if before.state == "stored" and before.file != after.file:
        return "a stored file was lost"
    if after.state in LEGAL[before.state] - {before.state} or before.state == after.state == "done":
        return None
    if is_told_of_a_missing_request(before, after) or is_late_refusal(before, after):
        return None
    ended = next(attempt.outcome for attempt in after.attempts if attempt.claim == before.attempt.claim)
    nothing = {"refused", "unknown", *ENDED_BADLY}
    earlier = after.attempt.claim in old - {before.attempt.claim}
    if earlier and ended in LEGAL[before.state] & nothing and (after.state == "submitted" or ended == "refused"):
        return None
    back = before.state in nothing and after.attempt.claim in old
    replies = [sum(attempt.request_id is not None for attempt in receipt.attempts) for receipt in (before, after)]
    replied = replies[0] < replies[1]
    late_reply = replied and (before.state == after.state or (back and after.state == "submitted"))
    is_found = after.attempt.direct or (after.attempt.xai_file is not None and after.attempt.xai_file.id is not None)
    delivered = back and after.state == "done" and (is_found or after.attempt.file is not None)
    may_be_adopted = "sending" in LEGAL[before.state] and after.attempt.claim not in old
    adopted = may_be_adopted and after.state == "submitted" and after.attempt.reason == "adopted"
    return None if late_reply or delivered or adopted else "an illegal transition"


def is_told_of_a_missing_request(before: Receipt, after: Receipt) -> bool:
    """Whether all that has changed is whether xAI knew the open request in the last poll."""
    if before.state != "submitted" or after.state != "submitted":
        return False
    told = [receipt.model_copy(update={"attempts": _without_failure(receipt)}) for receipt in (before, after)]
    return told[0] == told[1]


def _without_failure(receipt: Receipt) -> tuple[Attempt, ...]:
    return tuple(attempt.model_copy(update={"failure": None}) for attempt in receipt.attempts)


def is_late_refusal(before: Receipt, after: Receipt) -> bool:
    """Whether all that has changed is that an attempt of unknown outcome was surely refused."""
    pairs = list(zip(before.attempts, after.attempts, strict=False))
    changed = [(old.outcome, new.outcome) for old, new in pairs if old != new]
    return len(before.attempts) == len(after.attempts) and changed == [("unknown", "refused")]


def ended_ids(receipt: Receipt | None) -> set[str | None]:
    """The request ids whose attempts have ended without a video."""
    attempts = receipt.attempts if receipt else ()
    return {attempt.request_id for attempt in attempts if attempt.outcome in ENDED_BADLY}


def ids_of(receipt: Receipt) -> set[str]:
    return {attempt.request_id for attempt in receipt.attempts if attempt.request_id}


def problem_of_claim(caller: Caller, before: Receipt | None, after: Receipt) -> str | None:
    """What is wrong with a claim, which is a payment to be: who may send, over what was sent before?"""
    attempts = before.attempts if before else ()
    reason = after.attempt.reason
    if before is None:
        return None
    if before.state == "unknown" and not (caller.resubmit and reason == "resubmit"):
        return "what may have been accepted is sent again, and nobody said so"
    if before.state in ENDED_BADLY and not (caller.regenerate and reason == "regenerate"):
        return "what has ended is paid for again, and nobody said so"
    if before.state == "refused" and reason == "first" and before.maybe_paid:
        return "what may have been accepted is sent again as if it was refused"
    if before.state in {"refused", "unknown"} and any(
        a.outcome in LIVE and a.request_id and a.fingerprint == after.fingerprint for a in attempts
    ):
        return "sent again, though the receipt knows a request that was accepted"
    same = before.fingerprint in {None, after.fingerprint}
    if not same and before.maybe_paid and not (caller.regenerate and before.state in ENDED_BADLY):
        return "another request has taken the key"
    again = [
        a
        for a in attempts
        if a.flow_run_id == caller.run and a.reason == reason != "first" and a.outcome != "refused"
    ]
    if again and caller.run is not None and before.state != "refused":
        return "a flow run pays again twice"
    return None
