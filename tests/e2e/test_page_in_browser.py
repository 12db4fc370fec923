"""The page of ``vpbench report --html`` in a real browser: sorting, filtering, links, the keyboard, the dark, a phone.

Needs Chromium and its driver (Debian: chromium, chromium-driver). Where they are missing the tests are skipped with a warning.
"""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from command import vpbench
from PIL import Image

from vpbench.core.hashing import digest
from vpbench.store.store import Store

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars"
)
PHONE, DESK = (390, 844), (1280, 900)

pytestmark = pytest.mark.sweep  # a browser, and a page with all figures; what the page says is in tests/reports/test_page.py


def _missing(what: str) -> None:
    text = f"the page was NOT tested in a browser: no {what} here (Debian: apt-get install chromium chromium-driver)"
    warnings.warn(text, stacklevel=2)
    pytest.skip(text)


@pytest.fixture(scope="session")  # looked for before ``finished`` is made, which takes seconds
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        _missing("Chromium" if browser is None else "chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(browser)
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(str(driver))) as started:
        yield started


@pytest.fixture(scope="module")
def site(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two real runs and of others made from them: 8 data sets, seeds, a variant, another section, a failure."""
    folder = tmp_path_factory.mktemp("browser") / "runs"
    # Without the models, as looking inside them takes a while and has tests of its own.
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    store = Store(folder)
    real = Store(finished).load().to_dict("records")
    for row in real:
        best = 60.0 if row["method"] == "linear" else 70.0
        for place in range(8):
            for seed in (1, 2):
                _add(store, row, dataset=f"set{place:02d}", seed=seed, acc1=best + (-1) ** place * place + seed)
        _add(store, row, dataset="set00", epochs=7, acc1=99.0)
    vpt = next(row for row in real if row["method"] == "vpt")
    longer = {**json.loads(vpt["method_config"]), "prompt_length": 50}
    _add(store, vpt, dataset="set00", method_config=json.dumps(longer), acc1=80.0, seed=1)
    _add(store, vpt, dataset="set03", seed=5, acc1=None, status="diverged", error="Traceback\nthe loss became NaN")
    page = folder.parent / "page"
    done = vpbench("report", "--results", folder, "--html", page)
    assert done.code == 0, done.err
    assert done.out == f"{page / 'index.html'}\n"
    return page


def _add(store: Store, row: dict[str, Any], **changes: Any) -> None:
    if "acc1" in changes:
        changes = {**changes, "score": changes["acc1"], "correct": None, "correct5": None}
    new = {**row, "acc5": None, "suite": "many", "dataset_group": "natural", **changes}
    new = {name: value for name, value in new.items() if not (isinstance(value, float) and np.isnan(value))}
    store.write_row({**new, "data_digest": digest(new["dataset"]), "run_id": digest([str(new), changes.get("seed")])})


@pytest.fixture
def browser(chrome: Chrome) -> Chrome:
    """A window of a desk's size, in the light, that has been nowhere."""
    chrome.get("about:blank")
    size(chrome, *DESK)
    scheme(chrome, "light")
    return chrome


def size(browser: Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def scheme(browser: Chrome, name: str) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})


def all_of(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements("css selector", selector)


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element("css selector", selector)


def button(browser: Chrome, title: str, place: int = 0) -> WebElement:
    """The sort button of a column in one of the tables."""
    return browser.find_elements("xpath", f"//thead//button[normalize-space()='{title}']")[place]


def column(browser: Chrome, title: str) -> list[float]:
    """The numbers of a column of the first table, from top to bottom, empty cells left out."""
    script = """
        const head = [...document.querySelectorAll("table.sortable thead tr:last-child th")];
        const place = head.findIndex((th) => th.textContent.trim() === arguments[0]);
        return [...document.querySelector("table.sortable tbody").rows].map((row) => row.cells[place].dataset.value);
    """
    return [float(value) for value in browser.execute_script(script, title) if value]


def shown(browser: Chrome) -> list[str]:
    """Labels of the visible rows of all tables."""
    return [element.text for element in all_of(browser, "section.board tbody th") if element.is_displayed()]


def start(browser: Chrome, site: Path) -> None:
    browser.get((site / "index.html").as_uri())


def test_a_click_sorts_and_another_one_turns_it_round(browser: Chrome, site: Path) -> None:
    start(browser, site)
    button(browser, "set00").click()
    falling = column(browser, "set00")
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) == 3
    assert falling[0] == 80.0
    head = one(browser, "th[aria-sort]")
    assert (head.text, head.get_attribute("aria-sort")) == ("set00", "descending")
    button(browser, "set00").click()
    assert column(browser, "set00") == falling[::-1]
    button(browser, "Params (M)").click()
    params = column(browser, "Params (M)")
    assert params == sorted(params)
    assert len(params) == 3
    assert [head.text for head in all_of(browser, "th[aria-sort]")] == ["Params (M)"]


def test_empty_cells_stay_last_in_both_directions(browser: Chrome, site: Path) -> None:
    start(browser, site)
    for _ in range(2):
        button(browser, "set01").click()
        last = browser.execute_script(
            "return [...document.querySelector('table.sortable tbody').rows].at(-1).cells[0].textContent"
        )
        assert last.strip() == "vpt (prompt_length=50)", "it has no run on set01"


