import json
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_xai_video.api.requests import TextRequest
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.attempts import LEGAL, IllegalTransition, StoredFile
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.next_steps import NEXT_STEP
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import InvalidRequest, RateLimited, SubmissionUnknown, VideoFailed, VideoModerated

REQUEST = TextRequest(prompt="A cat")
ID = "0b6f0a3c"
FILE = StoredFile(uri="file:///v/cat.mp4", size=3, sha256="ab", content_type="video/mp4")
REFUSAL = RateLimited("Too many", http_status=429, code="resource-exhausted")


def claimed() -> Receipt:
    return Receipt.claim("cat", REQUEST, "run-1")


def status(state="done", **facts) -> VideoStatus:
    return VideoStatus(request_id=ID, state=state, **facts)


def status_of(request_id, state, **facts) -> VideoStatus:
    return VideoStatus(request_id=request_id, state=state, **facts)


CHANGES = {
    "sending": lambda receipt: receipt.sent_again("regenerate", REQUEST),
    "submitted": lambda receipt: receipt.submitted(ID),
    "refused": lambda receipt: receipt.refused(REFUSAL),
    "unknown": lambda receipt: receipt.unknown(SubmissionUnknown("lost")),
    "done": lambda receipt: receipt.finished(status()),
    "failed": lambda receipt: receipt.finished(status("failed")),
    "moderated": lambda receipt: receipt.finished(status("moderated")),
    "expired": lambda receipt: receipt.finished(status("expired")),
    "stored": lambda receipt: receipt.stored(FILE),
}
WAYS = {
    "sending": [],
    "refused": ["refused"],
    "unknown": ["unknown"],
    "submitted": ["submitted"],
    "done": ["submitted", "done"],
    "stored": ["submitted", "done", "stored"],
    "failed": ["submitted", "failed"],
    "moderated": ["submitted", "moderated"],
    "expired": ["submitted", "expired"],
}


def in_state(state) -> Receipt:
    receipt = claimed()
    for step in WAYS[state]:
        receipt = CHANGES[step](receipt)
    assert receipt.state == state
    return receipt


@pytest.mark.parametrize("before", LEGAL)
@pytest.mark.parametrize("after", LEGAL)
def test_only_the_documented_transitions_are_possible(before, after):
    receipt = in_state(before)
    if after in LEGAL[before]:
        assert CHANGES[after](receipt).state == after
    else:
        with pytest.raises(IllegalTransition):
            CHANGES[after](receipt)


@pytest.mark.parametrize("state", LEGAL)
def test_a_receipt_is_equal_after_writing_and_reading(state):
    receipt = in_state(state)
    assert Receipt.from_json(receipt.to_json()) == receipt


def test_the_json_of_a_receipt_has_the_important_facts_at_the_top():
    facts = status(cost_usd=Decimal("0.30"), duration=6, model="grok-imagine-video", url="https://vidgen.x.ai/v.mp4")
    told = json.loads(claimed().submitted(ID).finished(facts).stored(FILE).to_json())
    assert told["version"] == 2
    assert told["state"] == "stored"
    assert told["request_id"] == ID
    assert told["flow_run_id"] == "run-1"
    assert told["cost_usd"] == "0.30"
    assert told["estimated_cost_usd"] == "0.4"
    assert told["request"] == {"model": "grok-imagine-video", "prompt": "A cat"}
    assert told["file"]["sha256"] == "ab"
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["stored"]


def test_a_signed_url_is_not_written():
    plain = claimed().submitted(ID).finished(status(url="https://vidgen.x.ai/v.mp4"))
    signed = claimed().submitted(ID).finished(status(url="https://b.s3.amazonaws.com/v.mp4?X-Amz-Signature=s3cr3t"))
    assert plain.url == "https://vidgen.x.ai/v.mp4"
    assert signed.url is None
    assert b"s3cr3t" not in signed.to_json()


