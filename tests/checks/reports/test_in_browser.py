"""The page as Chromium draws it: nothing sticks out, in any width, and paper shows everything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scrfdconv.checks.reports.html import html

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed on this machine"),
]
PHONE = 390  # CSS pixels: common phones have 360 to 430
# Headless windows cannot be that narrow; a frame in a wider one can. The page itself has no
# script: this one is only in the copy that is measured.
FRAME = """<!doctype html><body style="margin:0">
<iframe src="page.html" style="width:{width}px;height:800px;border:0"></iframe>"""
MEASURE = """<script>
addEventListener("load", () => {
  const root = document.documentElement;
  const box = element => element.closest(".scroll, pre, .symbols, svg");
  const out = [...document.body.querySelectorAll("*")].filter(
    element => !box(element) && element.getBoundingClientRect().right > innerWidth + 1);
  parent.document.title = JSON.stringify(
    [innerWidth, root.scrollWidth, out.map(element => element.outerHTML.slice(0, 80))]);
});
</script></body>"""


@pytest.fixture
def browser(tmp_path: Path):
    """Run Chromium on a file of ``tmp_path`` and give what it prints."""

    def run(*options: str, page: str = "page.html") -> str:
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--allow-file-access-from-files", "--virtual-time-budget=5000",
            f"--user-data-dir={tmp_path / 'profile'}", *options, (tmp_path / page).as_uri(),
        ]  # fmt: skip
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return ran.stdout

    return run


@pytest.fixture(params=["small_result", "release_result"])
def text(request) -> str:
    return html(request.getfixturevalue(request.param))


@pytest.mark.parametrize("width", [320, PHONE, 768, 1280])
def test_nothing_is_wider_than_the_window(browser, tmp_path, text, width):
    policy = re.compile(r"<meta http-equiv[^>]*>")  # which forbids the script that measures
    opened = policy.sub("", text).replace(
        '<details class="artifact">', '<details class="artifact" open>'
    )
    (tmp_path / "page.html").write_text(opened.replace("</body>", MEASURE))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))

    dom = browser("--dump-dom", "--window-size=1400,900", page="frame.html")

    assert f"<title>[{width},{width},[]]</title>" in dom, dom[:2000]


def mean_brightness(path: Path) -> float:
    import cv2

    return float(cv2.imread(str(path)).mean())


@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)])
def test_the_page_follows_the_colour_scheme(browser, tmp_path, text, scheme, dark):
    (tmp_path / "page.html").write_text(text)
    shot = tmp_path / "shot.png"

    browser(f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")

    assert (mean_brightness(shot) < 80) is dark


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="pdftotext is not installed")
def test_paper_shows_every_section_open(browser, tmp_path, release_result):
    (tmp_path / "page.html").write_text(html(release_result))
    paper = tmp_path / "paper.pdf"

    browser(f"--print-to-pdf={paper}", "--blink-settings=preferredColorScheme=0")

    command = ["pdftotext", "-layout", paper, "-"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for outcome in release_result.outcomes:
        assert outcome.sha256 in printed
    assert printed.count("Repeat it") == len(release_result.outcomes)


def test_a_link_into_a_closed_artifact_opens_it(browser, tmp_path, small_result):
    text = html(small_result).replace("<meta http-equiv", "<meta data-without")
    told = '<script>addEventListener("load", () => setTimeout(() => { document.title = '
    told += 'document.querySelector("#a0").closest("details").open }, 500))</script></body>'
    (tmp_path / "page.html").write_text(text.replace("</body>", told))
    (tmp_path / "go.html").write_text(
        '<!doctype html><script>location.replace("page.html#a0")</script>'
    )

    assert "<title>true</title>" in browser("--dump-dom", page="go.html")
