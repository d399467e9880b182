"""What all tests share: one thread, the oracle, real failures of the disk, and skipping where there is no GPU."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the models here are too small for more
sys.path.append(str(Path(__file__).parent))  # for `oracle`

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch finds none here")
    if item.get_closest_marker("browser"):
        pytest.importorskip("playwright", reason="needs playwright (pip install playwright), which is not installed")
        if CHROMIUM is None:
            pytest.skip("needs Chromium, and neither chromium, chromium-browser nor google-chrome is on the PATH")


@pytest.fixture(scope="module")  # no longer: while it lives, no other test may run an event loop in its thread
def chromium() -> "Iterator[Browser]":
    """The system's browser; for tests marked `browser`."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: "Browser") -> "Iterator[Page]":
    """A fresh page that moves nothing, on which any error of a script or of the policy fails the test."""
    context = chromium.new_context(reduced_motion="reduce")
    context.set_default_timeout(30_000)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    refused = "Failed to load resource: the server responded with a status of 4"  # which the page tells its reader
    assert [error for error in errors if not error.startswith(refused)] == []


@pytest.fixture(scope="session")
def oracle():
    from oracle import Oracle

    return Oracle()


@pytest.fixture
def disk_full() -> Callable[[int], AbstractContextManager[None]]:
    """`with disk_full(size):` inside, no file can grow beyond `size` bytes: the kernel refuses, as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs file size limits, which this system does not have")

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
