"""The page of a trace in a real browser: it loads from a file without a word, and steps by keys and by buttons.

Needs a Chromium: `scripts/setup readers` installs Debian's; where there is none (Ubuntu has snaps only) it skips.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.trace.render.page import as_page
from tests import traced
from tests.browser import Browser, find_program, start

PROGRAM = find_program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no browser: `scripts/setup readers` installs one on Debian")
HOPS = 13  # of the way there
SHOWN = "document.querySelector('article:not([hidden])').id"
AT = "document.querySelector('article:not([hidden])').dataset.at"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser."""
    with start(str(PROGRAM), tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return where the page of an answered trace is."""
    file = tmp_path_factory.mktemp("page") / "trace.html"
    topology, snapshot = traced.lab()
    file.write_text(as_page(traced.service(topology, snapshot), topology, snapshot))
    return file.as_uri()


@pytest.fixture
def browser(running: Browser, url: str) -> Browser:
    """Return the browser with the page open, wide, and with motion reduced."""
    return opened(running, url)


def opened(browser: Browser, url: str, width: int = 1400, height: int = 900, **media: str) -> Browser:
    """Load a page afresh."""
    browser.show(width, height, **{"prefers_reduced_motion": "reduce", **media})
    browser.open("about:blank")
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(url)
    return browser


def number(browser: Browser) -> int:
    """Return which hop is shown."""
    return int(browser.evaluate(SHOWN).rpartition("-")[2])


def test_it_loads_without_a_word_and_asks_for_nothing_else(browser: Browser, url: str) -> None:
    assert browser.complaints == []
    assert browser.requests == [url]
    assert browser.evaluate("document.querySelectorAll('article:not([hidden])').length") == 1
    assert number(browser) == 1


def test_keys_step_through_it(browser: Browser) -> None:
    shown = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft"):
        browser.press(key)
        shown.append(number(browser))
    assert shown == [2, 3, 2, HOPS, HOPS, HOPS - 1, 1, 1]
    assert browser.complaints == []


def test_buttons_step_through_it(browser: Browser) -> None:
    shown = []
    for name in ("forward", "forward", "back", "last", "forward", "back", "first", "back"):
        browser.click(f"[data-go={name}]")
        shown.append(number(browser))
    assert shown == [2, 3, 2, HOPS, HOPS, HOPS - 1, 1, 1]


@pytest.mark.parametrize("focused", ["body", "[data-go=play]"])
def test_space_plays_and_pauses(browser: Browser, focused: str) -> None:
    """Also where it presses the button that does so: once then."""
    browser.evaluate(f"document.querySelector('{focused}').focus()")
    browser.press(" ")
    label = "document.querySelector('[data-go=play]').getAttribute('aria-label')"
    assert (number(browser), browser.evaluate(label)) == (2, "pause")
    browser.wait_until(f"{SHOWN} === 'hop-1-3'")
    browser.press(" ")
    assert browser.evaluate(label) == "play"


def test_space_presses_the_button_that_has_the_focus(browser: Browser) -> None:
    browser.evaluate("document.querySelector('[data-go=forward]').focus()")
    browser.press(" ")
    assert number(browser) == 2
    assert not browser.evaluate("document.querySelector('.playing')")


def test_the_hash_keeps_the_hop(browser: Browser, url: str) -> None:
    browser.click(".tab[data-way='3']")
    browser.press("ArrowRight")
    assert browser.evaluate("location.hash") == "#3-2"
    opened(browser, f"{url}#3-2")
    assert browser.evaluate(SHOWN) == "hop-3-2"
    browser.evaluate("location.hash = '#1-5'")
    browser.wait_until(f"{SHOWN} === 'hop-1-5'")
    assert browser.evaluate("document.scrollingElement.scrollTop") == 0


@pytest.mark.parametrize("asked", ["#1-99", "#9-1", "#nothing", "#1-0", "#%00"])
def test_a_hash_that_means_nothing_is_no_error(browser: Browser, url: str, asked: str) -> None:
    opened(browser, url + asked)
    assert browser.complaints == []
    assert browser.evaluate(SHOWN) in ("hop-1-1", f"hop-1-{HOPS}")


def test_a_hop_of_the_list_is_shown_when_it_is_chosen(browser: Browser) -> None:
    browser.click(".steps a[href='#hop-1-4']")
    assert number(browser) == 4
    assert browser.evaluate("document.querySelector('[aria-current=step]').hash") == "#hop-1-4"


def test_a_number_in_the_picture_shows_its_hops_in_turn(browser: Browser) -> None:
    shown = []
    for steps in ("4", "12 13", "12 13", "12 13"):
        browser.click(f".way.on .pill[data-steps='{steps}'] rect")
        shown.append(number(browser))
    assert shown == [4, 12, 13, 12]


def test_the_tabulator_comes_to_everything_and_shows_where_it_is(browser: Browser) -> None:
    seen = []
    for _ in range(30):
        browser.press("Tab")
        seen.append(browser.evaluate("document.activeElement.outerHTML.split('>')[0]"))
        if "body" not in seen[-1]:
            assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for wanted in ('data-go="first"', 'data-go="play"', 'data-go="last"', 'data-way="3"', 'hop-1-1"', 'hop-1-13"'):
        assert any(wanted in element for element in seen), wanted
    browser.evaluate("document.querySelector('.steps a[href=\"#hop-1-7\"]').focus()")
    browser.press("Enter")
    assert number(browser) == 7


def test_the_packet_is_where_the_hop_is(browser: Browser) -> None:
    for _ in range(HOPS):
        place = browser.evaluate("document.querySelector('.packet').getAttribute('transform')")
        assert place == f"translate({browser.evaluate(AT)})"
        browser.press("ArrowRight")


def test_the_packet_glides_where_motion_is_welcome(browser: Browser, url: str) -> None:
    opened(browser, url, prefers_reduced_motion="no-preference")
    browser.press("End")
    browser.press("Home")
    browser.press("ArrowRight")
    browser.wait_until(f"document.querySelector('.packet').getAttribute('transform') === `translate(${{{AT}}})`")
    assert number(browser) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 700, 1000, 1400])
def test_it_fits(browser: Browser, url: str, width: int, scheme: str) -> None:
    opened(browser, url, width, 700, prefers_color_scheme=scheme)
    for step in range(1, HOPS + 1):
        browser.evaluate(f"location.hash = '#1-{step}'")
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    packet = "document.querySelector('.packet .ring').getBoundingClientRect()"
    frame = "document.querySelector('.picture').getBoundingClientRect()"
    browser.wait_until(f"{packet}.left >= {frame}.left && {packet}.right <= {frame}.right")
    if width == 360:
        browser.wait_until("document.querySelector('.picture').scrollLeft > 0")
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + Number(b), 0)"
    assert (browser.evaluate(lightness) > 380) == (scheme == "light")


def test_what_a_rule_says_does_not_run(running: Browser, tmp_path: Path) -> None:
    topology, snapshot = traced.lab()
    file = tmp_path / "dropped.html"
    file.write_text(as_page(traced.dropped(topology, snapshot), topology, snapshot))
    opened(running, file.as_uri())
    running.press("End")
    assert traced.HOSTILE in running.evaluate("document.querySelector('article:not([hidden])').textContent")
    assert running.requests == [file.as_uri()]
    assert running.complaints == []


def test_without_scripts_all_hops_are_there(running: Browser, url: str) -> None:
    running.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened(running, url)
        boxes = (
            "[...document.querySelectorAll('article')].filter((hop) => hop.getBoundingClientRect().height > 50).length"
        )
        assert running.evaluate(boxes) == HOPS + 4
        assert running.evaluate("document.querySelector('.controls').getBoundingClientRect().height") == 0
    finally:
        running.call("Emulation.setScriptExecutionDisabled", value=False)
