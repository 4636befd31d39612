"""The page of papers in a browser: search, years, hover and zoom do what they say, and no title breaks the page or runs as code."""

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.neighbors.explore import write_page
from tests.test_maps import NASTY, papers_of

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip
COUNT = 50_000
NEEDLE = "A needle in a haystack of papers"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium; skipped with a reason where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -r requirements-dev.txt")
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program, driver = next(filter(None, programs), None), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its chromedriver here: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page of 50,000 papers, 1980 to 2019, NASTY titles and NEEDLE among them, in fields of their own."""
    generator = np.random.default_rng(0)
    others = [f"Some {word} of paper number {i}, a study in many words of what is usual" for i, word in zip(
        range(COUNT - len(NASTY) - 1), np.resize(np.array(["theory", "practice", "history"]), COUNT), strict=False)]  # fmt: skip
    years = [2019, *[1980] * len(NASTY), *generator.integers(1981, 2019, len(others)).tolist()]
    fields = [["Needles"], *[['<b onclick="window.attacked = 1">']] * len(NASTY), *[["Biology"]] * len(others)]
    points = generator.random((COUNT, 2)).astype(np.float32)
    topics = pd.DataFrame({"x": [0.5, 0.5], "y": [0.5, 0.5001], "papers": [9, 8], "words": ["<script>window.attacked = 1</script>", "two"]})
    path = tmp_path_factory.mktemp("page") / "papers.html"
    assert write_page(path, NASTY[0], papers_of([NEEDLE, *NASTY, *others], years, fields), points, topics) == COUNT
    assert path.stat().st_size < 15e6
    return path


@pytest.fixture
def opened(browser, page):
    """The browser with the page just opened from its file; afterwards nothing must have run, called out or gone wrong."""
    browser.get(page.as_uri())
    until(lambda: "papers" in text_of(browser, "count"))
    yield browser
    from selenium.common.exceptions import NoAlertPresentException

    assert browser.execute_script("return window.attacked") is None
    with pytest.raises(NoAlertPresentException):
        browser.switch_to.alert.accept()
    assert not browser.get_log("browser")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0, "it needs nothing but itself"


def until(holds, seconds: float = 120) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def text_of(browser, name: str) -> str:
    return browser.find_element("id", name).text


def type_into(browser, name: str, value) -> None:
    """Set a field of the page as a reader would."""
    script = "const field = document.getElementById(arguments[0]); field.value = arguments[1]; field.dispatchEvent(new Event('input'));"
    browser.execute_script(script, name, value)


def pixels(browser) -> str:
    """What the canvas shows, after the next two frames."""
    picture = "() => arguments[0](document.getElementById('map').toDataURL())"
    return browser.execute_async_script(f"requestAnimationFrame(() => requestAnimationFrame({picture}))")


def hover(browser, x: int, y: int) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    chain = ActionChains(browser)
    chain.w3c_actions = ActionBuilder(browser, duration=10)
    chain.w3c_actions.pointer_action.move_to_location(x, y)
    chain.perform()


def middle(browser) -> tuple[int, int]:
    """Where the page puts a paper that was chosen: the middle of what the panel leaves free."""
    width, height = browser.execute_script("return [innerWidth, innerHeight]")
    return (width + 310) // 2, height // 2


def choose(browser, words: str, place: int = 0) -> str:
    """Search, choose a hit, and return its title as the list shows it."""
    type_into(browser, "search", words)
    until(lambda: "found" in text_of(browser, "count"))
    hit = browser.find_elements("css selector", "#hits button")[place]
    title = hit.get_attribute("textContent")
    hit.click()
    return title


def test_the_search_finds_a_title_and_hovering_shows_it(opened):
    before = pixels(opened)
    assert text_of(opened, "count") == "50,000 of 50,000 papers"
    assert choose(opened, "HAYSTACK needle") == NEEDLE
    assert text_of(opened, "count") == "50,000 of 50,000 papers, 1 found" and pixels(opened) != before
    hover(opened, *middle(opened))
    until(lambda: text_of(opened, "tip"))
    assert text_of(opened, "tip").splitlines() == [NEEDLE, "2019, 50,000 citations, Needles"]
    link = opened.find_element("css selector", "#card a")
    assert link.get_attribute("href") == "https://openalex.org/W0" and "noopener" in link.get_attribute("rel")
    type_into(opened, "search", "no such words anywhere")
    assert text_of(opened, "count").endswith(", 0 found") and not opened.find_elements("css selector", "#hits button")
    type_into(opened, "search", "w0")
    assert opened.find_elements("css selector", "#hits button")[0].text == NEEDLE


def test_the_years_choose_the_points(opened):
    every = pixels(opened)
    type_into(opened, "from", 2019)
    assert text_of(opened, "count") == "1 of 50,000 papers" and text_of(opened, "first") == "2019" and pixels(opened) != every
    type_into(opened, "from", 1980)
    assert text_of(opened, "count") == "50,000 of 50,000 papers" and pixels(opened) == every
    type_into(opened, "to", 1980)
    assert text_of(opened, "count") == f"{len(NASTY)} of 50,000 papers"


def test_zoom_drag_and_colours_change_the_picture_and_a_double_click_brings_it_back(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    every, canvas = pixels(opened), opened.find_element("id", "map")
    ActionChains(opened).scroll_from_origin(ScrollOrigin.from_element(canvas, 200, 0), 0, -400).perform()
    near = pixels(opened)
    ActionChains(opened).move_to_element_with_offset(canvas, 200, 100).click_and_hold().move_by_offset(60, 40).release().perform()
    assert len({every, near, pixels(opened)}) == 3 and not opened.find_element("id", "card").is_displayed(), "dragging chooses nothing"
    opened.execute_script("document.getElementById('map').dispatchEvent(new Event('dblclick'))")
    hover(opened, 150, 5)  # away from every paper, onto the panel's edge
    script = "const field = document.getElementById('colour'); field.value = arguments[0]; field.dispatchEvent(new Event('change'));"
    opened.execute_script(script, "field")
    by_field = pixels(opened)
    assert by_field != every and '<b onclick="window.attacked = 1">' in text_of(opened, "key")
    opened.execute_script(script, "year")
    assert pixels(opened) != by_field


@pytest.mark.parametrize("place", range(len(NASTY)))
def test_nasty_titles_are_text(opened, place):
    type_into(opened, "to", 1980)
    words = " ".join(NASTY[place][:60].split()).split(" ")[:3]
    title = choose(opened, " ".join(words))
    assert title == " ".join(NASTY[place][:300].split())
    hover(opened, *middle(opened))
    until(lambda: opened.find_element("id", "tip").is_displayed())
    for box in ("tip", "card"):
        assert opened.execute_script("return document.getElementById(arguments[0]).firstChild.textContent", box) == title
        assert opened.execute_script("return document.querySelectorAll(`#${arguments[0]} :is(script, img, b)`).length", box) == 0
    width, height = opened.execute_script(
        "const box = document.getElementById('tip').getBoundingClientRect(); return [box.right, box.bottom]"
    )
    assert width <= 1280 and height <= 900, "a long title stays inside the window"


def test_a_page_without_years_fields_or_topics(browser, tmp_path):
    papers = papers_of(["Only this", "And that"], [None, None]).set_column(0, "paper_id", pa.array(["a", "b"]))
    nothing = pd.DataFrame(columns=["x", "y", "papers", "words"])
    write_page(tmp_path / "small.html", "small", papers, np.zeros((2, 2), np.float32), nothing)
    browser.get((tmp_path / "small.html").as_uri())
    until(lambda: text_of(browser, "count") == "2 of 2 papers")
    assert not browser.find_element("id", "years").is_displayed() and not browser.find_element("id", "paint").is_displayed()
    assert choose(browser, "that") == "And that" and text_of(browser, "card").splitlines()[-1] == "b"
    assert not browser.get_log("browser")


def test_the_page_of_the_sample(browser, sample_run):
    browser.get((sample_run / "maps" / "papers.html").as_uri())
    until(lambda: text_of(browser, "count") == "12,000 of 12,000 papers")
    title = choose(browser, "query optimization")
    hover(browser, *middle(browser))
    until(lambda: text_of(browser, "tip"))
    assert "query optimization" in title.lower() and not browser.get_log("browser")
