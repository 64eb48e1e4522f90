"""Tell a sender what of a recording was lost, from where and how much."""

from __future__ import annotations

from sensestream_common.contract.alias import AudioWarning

from sensestream_consumer.audio.decoding.result import Attempt

__all__ = ["losses"]

_LEAST = 0.05  # seconds; less is not worth a word
_LOST_BYTES = 16 * 1024  # at the end; less that cannot be decoded there is tags and padding
_NAMED = 3  # holes that are named one by one


def losses(attempt: Attempt, missing: float, unannounced: int) -> list[AudioWarning]:
    """Return warnings about one recording.

    Args:
        attempt: how it was read.
        missing: the bytes that its container promises beyond the end of the file, as a part of
            those that are there.
        unannounced: bytes of sound behind those that its header announces.
    """
    found = [
        _truncated(attempt, missing),
        _damaged(attempt),
        _gaps(attempt),
        _ignored(attempt),
        _unannounced(attempt, unannounced),
    ]
    return [warning for warning in found if warning]


def _truncated(attempt: Attempt, missing: float) -> AudioWarning | None:
    lost = attempt.decoded * missing or attempt.short
    if lost < _LEAST:
        return None
    message = (
        f"the recording ends at {_time(attempt.end)}, about {lost:.1f} s before the end that "
        "its header states; the rest is missing or could not be decoded"
    )
    return AudioWarning("audio_truncated", message)


def _damaged(attempt: Attempt) -> AudioWarning | None:
    report = attempt.report
    if attempt.given_up is not None:
        return AudioWarning("audio_damaged", _reread(attempt))
    if (report.failure and not attempt.complete) or report.lost_bytes > _LOST_BYTES:
        message = (
            f"the recording is damaged behind {_time(attempt.end)} and could not be decoded "
            "further; sound may be missing at its end"
        )
        return AudioWarning("audio_damaged", message)
    if report.damaged:
        message = (
            f"{report.damaged} packets of the recording are damaged and were left out, so that "
            "some sound is missing"
        )
        return AudioWarning("audio_damaged", message)
    return None


def _reread(attempt: Attempt) -> str:
    where = f"the recording is damaged at {_time(attempt.given_up or 0.0)}"
    if attempt.holes:
        return f"{where}; silence stands for what could not be decoded: {_list(attempt.holes)}"
    return f"{where}; it was read on from there, but some of its sound may be missing or wrong"


def _gaps(attempt: Attempt) -> AudioWarning | None:
    if not attempt.holes or attempt.given_up is not None:
        return None
    message = (
        f"the time stamps leave {_count(attempt.holes)} without sound, where silence was put in: "
        f"{_list(attempt.holes)}"
    )
    return AudioWarning("audio_gap", message)


def _ignored(attempt: Attempt) -> AudioWarning | None:
    if not attempt.ignored:
        return None
    message = (
        "the time stamps leave more silence than the longest recording taken here, so that it was "
        f"left out and all times behind it are earlier: {_list(attempt.ignored)}"
    )
    return AudioWarning("timestamps_ignored", message)


def _unannounced(attempt: Attempt, size: int) -> AudioWarning | None:
    if not size:
        return None
    message = (
        f"the header announces less sound than the file holds; all of it was read, up to "
        f"{_time(attempt.end)} ({size} bytes more)"
    )
    return AudioWarning("length_corrected", message)


def _count(holes: list[tuple[float, float]]) -> str:
    return "a hole" if len(holes) == 1 else f"{len(holes)} holes"


def _list(holes: list[tuple[float, float]]) -> str:
    named = [f"{length:.1f} s at {_time(at)}" for at, length in holes[:_NAMED]]
    if len(holes) > _NAMED:
        rest = holes[_NAMED:]
        named.append(f"and {len(rest)} more of {sum(length for _, length in rest):.1f} s in all")
    return ", ".join(named)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s"
