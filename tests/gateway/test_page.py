"""The page in a real Chromium: what a user does and sees."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensestream_common.contract.alias import Alias, AudioWarning
from sensestream_common.contract.keys import Keys
from sensestream_consumer.audio import decode_revision
from sensestream_producer.gateway.auth import Scope, new_key
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import CLIPS, StartGateway, submit
from tests.support.browser import browser, missing
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.ports import free_port
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(missing()), reason=missing())]

CLIP = CLIPS / "en-wideband.wav"
PHONE = {"width": 360, "height": 740}
# Contrast of text and its ground, by WCAG's formula, for every element that shows text itself.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number)
  const linear = (v) => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4
  const shine = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b)
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor)
      if (colour.length === 3 || colour[3] > 0) return colour
    }
    return [255, 255, 255]
  }
  const ratio = (node) => {
    const both = [shine(parse(getComputedStyle(node).color)), shine(ground(node))]
    return (Math.max(...both) + .05) / (Math.min(...both) + .05)
  }
  const texts = (node) => [...node.childNodes]
    .some((one) => one.nodeType === Node.TEXT_NODE && one.textContent.trim())
  return [...document.body.querySelectorAll('*')]
    .filter((node) => node.checkVisibility() && !node.matches(':disabled, .skip') && texts(node))
    .filter((node) => ratio(node) < 4.5).map((node) => node.outerHTML.slice(0, 80))
}"""
FOCUSED = "document.activeElement.id || document.activeElement.textContent.trim()"
NAMELESS = """() => [...document.querySelectorAll('button, input, select, a, svg')]
  .filter((e) => e.checkVisibility() && !e.ariaLabel)
  .filter((e) => !e.textContent.trim() && !e.labels?.length)
  .map((e) => e.outerHTML)"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser(CLIP) as chromium:
        yield chromium


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Any]:
    """A factory of pages; the test fails if one logs an error or calls another origin."""
    contexts: list[Any] = []
    faults: list[str] = []

    def open_(url: str, **options: Any) -> Any:
        context = chromium.new_context(permissions=["microphone"], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda one: faults.extend([] if one.url.startswith(url) else [one.url]))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not faults


def wait_live(page: Any) -> None:
    page.locator("#connection[data-state=live]").wait_for()


def test_uploaded_recording_shows_its_text_and_appears_among_the_outcomes(
    gateway: GatewayProcess, open_page: Any
) -> None:
    page = open_page(gateway.url)
    wait_live(page)
    page.set_input_files("#file", CLIP)
    page.locator("#text", has_text="314159").wait_for()
    assert "en" in page.locator("#facts li").all_inner_texts()
    newest = page.locator("#live li").first
    newest.get_by_text("314159").wait_for()
    page.set_input_files("#file", CLIP)
    page.locator("#facts li.hit").wait_for()


def test_warnings_about_a_recording_stand_below_its_transcript(
    gateway: GatewayProcess, redis: Any, open_page: Any, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.wav" for name in ("clean", "damaged")]
    for seed, file in zip((451, 452), files, strict=True):
        file.write_bytes(encoded(tone(seed)))
        submit(gateway, file.read_bytes())
    digest = f"sha256:{hashlib.sha256(files[1].read_bytes()).hexdigest()}"
    alias = KEYS.audio(digest, decode_revision())
    lost = AudioWarning("audio_truncated", "its last <b>0.4 s</b> are missing")
    redis.set(alias, Alias(redis.get(alias).decode(), (lost,)).encode(), ex=600)
    page = open_page(gateway.url)
    wait_live(page)
    page.set_input_files("#file", files[1])
    page.locator("#warnings", has_text=f"Warning: {lost.message}").wait_for()
    page.set_input_files("#file", files[0])
    page.locator("#facts li.hit").wait_for()
    page.locator("#warnings").wait_for(state="hidden")


def test_microphone_recording_is_transcribed(gateway: GatewayProcess, open_page: Any) -> None:
    page = open_page(gateway.url)
    wait_live(page)
    page.get_by_role("button", name="Record", exact=True).click()
    stop = page.get_by_role("button", name="Stop and transcribe")
    page.wait_for_timeout(3600)  # the clip's own length: it is played into the microphone
    stop.click()
    page.locator("#facts li").first.wait_for()
    assert page.locator("#text").inner_text()


def test_page_says_when_the_microphone_needs_a_secure_context(
    gateway: GatewayProcess, open_page: Any, chromium: Any
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
    page.goto(gateway.url)
    assert page.locator("#record").is_disabled()
    assert "localhost or https" in page.locator("#microphone-hint").inner_text()
    context.close()


def test_other_clients_outcomes_appear_and_the_figures_change(
    gateway: GatewayProcess, open_page: Any
) -> None:
    page = open_page(gateway.url)
    wait_live(page)
    before = page.locator("#live > li").count()
    submit(gateway, encoded(tone(501)))
    wait_until_sync(lambda: page.locator("#live > li").count() > before, what="a new outcome")
    page.locator("figure", has_text="Workers").get_by_text("1", exact=True).wait_for()
    page.locator("figure", has_text="Hit rate").get_by_text(re.compile(r"\d+ %")).wait_for()
    page.locator("figure", has_text="Latency").get_by_text(re.compile(r"\d+ ms")).wait_for()
    assert page.locator("svg[aria-label^='Queue: 0']").count() == 1


def test_page_misses_no_outcome_while_the_gateway_restarts(
    shared_redis: EmbeddedRedis,
    gateway: GatewayProcess,
    start_gateway: StartGateway,
    open_page: Any,
) -> None:
    port = free_port()
    first = start_gateway(shared_redis.url, http_port=port)
    page = open_page(first.url)
    wait_live(page)
    assert first.terminate() == 0
    page.locator("#connection[data-state=away]").wait_for()
    before = page.locator("#live > li").count()
    submit(gateway, encoded(tone(502)))  # meanwhile, by another gateway
    start_gateway(shared_redis.url, http_port=port)
    wait_live(page)
    wait_until_sync(lambda: page.locator("#live > li").count() == before + 1, what="the missed one")


def test_error_is_shown_in_words(gateway: GatewayProcess, open_page: Any, tmp_path: Path) -> None:
    page = open_page(gateway.url)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"this is no audio")
    page.set_input_files("#file", broken)
    page.get_by_role("alert").get_by_text("no decoder reads the audio").wait_for()
    empty = tmp_path / "empty.wav"
    empty.touch()
    page.set_input_files("#file", empty)
    page.get_by_role("alert").get_by_text("the file is empty").wait_for()


def test_page_asks_for_a_key_and_replays_a_dead_letter(
    own_redis: Any, start_gateway: StartGateway, open_page: Any
) -> None:
    key, kept = new_key("operator", list(Scope), None)
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url, api_keys=kept)
    with server.client() as redis:
        fields = {"id": "dead-1", "audio": "https://example.org/<b>a</b>.wav"}
        fields |= {"dead:error": "audio_unavailable", "dead:message": "it did not answer"}
        redis.xadd(KEYS.dead, fields)
        page = open_page(gateway.url)
        page.get_by_label("Key of this gateway").fill(key)
        page.keyboard.press("Enter")
        wait_live(page)
        page.get_by_text("<b>a</b>.wav").wait_for()
        page.get_by_role("button", name="Replay dead-1").click()
        page.locator("#dead-status", has_text="dead-1 was sent again.").wait_for()
        assert redis.xlen(KEYS.dead) == 0
        assert redis.xlen(KEYS.requests) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_fits_a_phone_and_its_text_has_contrast(
    gateway: GatewayProcess, open_page: Any, scheme: str, path: str
) -> None:
    submit(gateway, encoded(tone(503)))
    page = open_page(gateway.url, viewport=PHONE, color_scheme=scheme)
    page.goto(gateway.url + path)
    if path == "/":
        page.set_input_files("#file", CLIP)
        page.locator("#facts li").first.wait_for()
    else:
        page.locator("section").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(CONTRAST) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 22, 21)"
    assert dark == (scheme == "dark")


def test_controls_have_names_and_are_reached_by_keyboard(
    gateway: GatewayProcess, open_page: Any
) -> None:
    page = open_page(gateway.url)
    wait_live(page)
    wanted = ["Skip to transcribing", "API", "file", "record", "language", "itn"]
    for name in wanted:
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == name
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1").count() == 1
    assert page.locator("[role=alert], [role=status], [aria-live]").count() >= 3
