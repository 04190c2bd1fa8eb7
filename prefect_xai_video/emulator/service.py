"""The service behind the routes: API key, rate limit, credits, and the requested videos."""

import hmac
import math
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.chosen_faults import ChosenFaults
from prefect_xai_video.emulator.clock import Clock
from prefect_xai_video.emulator.fault_choice import FaultChoice
from prefect_xai_video.emulator.files import Files, PublicAccess
from prefect_xai_video.emulator.inputs import UNSEEN_CLIP_SECONDS, UNSEEN_CLIP_SIZE, RenderFailed
from prefect_xai_video.emulator.ledger import billed_usd, cost_of
from prefect_xai_video.emulator.production import Production
from prefect_xai_video.emulator.rate import RequestRate
from prefect_xai_video.emulator.state import State
from prefect_xai_video.emulator.validation import AcceptedRequest
from prefect_xai_video.emulator.videos import BatchPlace, Video


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the emulator.

    Attributes:
        render_seconds: Shortest duration of a render, in seconds; the median if `render_sigma` is given.
        render_sigma: Sigma of the log-normal distribution of renders; 0 for renders of equal duration.
        render_slots: Number of videos that render at a time; None for no limit.
        light: Serve one prepared clip for all requests of the same shape.
        seed: Seed of all random numbers.
        fault_share: Share of the submissions that get a random fault, from 0 to 1.
        api_key: The only API key that is accepted; None accepts any that is not empty.
        team: Id of the team to which all API keys belong.
        url_ttl_seconds: Lifetime of the URL of a finished video, in seconds.
        batch_ttl_seconds: Lifetime of a batch of the Batch API, in seconds.
        credits_usd: Largest total amount billed, in USD; None for no limit.
        requests_per_second: Rate limit for submissions and polls; None for no limit.
        clock_ahead_seconds: Seconds by which its wall clock runs ahead of this machine's clock.
    """

    render_seconds: float
    render_sigma: float
    render_slots: int | None
    light: bool
    seed: int
    fault_share: float
    api_key: str | None
    team: str
    url_ttl_seconds: float
    batch_ttl_seconds: float
    credits_usd: Decimal | None
    requests_per_second: int | None
    clock_ahead_seconds: float

    def __post_init__(self) -> None:
        if self.render_sigma < 0:
            raise ValueError(f"render_sigma is {self.render_sigma}, but must not be negative.")
        if self.render_slots is not None and self.render_slots < 1:
            raise ValueError(f"render_slots is {self.render_slots}, but must be at least 1, or None for no limit.")
        if not 0 <= self.fault_share <= 1:
            raise ValueError(f"fault_share is {self.fault_share}, but must be between 0 and 1.")


class Service:
    """One team's view of the service: its key, its limits and its videos.

    Attributes:
        settings: Its settings.
        clock: Its wall clock.
        faults: Selected faults of submissions.
        videos: All known videos, by request id.
        files: The files of the Files API.
        root_url: Its URL without a path; set when it listens.
        directory: Directory for its files; set when it runs.
        state: Persistent requests; None if they end with the emulator.
        production: Makes the videos.
        rate: The rate limit for submissions and polls.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock(settings.clock_ahead_seconds)
        self.videos: dict[str, Video] = {}
        self.root_url = ""
        self.directory = Path()
        self.state: State | None = None
        self.files = Files(lambda: self.clock)
        self.production = Production(
            settings.render_seconds,
            settings.render_slots,
            settings.light,
            self.files,
            self._may_begin,
            self._on_change,
        )
        self._seed()

    def _seed(self) -> None:
        self.faults = FaultChoice(self.settings.fault_share, self.settings.seed)
        self._paces = random.Random(f"paces {self.settings.seed}")  # noqa: S311 - has to be reproducible
        self.rate = RequestRate(self.settings.requests_per_second)
        self._last_finish = datetime.min.replace(tzinfo=UTC)

    def reset(self) -> None:
        """Forget all videos, files and selected faults, and start the random numbers again."""
        self.production.drop()
        for video in self.videos.values():
            # Prepared clips serve later videos, too.
            if video.clip is None:
                video.path.unlink(missing_ok=True)
        self.videos.clear()
        self.files.clear()
        self._seed()

    def check_key(self, authorization: str | None) -> str:
        """Check the Authorization header and return its API key.

        Raises:
            Refused: 401 if there is no API key, or a wrong one.
        """
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise refusals.unauthenticated("No API key provided. Send it as a bearer token.")
        expected = self.settings.api_key
        if expected is not None and not hmac.compare_digest(key.encode(), expected.encode()):
            raise refusals.unauthenticated("Incorrect API key provided.")
        return key

    def submit(self, request: AcceptedRequest, faults: ChosenFaults, client_request_id: str | None = None) -> Video:
        """Accept a request with its faults; it is billed from now on.

        Args:
            request: The request.
            faults: Its selected faults.
            client_request_id: Its `x-client-request-id`.

        Returns:
            The new video.

        Raises:
            Refused: 403 if the credits are not sufficient, 429 if it needs more public URLs than allowed.
        """
        self.check_credits([request])
        if request.storage is not None and request.storage.public_url:
            self.files.check_public_urls()
        return self.take(request, faults, client_request_id=client_request_id)

    def check_credits(self, requests: Iterable[AcceptedRequest]) -> None:
        """Check that requests can be paid for.

        Raises:
            Refused: 403 if the credits are not sufficient for all of them.
        """
        limit = self.settings.credits_usd
        if limit is not None and billed_usd(self.videos.values()) + sum(map(_expected_cost, requests)) > limit:
            raise refusals.no_credits()

    def take(
        self,
        request: AcceptedRequest,
        faults: ChosenFaults,
        *,
        client_request_id: str | None = None,
        place: BatchPlace | None = None,
        failure: RenderFailed | None = None,
    ) -> Video:
        """Take a request that was checked.

        Args:
            request: The request.
            faults: Its selected faults.
            client_request_id: Its `x-client-request-id`.
            place: Its place in a batch.
            failure: Why it fails without being rendered.

        Returns:
            The new video.
        """
        request_id = str(uuid.uuid4())
        video = Video(
            request=request,
            request_id=request_id,
            cost_usd=_expected_cost(request),
            path=self.directory / f"{request_id}.mp4",
            submitted_at=self.clock.now(),
            faults=faults.of_new_video(),
            fault_names=faults.names,
            client_request_id=client_request_id,
            place=place,
            pace=math.exp(self.settings.render_sigma * self._paces.gauss(0, 1)),
        )
        if failure is not None:
            video.fail(failure)
        elif self.settings.render_slots is None:
            video.begin()
        self._on_change(video)
        self._take_up(video)
        return video

    def public_url(self, public: PublicAccess) -> str:
        """The public URL of a file."""
        return f"{self.root_url}/xai-files/{public.token}.mp4"

    def resume(self) -> None:
        """Load the requests of the state directory, and continue those that are not finished."""
        for video in self.state.load() if self.state else ():
            self._take_up(video)

    def cancel(self, video: Video) -> None:
        """Cancel a video whose render has not begun."""
        video.cancel()
        self._on_change(video)

    def _may_begin(self, video: Video) -> bool:
        """Whether a render may begin or go on; that of an expired batch may not begin."""
        if video.place and video.begun is None and self.clock.now() >= video.place.expires_at:
            self.cancel(video)
        return video.outcome != "cancelled"

    def _on_change(self, video: Video) -> None:
        if video.outcome != "pending" and video.finished_at is None:
            # No two videos finish at the same time, so that their order never changes.
            self._last_finish = max(self.clock.now(), self._last_finish + timedelta(microseconds=1))
            video.finished_at = self._last_finish
        self.save(video)

    def save(self, video: Video) -> None:
        """Save the state of a video in the state directory, if there is one."""
        if self.state is not None:
            self.state.save(video)

    def _take_up(self, video: Video) -> None:
        self.videos[video.request_id] = video
        if video.outcome == "done" and not video.path.exists():
            video.outcome = "pending"
        if video.outcome == "pending":
            self.production.begin(video)

    def video(self, request_id: str) -> Video:
        """Find a video by its request id.

        Raises:
            Refused: 400 if it is not a valid id, 404 if the video does not exist.
        """
        try:
            canonical = str(uuid.UUID(request_id))
        except ValueError:
            raise refusals.invalid_argument("Malformed request ID") from None
        if canonical not in self.videos and self.state is not None:
            # Another emulator with the same state directory may have accepted it meanwhile.
            video = self.state.find(canonical)
            if video is not None:
                self._take_up(video)
        found = self.videos.get(canonical)
        # A request of a batch is read by its batch only.
        if found is None or found.place is not None:
            raise refusals.unknown_request(canonical)
        return found


def _expected_cost(request: AcceptedRequest) -> Decimal:
    # An input clip is read later, so its duration is an assumption here.
    input_seconds = 0 if request.video is None else UNSEEN_CLIP_SECONDS
    return cost_of(request, input_seconds, UNSEEN_CLIP_SIZE)
