"""The command line of `xai-video`; the module of a command is imported when it runs, so help waits for no Prefect."""
# ruff: noqa: PLC0415

import sys
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from prefect_xai_video import __version__
from prefect_xai_video.api.options import PlainOptions
from prefect_xai_video.batch.lanes import LaneChoice
from prefect_xai_video.cli.parameters import Flag, Json, Keep, Place, Repeated, Spread, converted
from prefect_xai_video.cli.wording import with_options
from prefect_xai_video.engine.attempts import ReceiptState
from prefect_xai_video.engine.options import DeliveryOptions, KeyOptions, OnUnknown, SavingOptions, TriggerOptions
from prefect_xai_video.errors import InvalidRequest, XaiVideoError

FAILED, MISUSED = 1, 2

EXIT_CODES = """
Exit codes: 0 done, 1 failed with one sentence on stderr, 2 an option or a value is not allowed, 130 stopped by
Ctrl-C, 141 nobody reads stdout any more. Only results are written to stdout.
"""

app = App(
    name="xai-video",
    help="Videos with xAI and Prefect: one key, one video, one payment.",
    version=__version__,
    help_epilogue=EXIT_CODES,
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(converter=converted),
)


def examples(*lines: str) -> str:
    """Write the end of a command's help."""
    return "Examples:\n\n" + "\n".join(f"    xai-video {line}" for line in lines) + "\n" + EXIT_CODES


@app.command(
    help_epilogue=examples(
        'generate "A cat playing with a ball" --duration 6 --aspect-ratio 9:16',
        'generate "Make it move" --image-url cat.png --key cats/moving',
        'generate "<IMAGE_0> walks through <IMAGE_1>" --reference-image-url cat.png --reference-image-url street.png',
        "generate --image-url first.png --last-frame-url last.png --model grok-imagine-video-1.5",
        'generate "It wakes up" --image-url first.png --keyframe 2.5=middle.png --model grok-imagine-video-1.5',
        'generate "A cat" --storage s3://my-videos/cats --json',
    )
)
def generate(  # noqa: D417 - the options of video and delivery are described where they are defined
    prompt: str = "",
    /,
    *,
    video: Annotated[PlainOptions | None, Spread] = None,
    reference_image_url: Repeated = (),
    keyframe: Repeated = (),
    reference_audio: Repeated = (),
    key: Annotated[KeyOptions | None, Spread] = None,
    storage: Place = "videos",
    credentials: str | None = None,
    delivery: Annotated[DeliveryOptions | None, Spread] = None,
    stills: Flag = False,
    timeout_seconds: float | None = None,
    as_json: Json = False,
) -> None:
    """Make one video and store it.

    It is made and paid for with the API key in XAI_API_KEY. Without an API key, a local emulator stands in for xAI,
    which costs nothing. Ctrl-C stops the waiting; the same key picks the video up later without paying again.

    Args:
        prompt: Description of what the video shows and what happens in it; may be left out if frames are given.
        reference_image_url: Image that the prompt names as `<IMAGE_0>`; repeat the option for `<IMAGE_1>` and so on.
        keyframe: Image at a given time, as SECONDS=IMAGE; may be repeated.
        reference_audio: Id of a voice, or the URL or path (with a slash) of a clip with it of at most 15 seconds, as
            xAI allows to trusted partners; may be repeated.
        storage: Storage for the video and its receipt: a directory, s3://bucket/folder, or a saved block as
            s3-bucket/NAME.
        credentials: Saved block with the API key, as xai-credentials/NAME, instead of XAI_API_KEY.
        stills: Store the first and the last frame beside the video, too; needs PyAV.
        timeout_seconds: Longest time to wait for the video; a later run with the same key continues waiting.
        as_json: Print the video as JSON.
    """
    from prefect_xai_video.cli import videos

    videos.generate(
        prompt,
        TriggerOptions(
            **(video or {}),
            **(key or {}),
            reference_image_urls=reference_image_url,
            keyframes=keyframe,
            reference_audios=reference_audio,
        ),
        storage,
        credentials,
        saving=SavingOptions(**(delivery or {}), stills=stills),
        timeout_seconds=timeout_seconds,
        as_json=as_json,
    )


