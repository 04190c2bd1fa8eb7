"""The service behind the routes: who may ask, how often, for how much, and what was asked for."""

import hmac
import time
import uuid
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.clock import Clock
from prefect_xai_video.emulator.faults import ChosenFaults, FaultChoice
from prefect_xai_video.emulator.inputs import UNSEEN_CLIP_SECONDS, UNSEEN_CLIP_SIZE
from prefect_xai_video.emulator.ledger import billed_usd, cost_of
from prefect_xai_video.emulator.production import Production
from prefect_xai_video.emulator.state import State
from prefect_xai_video.emulator.validation import AcceptedRequest
from prefect_xai_video.emulator.videos import Video

MAX_PUBLIC_URLS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the emulator behaves.

    Attributes:
        render_seconds: How long a render takes at least.
        api_key: The one key that is accepted; None accepts any that is not empty.
        team: Id of the team that all keys belong to.
        url_ttl_seconds: How long the URL of a finished video lives.
        credits_usd: What may be billed in all; None is no limit.
        requests_per_second: How many submissions and polls a second are answered; None is no limit.
        clock_ahead_seconds: How far its wall clock runs ahead of this machine's.
    """

    render_seconds: float
    api_key: str | None
    team: str
    url_ttl_seconds: float
    credits_usd: Decimal | None
    requests_per_second: int | None
    clock_ahead_seconds: float


class Service:
    """One team's view of the service: its key, its limits and its videos.

    Attributes:
        settings: How it behaves.
        clock: Its wall clock.
        faults: What is to go wrong with which submission.
        videos: All videos that are known, by request id.
        root_url: Where it is, without a path; known once it listens.
        directory: Where it keeps files; known once it runs.
        state: Where requests outlive it; None where they don't.
        production: Makes the videos.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock(settings.clock_ahead_seconds)
        self.faults = FaultChoice()
        self.videos: dict[str, Video] = {}
        self.root_url = ""
        self.directory = Path()
        self.state: State | None = None
        self.production = Production(settings.render_seconds, self.save)
        self._answered: deque[float] = deque()

    def check_key(self, authorization: str | None) -> str:
        """Check the Authorization header, and give the key that is in it.

        Raises:
            Refused: 401 if there is no key, or another one.
        """
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise refusals.unauthenticated("No API key provided. Send it as a bearer token.")
        expected = self.settings.api_key
        if expected is not None and not hmac.compare_digest(key.encode(), expected.encode()):
            raise refusals.unauthenticated("Incorrect API key provided.")
        return key

    def check_rate(self) -> None:
        """Count a request.

        Raises:
            Refused: 429 if it is one too many within a second. It does not count then.
        """
        limit = self.settings.requests_per_second
        if limit is None:
            return
        now = time.monotonic()
        while self._answered and self._answered[0] <= now - 1:
            self._answered.popleft()
        if len(self._answered) >= limit:
            raise refusals.too_many_requests(len(self._answered), limit)
        self._answered.append(now)

    def submit(self, request: AcceptedRequest, faults: ChosenFaults) -> Video:
        """Take on a request with its faults, which is billed from now on.

        Raises:
            Refused: 403 if the credits do not suffice, 429 if it is to have one public URL too many.
        """
        # An input clip is looked at later, so its seconds are guessed here.
        input_seconds = 0 if request.video is None else UNSEEN_CLIP_SECONDS
        cost = cost_of(request, input_seconds, UNSEEN_CLIP_SIZE)
        limit = self.settings.credits_usd
        if limit is not None and billed_usd(self.videos.values()) + cost > limit:
            raise refusals.no_credits()
        if request.storage is not None and request.storage.public_url:
            self._check_public_urls()
        request_id = str(uuid.uuid4())
        video = Video(
            request=request,
            request_id=request_id,
            cost_usd=cost,
            path=self.directory / f"{request_id}.mp4",
            submitted_at=self.clock.now(),
            faults=faults.of_new_video(),
            fault_names=faults.names,
        )
        self.save(video)
        self._take_up(video)
        return video

    def _check_public_urls(self) -> None:
        now = self.clock.now()
        if sum(video.has_public_url(now) for video in self.videos.values()) >= MAX_PUBLIC_URLS:
            raise refusals.too_many_public_urls(MAX_PUBLIC_URLS)

    def resume(self) -> None:
        """Take up what is in the state directory, and go on with what is not finished."""
        for video in self.state.load() if self.state else ():
            self._take_up(video)

    def save(self, video: Video) -> None:
        """Write what has become of a video into the state directory, if there is one."""
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
            Refused: 400 if it is no id, 404 if there is no such video.
        """
        try:
            canonical = str(uuid.UUID(request_id))
        except ValueError:
            raise refusals.invalid_argument("Malformed request ID") from None
        if canonical not in self.videos and self.state is not None:
            # Accepted meanwhile by another emulator with the same state directory.
            video = self.state.find(canonical)
            if video is not None:
                self._take_up(video)
        if canonical not in self.videos:
            raise refusals.unknown_request(canonical)
        return self.videos[canonical]
