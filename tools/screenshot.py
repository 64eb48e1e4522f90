"""Take the README's picture of the gateway's page; `make screenshot` gives it what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.browser import browser

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "assets" / "page.png"
SIZE = {"width": 1100, "height": 860}
LATER = ("zh-stereo.mp3", "ja-studio.ogg", "ko-opus.ogg", "yue-opus.ogg", "zh-stereo.mp3")
LAST = "en-wideband.wav"


def main() -> int:
    command = [str(Path(sys.executable).with_name("sensestream")), "demo", "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        url = next(found[0] for line in demo.stdout if (found := re.search(r"http://\S+\d", line)))
        with browser() as chromium:
            page = chromium.new_page(viewport=SIZE, color_scheme="light")
            page.goto(url)
            page.locator("#connection[data-state=live]").wait_for()
            for name in LATER:
                clip = httpx.get(f"{url}/samples/{name}").content
                files = {"file": (name, clip)}
                httpx.post(f"{url}/v1/transcriptions?wait=30", files=files, timeout=60)
                page.wait_for_timeout(2100)  # the figures' own pace
            page.select_option("#samples", LAST)
            page.locator("#text", has_text="314159").wait_for()
            page.wait_for_timeout(4300)
            page.screenshot(path=PICTURE)
        demo.terminate()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
