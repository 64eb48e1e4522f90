"""A real Chromium without a screen, driven by playwright; and why there is none."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["browser", "find_chromium", "missing"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """The browser of SENSESTREAM_CHROMIUM, or the first on PATH; empty where there is none."""
    named = os.environ.get("SENSESTREAM_CHROMIUM", "")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), "")


def missing() -> str:
    """What is to be installed before the page can be looked at; empty when all is there."""
    if not find_chromium():
        return "there is no Chromium here: apt-get install chromium, or set SENSESTREAM_CHROMIUM"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: .venv/bin/python tools/try_page.py installs and runs"
    return ""


@contextmanager
def browser(recording: Path | None = None) -> Iterator[Any]:
    """A browser; what its microphone hears is `recording`, a WAV."""
    from playwright.sync_api import sync_playwright  # installed for these tests alone

    arguments = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    if recording is not None:
        arguments.append(f"--use-file-for-fake-audio-capture={recording}%noloop")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # which Chromium cannot have as root, as in a container
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=find_chromium(), args=arguments)
        yield chromium
        chromium.close()
