"""A real browser for pages: the system's Chromium, driven by Playwright. Tests skip, saying what is missing, where there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 240_000  # milliseconds: a machine may be busy with other tests
# Without these Chromium looks for hosts of its own at every start.
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-gpu")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a headless browser of Playwright's."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser test")
    path = os.environ.get("TOKENPRUNE_TEST_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed ({', '.join(_NAMES)}): no browser test")
    with api.sync_playwright() as playwright:
        arguments = [*_QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=path, args=arguments, timeout=_PATIENCE)
        yield browser
        browser.close()


class Visit:
    """Opens a file as a page and notes what must not happen: requests that leave it, messages of the console, errors.

    Args:
        browser: The browser.
        path: The file.
        options: Options of Playwright's context, such as `viewport`.
    """

    def __init__(self, browser: Any, path: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(_PATIENCE)
        self.page = self.context.new_page()
        self.left: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.left.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(path.as_uri())

    def check(self, path: Any) -> None:
        """Assert that nothing left the file and nothing was complained of."""
        outside = [url for url in self.left if url != path.as_uri() and not url.startswith("data:")]
        assert (outside, self.said) == ([], [])
        self.context.close()