def test_every_attempt_is_kept_with_its_outcome():
    receipt = claimed().refused(REFUSAL).sent_again("first", REQUEST).submitted(ID)
    assert [(a.number, a.outcome, a.request_id) for a in receipt.attempts] == [
        (1, "refused", None),
        (2, "submitted", ID),
    ]
    assert receipt.attempts[0].failure.code == "resource-exhausted"
    assert receipt.failure is None


def test_a_late_reply_completes_the_attempt_of_its_claim():
    receipt = claimed()
    given_up = receipt.unknown(SubmissionUnknown("left behind"))
    assert given_up.late_reply(receipt.attempt.claim, ID).state == "submitted"


def test_a_late_reply_to_a_replaced_claim_is_kept_in_its_own_attempt():
    receipt = claimed()
    replaced = receipt.unknown(SubmissionUnknown("left behind")).sent_again("resubmit", REQUEST).submitted("second")
    noted = replaced.late_reply(receipt.attempt.claim, ID)
    assert noted.request_id == "second"
    assert noted.state == "submitted"
    assert noted.attempts[0].request_id == ID


@pytest.mark.parametrize("ended", ["refused", "unknown"])
def test_a_late_reply_counts_if_later_attempts_have_no_video(ended):
    receipt = claimed()
    since = receipt.unknown(SubmissionUnknown("left behind")).sent_again("resubmit", REQUEST)
    noted = CHANGES[ended](since).late_reply(receipt.attempt.claim, ID)
    assert (noted.state, noted.request_id, noted.failure) == ("submitted", ID, None)
    assert Receipt.from_json(noted.to_json()) == noted


def test_the_error_of_a_failed_attempt_has_all_known_facts():
    moderated = status("moderated", cost_usd=Decimal("0.25"), code="imagine:content-moderated", message="Rejected.")
    error = claimed().submitted(ID).finished(moderated).error()
    assert type(error) is VideoModerated
    assert (error.key, error.request_id, error.cost_usd) == ("cat", ID, Decimal("0.25"))
    assert error.code == "imagine:content-moderated"
    assert "Rejected." in str(error)
    assert type(in_state("failed").error()) is VideoFailed


def test_maybe_paid_is_false_only_while_all_attempts_were_refused():
    assert not in_state("refused").maybe_paid
    assert in_state("sending").maybe_paid
    assert in_state("unknown").sent_again("resubmit", REQUEST).maybe_paid


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda told: told | {"version": 3}, "version is 3"),
        (lambda told: [told], "not a receipt"),
        (lambda told: told | {"request_id": "another"}, "checksum"),
        (lambda told: told | {"state": "refused"}, "checksum"),
        (lambda told: told | {"surprise": 1}, "checksum"),
        (lambda told: told | {"attempts": []}, "checksum"),
        (lambda told: told | {"checksum": "00"}, "checksum"),
        (lambda told: {name: value for name, value in told.items() if name != "checksum"}, "checksum"),
    ],
)
def test_an_invalid_or_edited_receipt_is_rejected(edit, text):
    told = json.loads(in_state("submitted").to_json())
    with pytest.raises(ValueError, match=text):
        Receipt.from_json(json.dumps(edit(told)).encode())


def test_a_receipt_may_have_another_layout():
    receipt = in_state("stored")
    assert Receipt.from_json(json.dumps(json.loads(receipt.to_json()), sort_keys=True).encode()) == receipt


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"outcome": "stored"}, "stored without a file"),
        ({"outcome": "paid"}, "outcome"),
        ({"file": FILE, "outcome": "unknown"}, "unknown with a file"),
        ({"request_id": None}, "without a request"),
    ],
)
def test_an_inconsistent_attempt_is_rejected(changes, text):
    told = in_state("submitted").attempt.model_dump()
    with pytest.raises(ValueError, match=text):
        Receipt(key="cat", attempts=[told | changes])


def test_a_receipt_has_an_attempt():
    with pytest.raises(ValueError, match="attempts"):
        Receipt(key="cat", attempts=[])


