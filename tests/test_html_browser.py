"""The page in a browser: it sorts, filters and marks, asks for nothing and reports no error.

Needs `pip install playwright` and a Chromium: on PATH, or that of `playwright install chromium`.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from judge_kit import COUNT, METHODS, TASKS, write_runs
from onepass.comparison.html.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WRONG = "</script><script>window.bad = 1</script><img src=http://x.invalid/> \x1b[31m " + "w" * 9000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as running:
        try:
            started = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    write_page(write_runs(folder / "runs", wrong=WRONG), folder / "page.html")
    return folder / "page.html"


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "phone"])
def opened(request: pytest.FixtureRequest, browser: Any, path: Path) -> Iterator[Any]:
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page, said, requests = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert said == []
    assert requests == [path.as_uri()]
    assert page.evaluate("window.bad") is None
    context.close()


def column(page: Any, place: int) -> list[str]:
    cells = page.locator(f"#summary tbody tr > :nth-child({place})")
    return [text.strip() for text in cells.all_inner_texts()]


def outputs(page: Any) -> dict[str, str]:
    cards = page.locator(".cards:last-child .card")
    return {
        card.locator("h4").inner_text().split()[0]: card.locator(".text").inner_text()
        for card in cards.all()
    }


def test_it_fits_its_window(opened: Any) -> None:
    wide, room = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room


def test_tables_sort_by_number_and_by_name(opened: Any) -> None:
    assert column(opened, 1) == ["lc++", "lc", "linear", "zero-shot"]
    head = opened.locator("#summary th button")
    head.nth(1).click()
    assert [float(text) for text in column(opened, 2)] == sorted(
        map(float, column(opened, 2)), reverse=True
    )
    head.nth(1).press("Enter")  # by keyboard, and the other way round
    assert column(opened, 1)[0] == "zero-shot"
    assert opened.locator("#summary th").nth(1).get_attribute("aria-sort") == "ascending"
    head.nth(0).click()
    assert column(opened, 1) == sorted(METHODS)
    assert opened.locator("#summary th").nth(1).get_attribute("aria-sort") is None


def test_examples_are_filtered_and_paged(opened: Any) -> None:
    count = opened.locator("output")
    assert count.inner_text() == f"1 of {COUNT * len(TASKS)}"
    opened.get_by_role("button", name="Next").click()
    assert count.inner_text().startswith("2 of")
    opened.keyboard.press("ArrowLeft")
    assert count.inner_text().startswith("1 of")
    opened.locator("[name=task]").select_option(TASKS[1])
    assert count.inner_text() == f"1 of {COUNT}"
    opened.locator("[name=order]").select_option("better")
    opened.locator("[name=one]").select_option("lc")
    opened.locator("[name=other]").select_option("linear")
    assert count.inner_text() == "1 of 3"  # right on the first four, and on the first
    opened.locator("[name=one]").select_option("linear")
    opened.locator("[name=other]").select_option("lc")
    assert count.inner_text() == "no example matches"
    opened.locator("[name=order]").select_option("differ")
    assert count.inner_text() == "1 of 3"
    opened.locator("[name=order]").select_option("failed")
    assert count.inner_text() == "no example matches"  # lc++ is always right
    opened.locator("[name=order]").select_option("all")
    opened.locator("[name=search]").fill("no such words")
    assert count.inner_text() == "no example matches"


def test_outputs_are_text_with_their_differences_marked(opened: Any) -> None:
    shown = outputs(opened)
    assert list(shown) == list(METHODS)
    target = opened.locator(".cards:first-of-type .card").nth(1).locator(".text").first.inner_text()
    assert shown["lc++"] == target
    right = opened.locator(".card.right")
    assert right.count() == 3
    assert right.locator("ins, del").count() == 0
    opened.locator("[name=against]").select_option("")
    assert outputs(opened)["zero-shot"].startswith("</script><script>window.bad = 1</script><img")
    assert "␛[31m" in outputs(opened)["zero-shot"]
    opened.locator("[name=against]").select_option("zero-shot")
    assert opened.locator(".card.wrong ins").count() == 0
    assert opened.locator(".card.right ins").count() > 0
    assert opened.locator(".card.right del").count() > 0
