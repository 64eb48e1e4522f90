"""A folder of converted graphs: each appears whole, is made once, and leaves when unused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Facts", "GraphCache", "default_cache_folder", "digest_of", "sizes_of"]

log = structlog.get_logger(__name__)

_KEPT = 4  # entries, of half a gigabyte each at full size
_FACTS = "facts.json"
_CHUNK = 1 << 18
_SCRATCH = ".new-"
_ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an entry."""

    ids: list[int]  # what the untouched graph says to the check's input
    refused: str = ""  # why this model is better left as it is; empty: it is not
    single_clip: bool = False  # the graph takes one clip without padding
    answer: str = ""  # digest of the logits that the graph gives to the check's input
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file
    digest: str = ""  # of all files


def default_cache_folder() -> Path:
    """`sensestream` in the user's cache folder: `~/.cache/sensestream` on Linux."""
    from platformdirs import user_cache_path  # not needed where the settings name a folder

    return user_cache_path("sensestream", appauthor=False)


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of each file of an entry, but for what is known of it; empty for no folder."""
    try:
        files = [path for path in folder.iterdir() if path.name != _FACTS]
        return {path.name: path.stat().st_size for path in sorted(files)}
    except OSError:
        return {}


def digest_of(folder: Path) -> str:
    """SHA-256 of the files of an entry, together; empty where they cannot be read."""
    digest = hashlib.sha256()
    try:
        for name in sizes_of(folder):
            with (folder / name).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


class GraphCache:
    """Safe against other processes that use the same folder at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "graphs"

    def find(self, key: str) -> Facts | None:
        """What is known of an entry; None if there is none, or none that can be read."""
        try:
            facts = Facts(**json.loads((self.path(key) / _FACTS).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        with contextlib.suppress(OSError):  # a folder that one may only read
            os.utime(self.path(key))
        return facts

    def path(self, key: str) -> Path:
        """The folder of an entry."""
        return self.folder / key

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """A folder to write an entry into, while no other process makes the same entry.

        Where the cache cannot be written it is a temporary folder, which is gone afterwards.
        """
        from filelock import FileLock  # a worker that finds its entry never loads it

        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                # The kernel releases the lock if the process dies.
                stack.enter_context(FileLock(self.folder / f"{key}.lock"))
                scratch = tempfile.mkdtemp(prefix=_SCRATCH, dir=self.folder)
            except (OSError, NotImplementedError) as error:  # the latter: no locks on this disk
                log.warning(
                    "model_cache_not_writable",
                    folder=str(self.folder),
                    error=str(error),
                    hint="set SENSESTREAM_MODEL_CACHE_DIR, or each start converts the model again",
                )
                scratch = tempfile.mkdtemp(prefix="sensestream-")
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            yield Path(scratch)

    def keep(self, key: str, scratch: Path, facts: Facts) -> None:
        """Put what was made in its place, and let the least recently used entries go."""
        if scratch.parent != self.folder:
            return
        try:
            (scratch / _FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
            self.discard(key)
            scratch.rename(self.path(key))
            self._clean()
        except OSError as error:  # another process was first, or the disk is full
            log.warning("model_not_cached", folder=str(self.folder), error=str(error))

    def discard(self, key: str) -> None:
        """Take an entry away; whoever has it open keeps it."""
        with contextlib.suppress(OSError):
            trash = tempfile.mkdtemp(prefix=_SCRATCH, dir=self.folder)
            with contextlib.suppress(OSError):
                self.path(key).rename(Path(trash) / key)
            shutil.rmtree(trash, ignore_errors=True)

    def _clean(self) -> None:
        entries = [path for path in self.folder.iterdir() if path.is_dir()]
        scratch = [path for path in entries if path.name.startswith(_SCRATCH)]
        kept = sorted(set(entries) - set(scratch), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_KEPT]:
            self.discard(path.name)
            (self.folder / f"{path.name}.lock").unlink(missing_ok=True)
        for path in scratch:
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