def test_a_delivered_video_needs_no_request_id():
    direct = Receipt.claim("cat", REQUEST, direct=True)
    unknown = direct.unknown(SubmissionUnknown("lost"))
    assert [attempt.claim for attempt in unknown.undelivered] == [direct.attempt.claim]
    done = unknown.delivered(direct.attempt.claim)
    assert (done.state, done.request_id, done.failure, done.undelivered) == ("done", None, None, ())
    stored = done.stored(FILE)
    assert Receipt.from_json(stored.to_json()) == stored
    assert stored.video("file:///v/cat.json").request_id is None


def test_a_late_reply_to_a_delivered_video_is_kept():
    direct = Receipt.claim("cat", REQUEST, direct=True)
    done = direct.unknown(SubmissionUnknown("lost")).delivered(direct.attempt.claim)
    noted = done.late_reply(direct.attempt.claim, ID)
    assert (noted.state, noted.request_id) == ("done", ID)


def test_the_delivery_of_an_earlier_attempt_makes_it_the_current_one():
    first = Receipt.claim("cat", REQUEST, direct=True)
    second = first.unknown(SubmissionUnknown("lost")).sent_again("resubmit", REQUEST).refused(REFUSAL)
    done = second.delivered(first.attempt.claim)
    assert [(a.number, a.outcome) for a in done.attempts] == [(1, "done"), (2, "refused")]
    assert done.attempt.number == 1


@pytest.mark.parametrize("state", ["sending", "submitted", "done", "stored"])
def test_only_an_attempt_of_unknown_outcome_can_be_delivered(state):
    receipt = in_state(state)
    with pytest.raises(IllegalTransition):
        receipt.delivered(receipt.attempt.claim)


def test_an_adopted_request_id_is_the_lost_reply():
    adopted = in_state("unknown").adopted(ID)
    assert (adopted.state, adopted.request_id, adopted.attempt.reason) == ("submitted", ID, "first")
    assert len(adopted.attempts) == 1


def test_a_late_reply_is_kept_next_to_the_id_that_was_adopted_instead():
    receipt = claimed()
    adopted = receipt.unknown(SubmissionUnknown("lost")).adopted("found")
    noted = adopted.late_reply(receipt.attempt.claim, ID)
    assert (noted.state, noted.request_id) == ("submitted", "found")
    assert [attempt.request_id for attempt in noted.attempts] == [ID, "found"]


def test_a_late_reply_to_an_unknown_claim_is_an_error():
    with pytest.raises(IllegalTransition, match="without this submission"):
        claimed().late_reply("another claim", ID)


@pytest.mark.parametrize("before", ["unknown", "failed", "moderated", "expired"])
def test_a_refused_retry_leaves_the_state_of_the_key(before):
    again = in_state(before).sent_again("resubmit", REQUEST).refused(REFUSAL)
    assert again.state == before
    assert [attempt.outcome for attempt in again.attempts] == [before, "refused"]
    assert Receipt.from_json(again.to_json()) == again


def test_an_earlier_accepted_request_counts_if_the_next_one_fails():
    receipt = claimed()
    since = receipt.unknown(SubmissionUnknown("left behind")).sent_again("resubmit", REQUEST)
    both = since.late_reply(receipt.attempt.claim, "first").submitted(ID)
    ended = both.finished(status("moderated"))
    assert (ended.state, ended.request_id) == ("submitted", "first")


@pytest.mark.parametrize("ended", ["refused", "unknown"])
def test_a_late_reply_counts_if_a_later_attempt_fails_after_it(ended):
    receipt = claimed()
    since = receipt.unknown(SubmissionUnknown("left behind")).sent_again("resubmit", REQUEST)
    ended_since = CHANGES[ended](since.late_reply(receipt.attempt.claim, ID))
    assert (ended_since.state, ended_since.request_id) == ("submitted", ID)
    assert [attempt.outcome for attempt in ended_since.attempts] == ["submitted", ended]