@app.command(
    help_epilogue=examples(
        "adopt 3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11 cats/one",
        "adopt 3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11 cats/one --storage /data/videos --no-wait",
    )
)
def adopt(
    request_id: str,
    key: str,
    /,
    *,
    wait: bool = True,
    storage: Place = "videos",
    credentials: str | None = None,
    as_json: Json = False,
) -> None:
    """Store the video of a request id, without paying.

    The id may come from anywhere: a log, an error, the xAI console, another tool.

    Args:
        request_id: xAI's request id.
        key: Name for the video, or the key of a submission with an unknown outcome.
        wait: Wait for the video and store it; with --no-wait, only record the request id in the receipt.
        storage: Storage for the video and its receipt: a directory, s3://bucket/folder, or a saved block as
            s3-bucket/NAME.
        credentials: Saved block with the API key of the team that sent the request, as xai-credentials/NAME, instead
            of XAI_API_KEY.
        as_json: Print the result as JSON.
    """
    from prefect_xai_video.cli import videos

    videos.adopt(request_id, key, storage, credentials, wait=wait, as_json=as_json)


@app.command(
    help_epilogue=examples(
        "batch products.csv --budget 200 --in-flight 50 --dry-run",
        "batch products.csv --budget 200 --in-flight 50 --storage s3://my-videos",
        "batch products.csv --key products/{sku}-{digest} --keep sku,title --json",
    )
)
def batch(  # noqa: D417 - the options of the delivery are described where they are defined
    manifest: str,
    /,
    *,
    key: str | None = None,
    keep: Keep = None,
    budget: Annotated[float | None, Parameter(name="--budget")] = None,
    in_flight: int = 10,
    lane: LaneChoice = "realtime",
    cancel_at_xai: Flag = False,
    dry_run: Flag = False,
    allow_failures: Flag = False,
    storage: Place = "videos",
    credentials: str | None = None,
    delivery: Annotated[DeliveryOptions | None, Spread] = None,
    stills: Flag = False,
    timeout_seconds: float | None = None,
    regenerate: Flag = False,
    on_unknown: OnUnknown = "raise",
    as_json: Json = False,
) -> None:
    """Make the videos of a manifest, within a budget, and store a report beside them.

    A row whose video is stored costs nothing, so the command can be run again at any time. Ctrl-C stops new
    submissions; the same command picks up later what was paid for.

    Args:
        manifest: CSV, JSONL or Parquet file, local or s3://. Its columns are the options of generate, and key.
        key: Template for the keys, with names of columns and {digest}, {slug} or {manifest}. Default: the column key,
            or else {manifest}/{slug}-{digest}.
        keep: Columns of your own, such as sku,title; may be given several times. They are not sent to xAI; the rows
            of the report carry them.
        budget: Most that this run may pay, in USD.
        in_flight: Most videos that are rendered at the same time in the realtime lane, up to 10,000.
        lane: With batch, rows go through xAI's Batch API: outside its limits of requests a second, and within 24
            hours. With auto, the number of rows decides.
        cancel_at_xai: In the batch lane, cancel what is not rendered yet if the command is interrupted.
        dry_run: Check the manifest and estimate the cost. Nothing is sent.
        allow_failures: Exit with 0 even if some rows have no video.
        storage: Storage for the videos, their receipts and the report: a directory, s3://bucket/folder, or a saved
            block as s3-bucket/NAME.
        credentials: Saved block with the API key, as xai-credentials/NAME, instead of XAI_API_KEY.
        stills: Store the first and the last frame beside each video, too; needs PyAV.
        timeout_seconds: Longest time to wait for one video; a later run continues waiting.
        regenerate: Pay for new attempts of rows whose last attempt failed, was moderated or expired.
        on_unknown: With resubmit, rows of an unknown outcome are submitted again, which may pay twice.
        as_json: Print the report as JSON.
    """
    from prefect_xai_video.cli import batches

    options: dict[str, Any] = {
        "key": key,
        "keep": batches.columns(keep),
        "in_flight": in_flight,
        "budget_usd": budget,
        "lane": lane,
        "cancel_at_xai": cancel_at_xai,
    }
    options |= {"allow_failures": allow_failures, "timeout_seconds": timeout_seconds, **(delivery or {})}
    options |= {"stills": stills, "regenerate": regenerate, "on_unknown": on_unknown}
    batches.batch(manifest, options, storage, credentials, dry_run=dry_run, as_json=as_json)


