"""Load reports in a headless browser: figures drawn, nothing on the console, no sideways scrolling."""

import shutil
import time

import pytest

from rotated_relu.experiments.report import build
from support.report_data import full_report, trained_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = """return [...document.querySelectorAll('.plot')].map(plot => [
    plot.id, plot.querySelectorAll('.main-svg').length,
    plot.querySelectorAll('.scatterlayer .trace, .barlayer .trace, .boxlayer .trace').length])"""
WIDER = """return [...document.querySelectorAll('body *')].filter(
    element => !element.closest('.scroll, .plot') && element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.tagName + ' ' + element.className)"""

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def open_page(browser, path, width, scheme="light"):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(path.as_uri())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        drawn = browser.execute_script(DRAWN)
        if all(surfaces for _, surfaces, _ in drawn):
            return drawn
        time.sleep(0.1)
    return browser.execute_script(DRAWN)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("data", "traces"),
    [
        # Threshold: two lines, two chosen points; slopes, alive, paths: two; layers: two in two panels; curves: two
        # networks, two splits, two quantities; latency: three networks at two batch sizes; layer_latency: two networks
        # in two panels.
        (
            full_report(),
            {
                "threshold": 4,
                "slopes": 2,
                "alive": 2,
                "paths": 2,
                "layers": 4,
                "curves": 8,
                "latency": 6,
                "layer_latency": 4,
            },
        ),
        (trained_report(), {"slopes": 2, "curves": 4}),
    ],
    ids=["full", "trained"],
)
def test_report_in_a_browser(browser, tmp_path, data, traces, width):
    drawn = open_page(browser, build(data, tmp_path / "report.html"), width)

    assert {name.removeprefix("plot-"): count for name, _, count in drawn} == traces
    assert all(surfaces >= 1 for _, surfaces, _ in drawn)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(WIDER) == []
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in loaded if not name.startswith("data:")] == []


@pytest.mark.slow
def test_figures_follow_the_colour_scheme(browser, tmp_path):
    path = build(trained_report(), tmp_path / "report.html")
    colour = "return document.getElementById('plot-curves')._fullLayout.font.color"
    found = []
    for scheme in ("light", "dark"):
        open_page(browser, path, 1280, scheme)
        found.append(browser.execute_script(colour))
    assert found == ["#5c636c", "#a3aab3"]
    assert browser.get_log("browser") == []