def test_a_file_to_be_stored_is_recorded_whatever_xai_reports_later():
    saving = in_state("done").saving(FILE)
    assert (saving.state, saving.file) == ("done", FILE)
    assert Receipt.from_json(saving.to_json()) == saving
    assert saving.saving(FILE) is saving
    assert saving.stored(FILE).state == "stored"
    expired = saving.finished(status("expired"))
    for later in (saving.finished(status()), expired, expired.submitted("id-1"), saving.finished(status("failed"))):
        assert later.file == FILE
        assert Receipt.from_json(later.to_json()) == later
    with pytest.raises(IllegalTransition):
        saving.video("file:///v/cat.json")


@pytest.mark.parametrize("state", ["refused", "failed", "moderated", "expired"])
def test_a_request_id_adopted_after_an_ended_attempt_is_another_attempt(state):
    adopted = in_state(state).adopted("found", "run-2")
    assert (adopted.state, adopted.request_id, adopted.attempt.reason) == ("submitted", "found", "adopted")
    assert [attempt.number for attempt in adopted.attempts] == [1, 2]
    assert Receipt.from_json(adopted.to_json()) == adopted


@pytest.mark.parametrize("state", ["sending", "submitted", "done", "stored"])
def test_a_key_with_a_pending_or_stored_request_adopts_no_other(state):
    with pytest.raises(IllegalTransition):
        in_state(state).adopted("found")


def test_a_request_of_unknown_content_can_be_adopted():
    adopted = Receipt.adopt("cat", ID)
    assert (adopted.state, adopted.request_id, adopted.fingerprint) == ("submitted", ID, None)
    assert Receipt.from_json(adopted.to_json()) == adopted


def test_every_state_has_a_next_step():
    assert NEXT_STEP.keys() == LEGAL.keys()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version":1'])
def test_a_truncated_receipt_is_refused(content):
    with pytest.raises(ValueError):  # noqa: PT011 (whatever json says of it)
        Receipt.from_json(content)


@pytest.mark.parametrize(
    "key", ["cat", "2026/11/22/cat_1.final", "user=7/a+b@c-d", "x" * 200, "/".join(["x" * 99] * 5)]
)
def test_a_valid_key_is_accepted(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "/cat", "cat/", "a//b", "..", "a/../b", "./cat", ".cat", "a cat", "cat\n", "a\\b", "c:cat", "kätzchen"]
    + ["x" * 201, "x" * 2000, "/".join(["x" * 100] * 6), "cat.mp4", "cat.JSON", "a?b", "a#b", "a%20b", "a\x00b"]
    + ["cat.mp4/x", "cat.json/x", "cats/cat.MP4/x"],
)
def test_a_key_that_is_not_a_portable_file_name_is_rejected(key):
    with pytest.raises(InvalidRequest, match="key: ") as caught:
        check_key(key)
    assert len(str(caught.value)) < 400


def test_the_time_of_each_step_is_recorded():
    sent = claimed()
    submitted = sent.submitted("id-1")
    done = submitted.finished(status())
    assert sent.attempt.submitted_at is None
    assert sent.attempt.started_at <= submitted.attempt.submitted_at <= done.attempt.done_at
    assert done.finished(status()).attempt.done_at == done.attempt.done_at
    found = sent.unknown(SubmissionUnknown("lost")).adopted("id-1")
    assert (found.state, found.attempt.submitted_at) == ("submitted", None)


ANOTHER = TextRequest(prompt="A dog")
VERSION_1 = Path(__file__).parent / "receipts_version_1"
"""Receipts that were written before each attempt had its own request."""


