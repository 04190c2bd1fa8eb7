"""The emulator as a command: `xai-video emulator`, or `python -m prefect_xai_video.emulator`."""

import signal
import threading
from pathlib import Path

from prefect_xai_video.emulator.server import Emulator

_SIGNAL_CHECK_SECONDS = 0.5


def serve(
    *,
    port: int = 0,
    render_seconds: float = 4,
    render_sigma: float = 0,
    render_slots: int | None = None,
    seed: int = 0,
    fault_share: float = 0,
    light: bool = False,
    log: Path | None = None,
    state: Path | None = None,
    api_key: str | None = None,
    team: str = "emulator",
    credits: float | None = None,
    requests_per_second: int | None = None,
    url_ttl_seconds: float = 3600,
    batch_ttl_seconds: float = 86_400,
    clock_ahead_seconds: float = 0,
) -> None:
    """Serve xAI's video API on this machine, at no cost.

    It prints its base URL, for XAI_BASE_URL, and serves until it is stopped by Ctrl-C or SIGTERM. GET
    /emulator/ledger lists the amounts that xAI would have billed.

    Args:
        port: Port on 127.0.0.1; 0 selects a free one.
        render_seconds: Shortest duration of a render, in seconds; the median if --render-sigma is given.
        render_sigma: Spread of the renders: each takes render_seconds * exp(render_sigma * gauss). 0 makes all
            renders equally long.
        render_slots: Number of videos that render at a time; the others wait in order of submission.
        seed: Seed of all random numbers, so that a run can be repeated.
        fault_share: Share of the submissions that get a random fault, from 0 to 1. Faults that never end or that
            concern the API key are excluded.
        light: Serve one prepared clip for all requests of the same size and duration, for thousands of videos on two
            cores. Prompts are not burned into these clips, and it can't be combined with --state.
        log: File to which each request is appended as one line of JSON.
        state: Directory for requests and videos, so that a later emulator can continue with them.
        api_key: The only API key that is accepted. Without it, any that is not empty.
        team: Id of the team to which all API keys belong.
        credits: Largest total amount billed, in USD; a request beyond it is refused with 403.
        requests_per_second: Largest number of submissions and polls together in each second, refused ones included;
            requests beyond it are refused with 429.
        url_ttl_seconds: Lifetime of the URL of a finished video, in seconds.
        batch_ttl_seconds: Lifetime of a batch of the Batch API, in seconds.
        clock_ahead_seconds: Seconds by which the emulator's wall clock runs ahead of this machine's clock.
    """
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    try:
        with Emulator(
            render_seconds=render_seconds,
            render_sigma=render_sigma,
            render_slots=render_slots,
            seed=seed,
            fault_share=fault_share,
            light=light,
            api_key=api_key,
            team=team,
            url_ttl_seconds=url_ttl_seconds,
            batch_ttl_seconds=batch_ttl_seconds,
            credits_usd=credits,
            requests_per_second=requests_per_second,
            log=log,
            port=port,
            state=state,
            clock_ahead_seconds=clock_ahead_seconds,
        ) as emulator:
            print(emulator.base_url, flush=True)
            # The system may deliver a signal to another thread, and then it does not wake this one.
            while not stop.wait(_SIGNAL_CHECK_SECONDS):
                pass
    except (ImportError, OSError, OverflowError, ValueError) as error:
        raise SystemExit(f"emulator: {error}") from None
