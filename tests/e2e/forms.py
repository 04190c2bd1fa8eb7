"""Opening, filling in and submitting the form of a deployment, as a person does, in both UIs of Prefect."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import prefect
from packaging.version import Version
from playwright.async_api import Locator, Page, expect

TEXT = "textarea, input[type=number]"
SHOWS = """([place, value]) => [...place.querySelectorAll(":not(option)")].some(
    part => part.value === value || part.textContent.trim() === value
)"""
"""Whether a field shows a value: as the whole text of one of its parts, or in an input."""


class UI(NamedTuple):
    """Where a UI is on the server, and how its parts are found."""

    name: str
    path: str
    field: str
    label: str
    drop_down: str
    option: str


CLASSIC = UI(
    name="classic",
    path="",
    field=".schema-form-property",
    label=".schema-form-property__label",
    # A click beside the arrow opens a list and closes it again, on Prefect 3.8.8.
    drop_down=".p-select-button__icon",
    option=".p-select-option",
)
V2 = UI(
    name="v2",
    path="/v2",
    field="div.group",
    label="label",
    drop_down="[aria-haspopup=listbox]",
    option="[role=option]",
)
UIS = (CLASSIC, V2)
OLD = V2 if Version(prefect.__version__) < Version("3.8.8") else None
"""The new UI of Prefect 3.8.4: it removes pictures from artifacts, and names a block by its id alone."""


async def open_form(page: Page, ui: UI, server_url: str, deployment_id: UUID) -> None:
    """Open the form for a custom run of a deployment, and wait until it is drawn, with its pickers."""
    await page.goto(f"{server_url}{ui.path}/deployments/deployment/{deployment_id}/run", wait_until="commit")
    credentials = field(page, ui, "Credentials")
    await expect(credentials.locator(ui.drop_down)).to_be_visible()


def field(page: Page, ui: UI, title: str) -> Locator:
    """The field of that title, with its help, its input and its errors."""
    label = page.locator(ui.label, has_text=re.compile(rf"^\s*{re.escape(title)}( \(Optional\))?\s*$"))
    return page.locator(ui.field, has=label)


async def fill_in(page: Page, ui: UI, values: Mapping[str, object]) -> None:
    """Give fields a value, by their titles: text and numbers are typed, True switches on, the rest is chosen.

    A pair is a tab and the value for it, such as `("LocalFileSystem", "videos")` for the block of that name. On a
    busy machine a field may lose a value to what the UI has loaded meanwhile: it is given again, as a person does.
    """
    missing = dict(values)
    for _ in range(5):
        for title, value in missing.items():
            await give(page, ui, title, value)
        missing = {title: value for title, value in values.items() if not await is_shown(page, ui, title, value)}
        if not missing:
            return
    raise AssertionError(f"The form does not keep {missing}")


async def give(page: Page, ui: UI, title: str, value: object) -> None:
    """Give one field its value, and wait until the form shows it."""
    place = field(page, ui, title)
    if isinstance(value, tuple):
        tab, value = value
        await place.get_by_text(tab, exact=True).click()
        await expect(place.locator("button[aria-selected=true]", has_text=tab)).to_be_visible()
    if value is True:
        await place.get_by_role("switch").click()
        await expect(place.get_by_role("switch")).to_be_checked()
        return
    if await place.locator(TEXT).count():
        await place.locator(TEXT).fill(str(value))
    else:
        await place.locator(ui.drop_down).click()
        await page.locator(ui.option).get_by_text(str(value), exact=True).click()
        await expect(page.locator(ui.option)).to_have_count(0)
    await page.wait_for_function(SHOWS, arg=[await place.element_handle(), str(value)])


async def add_entries(page: Page, ui: UI, title: str, entries: Sequence[Sequence[str]]) -> None:
    """Add entries to a list, each with the texts of its inputs, in order."""
    place = field(page, ui, title)
    inputs = place.locator(TEXT)
    for texts in entries:
        before = await inputs.count()
        await place.get_by_role("button", name="Add item").click()
        await expect(inputs.nth(before)).to_be_visible()
        for number, text in enumerate(texts):
            await inputs.nth(before + number).fill(text)
            await expect(inputs.nth(before + number)).to_have_value(text)


async def is_shown(page: Page, ui: UI, title: str, value: object) -> bool:
    """Whether the form shows this value in the field of that title."""
    place = field(page, ui, title)
    if value is True:
        return await place.get_by_role("switch").is_checked()
    shown = value[1] if isinstance(value, tuple) else value
    return await page.evaluate(SHOWS, [await place.element_handle(), str(shown)])


async def submit(page: Page, ui: UI) -> UUID:
    """Submit the form, and return the id of the flow run that comes of it."""
    for _ in range(60):
        async with page.expect_response(re.compile("/create_flow_run$")) as coming:
            await press_submit(page)
        answer = await coming.value
        # SQLite is busy at times: then the UI says so, and a person presses again a little later.
        if answer.status != 503:
            break
        await page.wait_for_timeout(500)
    assert answer.ok, await answer.text()
    return UUID((await answer.json())["id"])


async def press_submit(page: Page) -> None:
    """Press the button under the form, whatever comes of it; by the keyboard, for a message may lie over it."""
    await page.get_by_role("button", name="Submit", exact=True).press("Enter")


async def refusal(page: Page, ui: UI, title: str) -> str:
    """The words with which a typed value is refused: the server's, or in V2 those of the browser."""
    place = field(page, ui, title)
    if ui is V2:
        return await place.locator(TEXT).evaluate("input => input.validationMessage")
    message = place.locator(".p-label__message")
    await expect(message).not_to_be_empty()
    return await message.inner_text()
