"""The page of a batch in a browser, as it lies on a disk; and its artifact in the UIs of Prefect."""

from dataclasses import replace
from decimal import Decimal
from urllib.parse import unquote

import av
import pytest
import pytest_asyncio
from av.video.frame import VideoFrame
from playwright.async_api import expect
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.report import Tally
from prefect_xai_video.batch.survey import Survey
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.ui.batch_artifacts import BatchArtifact
from prefect_xai_video.ui.batch_pages import batch_artifact_key
from prefect_xai_video.ui.batch_site import ROWS_ON_PAGE, Look, store_pages
from prefect_xai_video.ui.stills import make_stills

from .forms import OLD

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

HOSTILE = "A cat </p><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
KEYS = ["cats/one", "cats/deep/a+b=c@d"]


def make_clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=24)
        track.width, track.height, track.pix_fmt = 320, 180, "yuv420p"
        for number in range(24):
            frame = VideoFrame(320, 180, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([90 + number]) * plane.buffer_size)
            frame.pts = number
            container.mux(track.encode(frame))
        container.mux(track.encode())


def row(number, key, **facts):
    own = {"number": number, "place": f"row {number}", "key": key, "state": "stored", "is_new": True}
    return RowOutcome(**own | {"prompt": HOSTILE, "cost_usd": Decimal("0.05"), "render_seconds": 4.0} | facts)


def report_of(*rows):
    tally = Tally("batch", "cats", len(rows), Decimal("0.1"))
    for each in rows:
        tally.add(each)
    return tally.report()


@pytest_asyncio.fixture(loop_scope="session")
async def shown(tmp_path):
    """A report, what is shown of it, and the URL of its page; in a store whose videos can be played."""
    store = LocalStore(tmp_path / "my videos")
    for key in KEYS:
        make_clip(store.root / f"{key}.mp4")
    failed = row(3, "cats/<script>document.title = 'broken'</script>", state="moderated", error=HOSTILE)
    report = report_of(*(row(number, key) for number, key in enumerate(KEYS, 1)), failed)
    look = Look(Survey.of(report.rows), await make_stills(report.rows, store, seconds=300))
    return report, look, await store_pages(report, store, look)


async def test_it_shows_a_thumbnail_and_plays_the_file_beside_it(page, shown):
    await page.goto(shown[2])
    players = page.locator("video")
    await expect(players).to_have_count(len(KEYS))
    for number, key in enumerate(KEYS):
        player = players.nth(number)
        await player.scroll_into_view_if_needed()
        still = "async video => { const image = new Image(); image.src = video.poster; await image.decode(); "
        assert await player.evaluate(still + "return image.naturalWidth; }") == 256
        assert await player.get_attribute("preload") == "none"
        await player.evaluate("video => { video.muted = true; video.load(); video.play().catch(() => null); }")
        await expect(player).to_have_js_property("videoWidth", 320)
        assert unquote(await player.evaluate("video => video.currentSrc")).endswith(f"my videos/{key}.mp4")
    link = page.get_by_role("link", name="cats/one")
    assert await link.evaluate("link => link.href") == shown[2].replace("batch.report/index.html", "one.mp4")


async def test_prompts_and_keys_stay_text(page, shown):
    await page.goto(shown[2])
    await expect(page.get_by_text(HOSTILE, exact=True).first).to_be_visible()
    await expect(page.get_by_text("cats/<script>document.title = 'broken'</script>").first).to_be_visible()
    await expect(page).to_have_title("Batch batch")
    assert await page.locator("script, main img").count() == 0


async def test_it_has_totals_failures_and_charts(page, shown):
    await page.goto(shown[2])
    await expect(page.get_by_role("region", name="Totals")).to_contain_text("$0.15")
    await expect(page.get_by_role("region", name="Without a video")).to_contain_text("change the prompts")
    await expect(page.get_by_role("img", name="Cost of a video: $0.05: 3")).to_be_visible()
    await expect(page.get_by_role("img", name="Render time: 4 s: 3")).to_be_visible()


async def test_pages_lead_to_each_other(page, tmp_path):
    report = report_of(*(row(number, f"cats/{number}") for number in range(1, ROWS_ON_PAGE + 3)))
    await page.goto(await store_pages(report, LocalStore(tmp_path), Look()))
    await expect(page.locator("video")).to_have_count(ROWS_ON_PAGE)
    await page.get_by_role("navigation").first.get_by_role("link", name="2").click()
    await expect(page.locator("video")).to_have_count(2)
    await expect(page.get_by_role("link", name="cats/502")).to_be_visible()
    await page.get_by_role("navigation").first.get_by_role("link", name="1").click()
    await expect(page.get_by_role("region", name="Totals")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_narrow_screen_in_light_and_dark(browser, page, shown, scheme):
    narrow = await browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
    await narrow.goto(shown[2])
    await expect(narrow.get_by_role("region", name="Totals")).to_be_visible()
    assert await narrow.evaluate("document.documentElement.scrollWidth") <= 360
    [red, *_] = await narrow.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red < 128) == (scheme == "dark")
    await narrow.close()


async def test_the_artifact_shows_its_stills_and_charts(page, ui, ui_server, shown):
    report, look, url = shown
    report = replace(report, page=url)
    with temporary_settings({PREFECT_API_URL: f"{ui_server}/api"}):
        await BatchArtifact(report.name).publish(report, look)
        async with get_client() as prefect:
            published = [each for each in await prefect.read_artifacts() if each.key == batch_artifact_key(report)]
    artifact = max(published, key=lambda each: each.created)
    await page.goto(f"{ui_server}{ui.path}/artifacts/artifact/{artifact.id}", wait_until="commit")
    stills = page.locator("img[src^='data:image/webp;base64,']")
    await expect(page.get_by_text("█" * 24).first).to_be_visible()
    await expect(stills).to_have_count(0 if ui is OLD else len(KEYS))
    for still in await stills.all():
        await expect(still).to_have_js_property("naturalWidth", 256)
    await expect(page.get_by_text(url).first).to_be_visible()
