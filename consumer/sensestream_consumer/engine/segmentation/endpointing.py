"""Utterances from frame-by-frame speech, by the rules of FunASR's voice activity detector.

An utterance begins where enough of the last frames (a window) are speech, a little earlier than
that, and ends where a pause has lasted long enough. FunASR's detector steps through its states
frame by frame; here each step goes from one change of state to the next, over arrays that say
for every frame how much of its window is speech. `funasr_onnx.utils.e2e_vad` is the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sensestream_consumer.engine.segmentation.vad_options import VadOptions

__all__ = ["FRAME_MS", "utterances"]

FRAME_MS = 10


def utterances(speech: NDArray[np.bool_], options: VadOptions) -> list[tuple[int, int]]:
    """First frame and the one after the last of each utterance, from bool[frames], in order."""
    window = _Window(speech, options)
    before = window.size
    if options.do_extend:
        before += options.lookback_time_start_point // FRAME_MS
    found: list[tuple[int, int]] = []
    free = 0  # the first frame that belongs to no utterance yet
    at = 0  # the first frame whose window counts from here
    while at < speech.size:
        window.restart(at)
        began = window.next_voiced(at)
        if began >= speech.size:
            break
        start = max(free, began - before, 0)
        last, decided = _end(window, start, began, options)
        found.append((start, last + 1))
        free, at = last + 1, decided + 1
    return found


def _end(window: _Window, start: int, began: int, options: VadOptions) -> tuple[int, int]:
    """The last frame of the utterance that `began`, and the frame at which that was clear."""
    pause_ms = options.max_end_silence_time - options.speech_to_sil_time_thres
    pause = max(1, -(-pause_ms // FRAME_MS))
    kept = max(0, pause_ms) // FRAME_MS  # frames of the pause, less those kept after the end
    if options.do_extend:
        kept = max(0, kept - options.lookahead_time_end_point // FRAME_MS - 1)
    latest = max(start + options.max_single_segment_time // FRAME_MS, began + 1)
    latest = min(latest, window.frames - 1)
    frame = began
    while True:
        quiet = window.next_quiet(frame + 1)
        if quiet >= latest:
            return latest, latest
        frame = window.next_voiced(quiet + 1)
        over = quiet + pause
        if frame > over and over <= latest:
            return over - kept, over
        if frame >= latest:
            return latest, latest


class _Window:
    """For every frame, whether enough of the frames up to it (a window) are speech."""

    def __init__(self, speech: NDArray[np.bool_], options: VadOptions) -> None:
        self.size = options.window_size_ms // FRAME_MS
        self.frames = speech.size
        self._speech = speech
        self._voiced_from = options.sil_to_speech_time_thres // FRAME_MS
        self._quiet_up_to = options.speech_to_sil_time_thres // FRAME_MS
        total = np.zeros(self.size + self.frames, np.int64)
        np.cumsum(speech, out=total[self.size :])
        sums: NDArray[np.int64] = total[self.size :] - total[: self.frames]
        self._voiced = sums >= self._voiced_from
        self._quiet = sums <= self._quiet_up_to

    def restart(self, frame: int) -> None:
        """From this frame on, windows hold no frame before it. Frames only ever grow."""
        part = slice(frame, frame + self.size)
        sums = np.cumsum(self._speech[part])
        self._voiced[part] = sums >= self._voiced_from
        self._quiet[part] = sums <= self._quiet_up_to

    def next_voiced(self, frame: int) -> int:
        return _next(self._voiced, frame)

    def next_quiet(self, frame: int) -> int:
        return _next(self._quiet, frame)


def _next(flags: NDArray[np.bool_], start: int) -> int:
    """The first true frame from `start` on, else the number of frames."""
    rest = flags[start:]
    step = int(rest.argmax()) if rest.size else 0
    return start + step if rest.size and rest[step] else flags.size