@app.command(
    help_epilogue=examples(
        "submit products.csv --budget 200 --storage s3://my-videos", "collect --storage s3://my-videos"
    )
)
def submit(  # noqa: D417 - as for batch
    manifest: str,
    /,
    *,
    key: str | None = None,
    keep: Keep = None,
    budget: Annotated[float | None, Parameter(name="--budget")] = None,
    allow_failures: Flag = False,
    storage: Place = "videos",
    credentials: str | None = None,
    lane: LaneChoice = "realtime",
    delivery: Annotated[DeliveryOptions | None, Spread] = None,
    regenerate: Flag = False,
    on_unknown: OnUnknown = "raise",
    as_json: Json = False,
) -> None:
    """Submit the rows of a manifest without waiting for their videos; collect stores them later.

    Args:
        manifest: CSV, JSONL or Parquet file, local or s3://. Its columns are the options of generate, and key.
        key: Template for the keys, with names of columns and {digest}, {slug} or {manifest}. Default: the column key,
            or else {manifest}/{slug}-{digest}.
        keep: Columns of your own, such as sku,title; may be given several times. They are not sent to xAI; the rows
            of the report carry them.
        budget: Most that this run may pay, in USD.
        allow_failures: Exit with 0 even if some rows could not be submitted.
        storage: Storage for the videos, their receipts and the report: a directory, s3://bucket/folder, or a saved
            block as s3-bucket/NAME.
        credentials: Saved block with the API key, as xai-credentials/NAME, instead of XAI_API_KEY.
        lane: With batch, rows go through xAI's Batch API: outside its limits of requests a second, and within 24
            hours. With auto, the number of rows decides.
        regenerate: Pay for new attempts of rows whose last attempt failed, was moderated or expired.
        on_unknown: With resubmit, rows of an unknown outcome are submitted again, which may pay twice.
        as_json: Print the report as JSON.
    """
    from prefect_xai_video.cli import batches

    options: dict[str, Any] = {"key": key, "keep": batches.columns(keep), "budget_usd": budget, "lane": lane}
    options |= delivery or {}
    options |= {"allow_failures": allow_failures}
    options |= {"regenerate": regenerate, "on_unknown": on_unknown}
    batches.submit(manifest, options, storage, credentials, as_json=as_json)


@app.command(help_epilogue=examples("collect", "collect products/ --storage s3://my-videos --json"))
def collect(
    prefix: str = "", *, storage: Place = "videos", credentials: str | None = None, as_json: Json = False
) -> None:
    """Poll each open key of a storage once, and store the videos that are done. It costs nothing.

    It picks up what submit has sent, and what commands and runs left behind that ended too early.

    Args:
        prefix: Collect only keys that begin with this.
        storage: Storage of the videos: a directory, s3://bucket/folder, or a saved block as s3-bucket/NAME.
        credentials: Saved block with the API key of the team that sent the requests, as xai-credentials/NAME, instead
            of XAI_API_KEY.
        as_json: Print the result as JSON.
    """
    from prefect_xai_video.cli import batches

    batches.collect(prefix, storage, credentials, as_json=as_json)