def test_filters(browser: Chrome, site: Path) -> None:
    from selenium.webdriver.support.select import Select

    start(browser, site)
    everything = shown(browser)
    assert len(everything) == 5, "three rows of one table, two of the other"
    search = one(browser, "#filters [name=text]")
    search.send_keys("PROMPT_length")
    assert shown(browser) == ["vpt (prompt_length=50)"]
    assert one(browser, "#shown").text == f"1 of {len(everything)} rows"
    search.clear()
    Select(one(browser, "#filters [name=method]")).select_by_value("linear")
    assert set(shown(browser)) == {"linear"}
    Select(one(browser, "#filters [name=dataset]")).select_by_value("set05")
    heads = [head.text for head in all_of(browser, "section.board:not([hidden]) thead tr:last-child th") if head.is_displayed()]
    assert heads[:3] == ["Method", "set05", "Params (M)"]
    assert len([board for board in all_of(browser, "section.board") if board.is_displayed()]) == 1
    search.send_keys("no such thing")
    assert shown(browser) == []
    assert one(browser, "#nothing").is_displayed()
    one(browser, "#filters button[type=reset]").click()
    wait(browser, lambda: shown(browser) == everything)
    Select(one(browser, "#filters [name=suite]")).select_by_value("custom")
    assert shown(browser) == ["linear", "vpt"]


def wait(browser: Chrome, until: Callable[[], bool]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: until())


def test_to_a_run_and_back_to_the_same_view(browser: Chrome, site: Path) -> None:
    start(browser, site)
    one(browser, "#filters [name=text]").send_keys("vpt")
    button(browser, "set00").click()
    button(browser, "set00").click()
    before, order = shown(browser), column(browser, "set00")
    assert order == sorted(order)
    one(browser, "tbody tr[data-method=vpt] td:nth-of-type(2) a").click()
    assert "/methods/vpt.html#" in browser.current_url
    marked = browser.execute_script("return getComputedStyle(document.querySelector('tr:target > td')).backgroundColor")
    assert marked != browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    one(browser, "tr:target .runs a").click()
    assert "/runs/" in browser.current_url
    assert one(browser, "h1").text.startswith("vpt on set00, seed")
    assert one(browser, "pre.command").text.startswith("vpbench run --methods vpt")
    browser.back()
    browser.back()
    assert browser.current_url == (site / "index.html").as_uri()
    assert one(browser, "#filters [name=text]").get_attribute("value") == "vpt"
    assert shown(browser) == before
    assert column(browser, "set00") == order
    assert one(browser, "th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_the_keyboard_alone_sorts(browser: Chrome, site: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    start(browser, site)
    press(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    wait(browser, lambda: browser.switch_to.active_element.location["y"] >= 0)  # it shows itself
    press(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    for _ in range(30):
        press(Keys.TAB)
        focused = browser.switch_to.active_element
        assert float(focused.value_of_css_property("outline-width").removesuffix("px")) >= 2, (
            f"{focused.tag_name} hides its focus"
        )
        if focused.text == "set03":
            break
    assert focused.tag_name == "button"
    press(Keys.ENTER)
    falling = column(browser, "set03")
    assert falling == sorted(falling, reverse=True)
    assert len(falling) > 1
    press(Keys.SPACE)
    assert column(browser, "set03") == falling[::-1]
    assert browser.switch_to.active_element == focused, "sorting keeps the focus"


def test_light_and_dark(browser: Chrome, site: Path) -> None:
    brightness = {}
    for name in ("light", "dark"):
        scheme(browser, name)
        start(browser, site)
        picture = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"))
        assert picture.shape == DESK[::-1]
        brightness[name] = picture
    # Most pixels are ground, and the ink stands out from it.
    assert np.median(brightness["light"]) > 230
    assert brightness["light"].min() < 80
    assert np.median(brightness["dark"]) < 40
    assert brightness["dark"].max() > 200


@pytest.mark.parametrize("kind", ["index", "method", "run", "failed"])
def test_a_phone_scrolls_tables_and_not_the_page(browser: Chrome, site: Path, kind: str) -> None:
    size(browser, *PHONE)
    start(browser, site)
    if kind != "index":
        target = {"method": "#methods a[href*=vpt]", "run": "#methods a[href*=linear]", "failed": "#failures li a"}[kind]
        browser.get(str(one(browser, target).get_attribute("href")))
    if kind == "run":
        browser.get(str(one(browser, ".runs a").get_attribute("href")))
    for details in all_of(browser, "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    boxes = all_of(browser, ".box")
    assert boxes
    assert all(box.get_attribute("tabindex") == "0" for box in boxes), "the keyboard can scroll them"
    texts = [cell for cell in all_of(browser, ".stack td.text") if cell.is_displayed()]
    assert all(cell.rect["x"] + cell.rect["width"] <= PHONE[0] for cell in texts), "sentences need no scrolling sideways"
    assert texts or kind == "index"
    if kind == "index":
        wide = [box for box in boxes if box.get_property("scrollWidth") > box.get_property("clientWidth")]
        browser.execute_script("arguments[0].scrollLeft = 300", wide[0])
        name = wide[0].find_element("css selector", "tbody th")
        assert 0 <= name.rect["x"] < 40, "the method's name stays in sight"


def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Chrome, site: Path) -> None:
    browser.get_log("performance")
    browser.get_log("browser")
    start(browser, site)
    for details in all_of(browser, "details"):
        browser.execute_script("arguments[0].open = true", details)
    for picture in all_of(browser, "img"):
        browser.execute_script("arguments[0].scrollIntoView()", picture)
        wait(browser, lambda picture=picture: picture.get_property("complete"))  # type: ignore[misc]
        assert picture.get_property("naturalWidth") > 100
    assert all_of(browser, "img")
    for link in ("methods/vpt.html", *(f"runs/{path.name}" for path in sorted((site / "runs").iterdir())[:3])):
        browser.get((site / link).as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("style.css") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
