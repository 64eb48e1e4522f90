"""The warm list: a file of recordings that a worker transcribes before they are requested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sensestream_common.contract.errors import SettingsError
from sensestream_common.contract.request import LANGUAGES

__all__ = ["WarmUp", "read_warm_list"]

_MOST = 10_000  # recordings: they are added in one step, during which Redis does nothing else
_ITN = {"itn": "1", "no-itn": "0"}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A recording, with the language and ITN that later requests for it will name."""

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
