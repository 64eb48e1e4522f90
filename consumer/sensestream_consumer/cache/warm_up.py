"""Recordings that are to be known before anybody asks: a list in the worker's settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import SettingsError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.request import LANGUAGES

from sensestream_consumer.broker.autopipeline import Commands

__all__ = ["WarmUp", "read_warm_list", "warm_up"]

log = structlog.get_logger(__name__)

_WARM = load_script("sensestream_consumer.cache.results", "warm")
_MOST = 10_000  # recordings: they are added in one step, during which Redis does nothing else
_ITN = {"itn": "1", "no-itn": "0"}
_METADATA = json.dumps({"warm": True})


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A recording, and how the later requests will ask for it."""

    audio: str
    language: str = "auto"
    itn: str = "1"


def read_warm_list(path: Path) -> tuple[WarmUp, ...]:
    """A list with `REFERENCE [LANGUAGE] [itn|no-itn]` on each line, and comments after `#`.

    A reference without a scheme is a file, from the list's own folder. Raises `SettingsError`.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as text: {error}") from error
    found = [
        _parse(words, path, number)
        for number, line in enumerate(lines, start=1)
        if (words := line.split()) and not words[0].startswith("#")
    ]
    if len(found) > _MOST:
        raise SettingsError(
            f"{path} lists {len(found)} recordings, more than {_MOST}: "
            "use `sensestream cache warm --from` for them"
        )
    return tuple(found)


async def warm_up(
    commands: Commands, keys: Keys, fingerprint: str, wanted: tuple[WarmUp, ...], ttl: int
) -> None:
    """Queue the recordings, unless these were queued for this recogniser within `ttl` seconds.

    So of all the workers that start with the same list one queues it, and all of them work it off.
    """
    if not wanted:
        return
    parts = [[each.audio, each.language, each.itn] for each in wanted]
    mark = sha256(json.dumps([fingerprint, parts]).encode()).hexdigest()
    flat = [part for each in parts for part in each]
    added = await commands.run(_WARM, [keys.warmed(mark), keys.requests], [ttl, _METADATA, *flat])
    if added:
        log.info("warming", recordings=added)


def _parse(words: list[str], path: Path, number: int) -> WarmUp:
    audio, *rest = words
    language, itn = "auto", "1"
    for word in rest:
        if word in LANGUAGES:
            language = word
        elif word in _ITN:
            itn = _ITN[word]
        else:
            raise SettingsError(
                f"{path}, line {number}: {word!r} is neither a language "
                f"({', '.join(LANGUAGES)}) nor one of itn and no-itn"
            )
    if "://" not in audio and not audio.startswith(("data:", "redis:")):
        audio = (path.parent.resolve() / audio).as_uri()
    return WarmUp(audio, language, itn)
