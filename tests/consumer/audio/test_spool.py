"""The worker's own copy of the bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import Spool


@pytest.mark.parametrize("size", [0, 1, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1])
def test_what_is_hashed_is_what_is_kept(size: int) -> None:
    data = bytes(size)
    with Spool("x", size) as spool:
        for start in range(0, size, 1_000_000):
            spool.write(data[start : start + 1_000_000])
        fetched = spool.finish("audio/wav")
    with fetched:
        assert (fetched.size, fetched.media_type) == (size, "audio/wav")
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        assert fetched.file.read() == data


def test_one_byte_too_many_is_refused() -> None:
    with Spool("clip.wav", 9_000_000) as spool:
        spool.write(bytes(9_000_000))
        with pytest.raises(RequestError) as caught:
            spool.write(b"x")
    assert caught.value.code is ErrorCode.AUDIO_TOO_LARGE
    assert caught.value.message.startswith("clip.wav has more than 9000000 bytes")


FULL_DISK = """
import resource
from sensestream_common.contract.errors import TransientError
from sensestream_consumer.audio import Spool
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    with Spool("x", 10**8) as spool:
        spool.write(bytes(10**7))
        spool.finish()
except TransientError as error:
    print(error.code, error.message)
"""


def test_a_temporary_folder_without_room_is_the_workers_fault_and_may_pass() -> None:
    command = [sys.executable, "-W", "error", "-c", FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("internal the worker could not keep the audio")
    assert "TMPDIR" in done.stdout
    assert done.stderr == ""