@pytest.mark.parametrize("path", sorted(VERSION_1.glob("*.json")), ids=lambda path: path.stem)
def test_a_receipt_of_version_1_says_the_same_as_before(path):
    old = json.loads(path.read_bytes())
    read = Receipt.from_json(path.read_bytes())
    now = json.loads(read.to_json())
    told = old.keys() - {"version", "checksum", "attempts", "file"}
    assert {name: now[name] for name in told} == {name: old[name] for name in told}
    assert (now["version"], now["api"], now["team"]) == (2, None, None)
    assert (now["file"] or {}).get("sha256") == (old["file"] or {}).get("sha256")
    assert [attempt["claim"] for attempt in now["attempts"]] == [attempt["claim"] for attempt in old["attempts"]]
    assert Receipt.from_json(read.to_json()) == read


def test_a_late_reply_to_another_prompt_is_not_the_video_of_the_new_one():
    first = claimed()
    failed = first.unknown(SubmissionUnknown("left behind")).sent_again("resubmit", REQUEST).submitted("second")
    regenerated = failed.finished(status_of("second", "failed")).sent_again("regenerate", ANOTHER).submitted("third")
    noted = regenerated.late_reply(first.attempt.claim, "first")
    assert (noted.request_id, noted.request["prompt"]) == ("third", "A dog")
    ended = noted.finished(status_of("third", "moderated"))
    assert (ended.state, ended.fingerprint) == ("moderated", ANOTHER.fingerprint)
    assert ended.open_attempt(REQUEST.has_fingerprint).request_id == "first"
    assert ended.open_attempt(ANOTHER.has_fingerprint) is None


def test_each_attempt_keeps_its_own_request_cost_and_failure():
    moderated = in_state("submitted").finished(status("moderated", cost_usd=Decimal("0.3"), message="Rejected."))
    again = moderated.sent_again("regenerate", ANOTHER).submitted("second")
    done = again.finished(status_of("second", "done", cost_usd=Decimal("0.5"), duration=8)).stored(FILE)
    first, second = done.attempts
    assert (first.request["prompt"], first.cost_usd, first.outcome) == ("A cat", Decimal("0.3"), "moderated")
    assert (second.request["prompt"], second.cost_usd, second.file) == ("A dog", Decimal("0.5"), FILE)
    assert (done.request, done.failure, first.failure.type) == (second.request, None, "VideoModerated")


def test_a_refused_regeneration_leaves_the_request_of_the_key():
    refused = in_state("failed").sent_again("regenerate", ANOTHER).refused(REFUSAL)
    assert (refused.state, refused.fingerprint) == ("failed", REQUEST.fingerprint)


def test_a_refusal_that_comes_after_its_claim_was_given_up_is_recorded():
    receipt = claimed()
    given_up = receipt.unknown(SubmissionUnknown("left behind"))
    assert given_up.late_refusal(receipt.attempt.claim, REFUSAL).state == "refused"
    again = given_up.sent_again("resubmit", REQUEST).submitted("second")
    noted = again.late_refusal(receipt.attempt.claim, REFUSAL)
    assert (noted.state, [attempt.outcome for attempt in noted.attempts]) == ("submitted", ["refused", "submitted"])


@pytest.mark.parametrize("state", ["submitted", "done", "failed", "moderated"])
def test_an_expired_video_may_become_available_again(state):
    assert CHANGES[state](in_state("expired")).state == state


def test_an_unknown_request_id_is_recorded_until_xai_knows_it():
    missing = in_state("submitted").not_found(REFUSAL)
    assert (missing.state, missing.is_not_found) == ("submitted", True)
    assert "regenerate" in missing.next_step
    assert Receipt.from_json(missing.to_json()) == missing
    assert not missing.found_again().is_not_found
    assert missing.finished(status()).failure is None


def test_an_unparsable_response_is_kept_with_its_trace_id():
    lost = SubmissionUnknown("lost", trace_id="trace-1", answer='{"id": 7}')
    unknown = Receipt.from_json(claimed().unknown(lost).to_json())
    assert (unknown.attempt.trace_id, unknown.attempt.answer) == ("trace-1", '{"id": 7}')
    assert unknown.submitted(ID).attempt.trace_id == "trace-1"
