"""`file://`: what lies below the roots, and nothing else on the worker's disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError
from sensestream_consumer.audio import AudioPolicy, Fetched, parse_reference
from sensestream_consumer.audio.sources.local_files import open_file

from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


async def fetch(uri: str, root: Path, **limits: float) -> Fetched:
    policy = AudioPolicy(roots=(root,), **limits)  # type: ignore[arg-type]
    return await open_file(parse_reference(uri), policy)


async def refusal(uri: str, root: Path, **limits: float) -> RequestError:
    with pytest.raises(RequestError) as caught:
        (await fetch(uri, root, **limits)).close()
    return caught.value


async def test_a_file_below_a_root_is_copied_and_hashed(root: Path) -> None:
    file = root / "day one" / "a.wav"
    file.parent.mkdir()
    file.write_bytes(b"sound")
    with await fetch(file.as_uri(), root) as fetched:
        assert fetched.digest == "sha256:" + hashlib.sha256(b"sound").hexdigest()
        assert (fetched.size, fetched.media_type) == (5, "")
        file.write_bytes(b"other")
        assert fetched.file.read() == b"sound"


async def test_a_long_file_is_kept_in_an_unlinked_file_and_not_in_memory(root: Path) -> None:
    data = os.urandom(1024) * 9 * 1024
    (root / "long.wav").write_bytes(data)
    with await fetch((root / "long.wav").as_uri(), root) as fetched:
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        assert os.fstat(fetched.file.fileno()).st_nlink == 0
        assert fetched.file.tell() == 0
        assert fetched.file.read() == data


@pytest.mark.parametrize("name", ["two\nlines.wav", "100%.wav", "what?.wav", "a#1.wav", "é 中.wav"])
async def test_odd_names_are_found(root: Path, name: str) -> None:
    (root / name).write_bytes(b"sound")
    with await fetch((root / name).as_uri(), root) as fetched:
        assert fetched.size == 5


@pytest.mark.parametrize("form", ["file://localhost{}", "file:{}", "file://{}"])
async def test_every_form_of_a_file_url_is_taken(root: Path, form: str) -> None:
    (root / "a?b#c.wav").write_bytes(b"sound")
    with await fetch(form.format(root / "a?b#c.wav"), root) as fetched:
        assert fetched.size == 5


@pytest.mark.parametrize(
    "uri", ["file://other/a.wav", "file:a.wav", "file:///a%00.wav", "file://", "file:///a\0b"]
)
async def test_what_names_no_file_here_is_a_bad_request(root: Path, uri: str) -> None:
    assert (await refusal(uri, root)).code is ErrorCode.BAD_REQUEST


async def test_the_refusal_names_the_setting_the_roots_and_the_upload(root: Path) -> None:
    error = await refusal("file:///etc/passwd", root)
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert "file:///etc/passwd" in error.message
    assert f"SENSESTREAM_AUDIO_ROOTS is {root}" in error.message
    assert "`sensestream submit FILE` uploads" in error.message


async def test_nothing_outside_tells_whether_it_exists(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there.wav").write_bytes(b"secret")
    (tmp_path / "closed").mkdir(mode=0)
    (root / "link-there").symlink_to(tmp_path / "there.wav")
    (root / "link-gone").symlink_to(tmp_path / "gone.wav")
    (root / "link-folder").symlink_to(tmp_path)
    for there, gone in [
        (f"{tmp_path}/there.wav", f"{tmp_path}/gone.wav"),
        (f"{root}/../there.wav", f"{root}/../gone.wav"),
        (f"{root}/%2e%2e/there.wav", f"{root}/%2e%2e/gone.wav"),
        (f"{root}/link-there", f"{root}/link-gone"),
        (f"{root}/link-folder/there.wav", f"{root}/link-folder/gone.wav"),
        (f"{root}/link-folder/closed/a", f"{root}/link-folder/none/a"),
        (f"{root}x", f"{root}y"),
        (f"{tmp_path}/root/../root/a.wav", f"{tmp_path}/none/../root/a.wav"),
    ]:
        one, other = await refusal(f"file://{there}", root), await refusal(f"file://{gone}", root)
        assert one.code is other.code is ErrorCode.AUDIO_FORBIDDEN
        assert one.message.replace(there, gone) == other.message


async def test_links_that_stay_inside_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "deep").mkdir()
    (root / "deep" / "a.wav").write_bytes(b"sound")
    (root / "link.wav").symlink_to("deep/a.wav")
    linked_root = tmp_path / "linked-root"
    linked_root.symlink_to(root)
    for uri in ((root / "link.wav").as_uri(), f"file://{linked_root}/link.wav"):
        with await fetch(uri, linked_root) as fetched:
            assert fetched.size == 5


@pytest.mark.parametrize("name", ["gone.wav", "a.wav/below", "loop", "n" * 300, "dangling"])
async def test_what_is_missing_below_a_root_is_not_found(root: Path, name: str) -> None:
    (root / "a.wav").write_bytes(b"sound")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nowhere.wav")
    assert (await refusal(f"file://{root}/{name}", root)).code is ErrorCode.AUDIO_NOT_FOUND


async def test_only_regular_files_are_read_and_a_pipe_does_not_block(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        # A path of its own: the test's folder may be longer than a socket's name can be.
        folder = os.open(root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
        for name in ("pipe", "folder", "socket"):
            error = await refusal(f"file://{root}/{name}", root, fetch_timeout=5)
            assert error.code is ErrorCode.AUDIO_FORBIDDEN
            assert f"is a {name}; only regular files" in error.message


async def test_devices_are_refused_even_below_a_root() -> None:
    for device in ("/dev/zero", "/dev/null"):
        error = await refusal(f"file://{device}", Path("/dev"))
        assert error.code is ErrorCode.AUDIO_FORBIDDEN
        assert "is a device" in error.message


UNPRIVILEGED = """
import asyncio, os, sys
from pathlib import Path
from sensestream_common.contract.errors import RequestError
from sensestream_consumer.audio import AudioPolicy, parse_reference
from sensestream_consumer.audio.sources.local_files import open_file
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for name in sys.argv[2:]:
    uri, policy = f"file://{sys.argv[1]}/{name}", AudioPolicy(roots=(Path(sys.argv[1]),))
    try:
        with asyncio.run(open_file(parse_reference(uri), policy)) as fetched:
            print(fetched.file.read())
    except RequestError as error:
        print(error.code, error.message)