@app.command(
    help_epilogue=examples(
        "receipts",
        "receipts s3://my-videos/cats --state unknown --state submitted",
        "receipts s3-bucket/xai-videos --json",
    )
)
def receipts(
    storage: Place = "videos",
    *,
    state: Annotated[list[Literal[ReceiptState, "unreadable"]] | None, Parameter(negative="")] = None,
    prefix: str = "",
    as_json: Json = False,
) -> None:
    """List receipts by state, with prompt, cost and next step.

    Args:
        storage: Storage of the receipts: a directory, s3://bucket/folder, or a saved block as s3-bucket/NAME.
        state: Show only this state; may be given several times.
        prefix: Show only keys that begin with this.
        as_json: Print them as JSON.
    """
    from prefect_xai_video.cli import receipts as listing

    listing.receipts(storage, state or (), prefix, as_json=as_json)


@app.command(
    help_epilogue=examples(
        "report products",
        "report products --storage s3://my-videos",
        "report . --storage s3-bucket/xai-videos --json",
    )
)
def report(prefix: str, /, *, storage: Place = "videos", as_json: Json = False) -> None:
    """Build a report from receipts alone, and store it beside the videos.

    It counts all keys in the folder, whichever batch made them, and the costs of all their attempts. A web page,
    index.html, shows the videos. It is named NAME.receipts.report and replaces no report of a batch, which has more:
    rows that were never sent, and columns that --keep named. xAI is not asked.

    Args:
        prefix: Folder of the keys, such as products; or . for all keys.
        storage: Storage of the receipts: a directory, s3://bucket/folder, or a saved block as s3-bucket/NAME.
        as_json: Print the report as JSON.
    """
    from prefect_xai_video.cli import reports

    reports.report(prefix, storage, as_json=as_json)


@app.command(help_epilogue=examples("check-key", "check-key --credentials xai-credentials/xai"))
def check_key(*, credentials: str | None = None, as_json: Json = False) -> None:
    """Ask xAI whether an API key works and which permissions it has. It costs nothing.

    Args:
        credentials: Saved block with the key, as xai-credentials/NAME, instead of XAI_API_KEY.
        as_json: Print xAI's response as JSON.
    """
    from prefect_xai_video.cli import connections

    connections.check_key(credentials, as_json=as_json)


app.command(
    "prefect_xai_video.cli.long:long",
    name="long",
    help="Make a video that is longer than one request, in segments that go on from each other, and store it.",
    help_epilogue=examples(
        'long "A ship leaves" "It meets a storm" "It comes home" --duration 30 --key ship --dry-run',
        'long "A walk through a city at night" --duration 60 --resolution 720p --key city',
    ),
)


app.command(
    "prefect_xai_video.cli.files:files",
    name="files",
    help="List what this package has left in xAI's Files API, and delete what nobody needs.",
    help_epilogue=examples("files", "files --delete --storage s3://my-videos", "files --delete file_0a1b2c"),
)


app.command(
    "prefect_xai_video.emulator.serving:serve",
    name="emulator",
    help="Serve xAI's video API on this machine, at no cost.",
    help_epilogue=examples("emulator --port 8900 --log requests.jsonl"),
)


app.command(
    "prefect_xai_video.setup.command:setup",
    name="setup",
    help="Set up the Prefect server of PREFECT_API_URL: blocks, limits, a work pool, deployments, automations.",
    help_epilogue=examples(
        "setup --bucket my-videos --rescue", "setup --pool kubernetes --bucket my-videos --notify slack-webhook/team"
    ),
)


def run(tokens: list[str]) -> int:
    """Run a command line.

    Args:
        tokens: The words after `xai-video`.

    Returns:
        The exit code.
    """
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (CycloptsError, InvalidRequest) as error:
        return _complain(error, MISUSED)
    except (XaiVideoError, ImportError) as error:
        return _complain(error, FAILED)
    return 0


def _complain(error: Exception, code: int) -> int:
    print(with_options(str(error)), file=sys.stderr)
    return code
