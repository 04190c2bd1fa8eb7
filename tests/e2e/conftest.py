"""A browser, and a Prefect server whose UIs it can open."""

import shutil

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from ..support.server import running_server
from .forms import UIS

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items):
    """Mark what needs a browser: `-m "not browser"` leaves it out."""
    for item in items:
        if "page" in item.fixturenames:
            item.add_marker("browser")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    """Chromium. Tests that use it run on the session's event loop."""
    # Playwright's synchronous interface would keep a loop running between the tests, in which nothing else can run.
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tab(browser):
    """The tab in which all pages are opened: in a new one, the UIs would be compiled again each time."""
    tab = await browser.new_page(viewport={"width": 1200, "height": 2400}, reduced_motion="reduce")
    tab.set_default_timeout(PATIENCE_MS)
    return tab


@pytest_asyncio.fixture(loop_scope="session")
async def page(tab):
    """An empty page, high enough for a form."""
    yield tab
    await tab.goto("about:blank")


@pytest.fixture(params=UIS, ids=lambda ui: ui.name)
def ui(request):
    """Each UI of Prefect in turn."""
    return request.param


@pytest.fixture(scope="session")
def ui_server(tmp_path_factory, database):
    """URL of a real Prefect server with both UIs and all its services; its API is at `/api`."""
    with running_server(tmp_path_factory.mktemp("ui"), database) as api_url:
        yield api_url.removesuffix("/api")
