"""`report.html` in a real browser, offline: filter, sort, expand, play; laptop and phone; light and dark.

Chromium is driven over its own debugging pipe, so the test needs no driver, no port and no further package.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora.report.html import write_html_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
]
# Chromium reads commands from descriptor 3 and answers on 4; Popen cannot renumber descriptors itself.
RENUMBER = (
    "import fcntl, os, sys; r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
TIMEOUT_S = 60.0

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
    pytest.mark.slow,
]


class Browser:
    """One headless Chromium with one page."""

    def __init__(self, profile: Path) -> None:
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        command = [sys.executable, "-c", RENUMBER, str(command_read), str(answer_write), str(CHROMIUM), *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(command_read, answer_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self.commands, self.answers = os.fdopen(command_write, "wb"), os.fdopen(answer_read, "rb")
        self.count, self.session = 0, ""
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Open the one page and listen to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\0"):
            byte = self.answers.read(1)
            assert byte, "Chromium has ended"
            data += byte
        return json.loads(data[:-1])

    def open(self, path: Path) -> None:
        """Open a file and wait until its script has filled the table."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && document.getElementById('count').textContent")

    def run(self, script: str) -> Any:
        """Evaluate JavaScript as if a person had just touched the page; promises are awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Evaluate until the result is true."""
        end = time.monotonic() + TIMEOUT_S
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, scheme: str) -> None:
        """Set what the page hears of the system's theme."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def choose(self, control: str, value: str) -> None:
        """Set a control to a value as a person does."""
        self.run(
            f"(() => {{ const c = document.getElementById({control!r}); c.value = {value!r}; "
            "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def shown(self) -> list[str]:
        """Return the ids of the rows, top to bottom."""
        return self.run("[...document.querySelectorAll('tr.u')].map((row) => row.dataset.id)")

    def expand(self, identifier: str) -> str:
        """Open a row and return the text below it."""
        row = f"document.querySelector('tr.u[data-id={json.dumps(identifier)}]')"
        self.run(f"{row}.querySelector('button').click()")
        return self.run(f"{row}.nextElementSibling.querySelector('dl').innerText")

    def close(self) -> None:
        """End this Chromium and no other."""
        self.process.kill()
        self.process.wait()
        self.commands.close()
        self.answers.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return one Chromium for all tests of this file."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(Path(profile))
        try:
            started.attach()
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def report(audible_run: Path) -> Path:
    """Return the report of a small run with audio."""
    return write_html_report(audible_run)


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    """Return the browser with the report just opened."""
    browser.resize(1366, 900)
    browser.prefer("light")
    browser.open(report)
    return browser


def test_the_page_opens_without_an_error_and_asks_the_network_for_nothing(page: Browser) -> None:
    assert page.run("document.querySelector('h2').innerText") == "✓ Accept"
    assert page.shown() == ["d2", "d1", "d3", "d4", "g1"]
    asked = [
        event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url.split(":")[0] for url in asked] == ["file"]
    assert [event for event in page.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")] == []


def test_rows_are_filtered_by_text_set_speaker_and_change(page: Browser) -> None:
    page.choose("find", "OH nine")
    assert page.shown() == ["d3"]
    page.choose("find", "")
    page.choose("set", "us")
    assert page.shown() == ["g1"]
    page.choose("set", "")
    page.choose("speaker", "ben")
    assert page.shown() == ["d2"]
    page.choose("speaker", "")
    page.choose("show", "changed")
    assert page.shown() == ["d2", "d1", "d3"]
    page.choose("show", "worse")
    assert page.shown() == ["d3"]
    assert page.run("document.getElementById('count').textContent").startswith("1 of 5 utterances")
    page.choose("find", "no such word")
    assert page.shown() == []


def test_rows_are_sorted_by_the_menu_and_by_the_heads(page: Browser) -> None:
    page.choose("sort", "change:desc")
    assert page.shown()[0] == "d3"
    page.choose("sort", "order:asc")
    assert page.shown() == ["d1", "d2", "d3", "d4", "g1"]
    head = "document.querySelector('th button[data-key=seconds]')"
    page.run(f"{head}.click()")
    assert page.shown() == ["d1", "g1", "d2", "d3", "d4"]
    assert page.run(f"{head}.parentElement.getAttribute('aria-sort')") == "ascending"
    page.run(f"{head}.click()")
    assert page.shown()[0] == "d4"


def test_a_row_opens_to_a_diff_that_reads_without_colour(page: Browser) -> None:
    shown = page.expand("d1")
    assert shown.split("\n") == [
        *("Reference", "one ✓ two ✓ three four"),
        *("Baseline", "one ≠ ten − three four"),
        *("Tuned", "one two three four"),
    ]
    assert "✗ oh" not in shown
    assert "+ oh" in page.expand("d3")
    page.run("document.querySelector('tr.u[data-id=d1] button').click()")
    assert page.run("document.querySelectorAll('tr.detail').length") == 1


def test_an_utterance_plays(page: Browser) -> None:
    page.expand("d1")
    assert page.wait_for("document.querySelector('audio').duration > 0")
    assert page.run("document.querySelector('audio').duration") == pytest.approx(1.5, abs=0.01)
    page.run("document.querySelector('audio').play().then(() => true)")
    assert page.wait_for("document.querySelector('audio').currentTime > 0.1")
    page.expand("d4")
    assert page.run("document.querySelectorAll('audio').length") == 1


def test_a_hostile_transcript_stays_text(page: Browser) -> None:
    page.choose("find", "script")
    assert page.shown() == ["d4"]
    page.expand("d4")
    assert page.run("document.querySelector('dd.as-written').textContent") == HOSTILE
    assert page.run("window.harmed === undefined && document.querySelectorAll('main img').length === 0")


HOSTILE = "</script><script>window.harmed=1</script><img src=x onerror=harmed=1> {{data}} one two"


@pytest.mark.parametrize(("width", "height"), [(1366, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_at_laptop_and_phone_width(page: Browser, width: int, height: int, scheme: str) -> None:
    page.resize(width, height)
    page.prefer(scheme)
    page.expand("d1")
    assert page.run("document.documentElement.scrollWidth") <= width
    ink, paper = page.run(
        "[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('section')).backgroundColor]"
        ".map((color) => color.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765)"
    )
    assert (ink < 0.3 and paper > 0.9) if scheme == "light" else (ink > 0.8 and paper < 0.2)