"""


def test_a_file_without_permission_is_forbidden_in_a_sentence() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, mode in (("open.wav", 0o644), ("closed.wav", 0)):
            (folder / file).write_bytes(b"sound")
            (folder / file).chmod(mode)
        (folder / "closed").mkdir(mode=0)
        command = [sys.executable, "-c", UNPRIVILEGED, name, "open.wav", "closed.wav", "closed/a"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    readable, *refused = done.stdout.splitlines()
    assert readable == "b'sound'"
    assert len(refused) == 2
    for line in refused:
        assert line.startswith("audio_forbidden file://")
        assert "may not be read by the worker's user" in line


async def test_without_roots_nothing_is_read() -> None:
    with pytest.raises(RequestError, match="SENSESTREAM_AUDIO_ROOTS is empty"):
        await open_file(parse_reference("file:///etc/passwd"), AudioPolicy(roots=()))


async def test_more_bytes_than_allowed_are_refused_with_the_limit_and_its_setting(
    root: Path,
) -> None:
    (root / "a.wav").write_bytes(b"x" * 101)
    error = await refusal(f"file://{root}/a.wav", root, max_bytes=100)
    assert error.code is ErrorCode.AUDIO_TOO_LARGE
    assert "100 bytes" in error.message
    assert "SENSESTREAM_MAX_AUDIO_BYTES" in error.message
    with await fetch(f"file://{root}/a.wav", root, max_bytes=101) as fetched:
        assert fetched.size == 101


async def test_a_file_that_grows_while_it_is_read_is_stopped_at_the_limit() -> None:
    # Files of /proc say that they have no bytes, and then have some.
    error = await refusal("file:///proc/self/status", Path("/proc"), max_bytes=50)
    assert error.code is ErrorCode.AUDIO_TOO_LARGE


async def test_a_file_swapped_for_a_link_at_any_moment_never_leaks(
    root: Path, tmp_path: Path
) -> None:
    secret, clip, spare = tmp_path / "secret", root / "a.wav", root / "spare"
    secret.write_bytes(b"secret")
    clip.write_bytes(b"sound!")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            spare.symlink_to(secret)
            spare.replace(clip)
            spare.write_bytes(b"sound!")
            spare.replace(clip)

    swapping = threading.Thread(target=swap)
    swapping.start()
    observed: set[bytes | ErrorCode] = set()
    try:
        for _ in range(300):
            try:
                with await fetch(clip.as_uri(), root) as fetched:
                    observed.add(fetched.file.read())
            except RequestError as error:
                observed.add(error.code)
    finally:
        stop.set()
        swapping.join()
    assert b"secret" not in observed
    assert observed <= {b"sound!", b"", ErrorCode.AUDIO_FORBIDDEN}


async def test_reading_that_takes_too_long_is_given_up_and_may_be_tried_again(root: Path) -> None:
    (root / "long.wav").write_bytes(bytes(64 * 1024 * 1024))
    error = await refusal(f"file://{root}/long.wav", root, fetch_timeout=0.001)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.AUDIO_UNAVAILABLE


async def test_a_cancelled_fetch_leaves_no_open_file(root: Path) -> None:
    (root / "long.wav").write_bytes(bytes(64 * 1024 * 1024))
    process = psutil.Process()
    before = process.num_fds()
    task = asyncio.create_task(fetch(f"file://{root}/long.wav", root))
    await wait_until(lambda: process.num_fds() > before, what="the file to be opened")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: process.num_fds() <= before, what="the file to be closed")
