"""Headless Chromium for tests: pages from files, with everything noted that a page should not do."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import NO_BROWSER

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """One browser. Where none is installed, a test that asks for it is skipped, and fails in CI."""
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def executable() -> str:
    """The browser's program; without one, the outcome of the test that asks for it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is not None:
        return path
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(NO_BROWSER)
    pytest.fail(NO_BROWSER, pytrace=False)


class Watched:
    """A page in a tab of its own, and what it said to the console, failed at or asked the network for."""

    def __init__(
        self, browser: Browser, file: Path, width: int = 1400, *, dark: bool = False, touch: bool = False
    ) -> None:
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=touch, reduced_motion="reduce"
        )
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    @property
    def outgoing(self) -> list[str]:
        """Requests for anything but the page itself and what it holds."""
        return [url for url in self.requests if not url.startswith("data:") and url != self.page.url.partition("#")[0]]

    def overflow(self) -> list[str]:
        """Elements that reach beyond the window without a scroll area of their own around them."""
        found: list[str] = self.page.evaluate(
            """() => {
              const contained = (element) => {
                for (let at = element.parentElement; at; at = at.parentElement)
                  if (getComputedStyle(at).overflowX !== "visible") return true;
                return false;
              };
              return [...document.querySelectorAll("body *")]
                .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !contained(element))
                .filter((element) => !element.closest("svg") || element.tagName === "svg")
                .map((element) => `${element.tagName}.${element.getAttribute("class")}`);
            }"""
        )
        wide = self.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        return found + (["the page"] if wide else [])

    def close(self) -> None:
        """Leave the tab; nothing may have been complained about or fetched."""
        self.context.close()
        assert self.complaints == []
        assert self.outgoing == []
