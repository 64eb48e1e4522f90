"""Stores for uploads outside Redis: a shared folder, or an object store.

Uploads in Redis are deleted by the commit of their request. Uploads in a store are removed by
gateways that follow the outcomes. Any gateway removes any upload, so one that dies leaves nothing
behind. Uploads of dead letters, and those that no outcome names, are kept for a week.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import structlog
from sensestream_common.contract.errors import SensestreamError, SettingsError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome

from sensestream_producer.gateway.uploads.spool import Spool
from sensestream_producer.outcomes.follower import FollowedOutcome, follow
from sensestream_producer.transport import RedisTransport

__all__ = ["FolderStore", "S3Store", "Store", "open_store", "present", "sweep"]

log = structlog.get_logger("sensestream.gateway")

_KEPT_SECONDS = 7 * 86_400  # as long as Redis keeps the bytes of a dead letter
_SWEEP_SECONDS = 3600.0
_CHUNK = 1 << 20
_NAME = re.compile(r"upload-[0-9a-f]{32}")
# A worker names its folders in some messages; they are for its operator only.
_ROOTS = re.compile(r" \(SENSESTREAM_AUDIO_ROOTS is [^)]*\)")


class Store(Protocol):
    """Keeps uploads under references that workers open. All references begin with `prefix`."""

    prefix: str

    def put(self, spool: Spool) -> str:
        """Store the bytes, and return a reference to them. Blocks.

        Raises `SensestreamError` when they cannot be stored.
        """
        ...

    def remove(self, reference: str) -> None:
        """Remove an upload, if it is still there. Blocks."""
        ...

    def sweep(self, before: float) -> int:
        """Remove uploads stored before this time, in seconds since the epoch; how many. Blocks."""
        ...


class FolderStore:
    """A folder that gateways and workers share, below the workers' audio roots."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(
                f"SENSESTREAM_UPLOADS={str(folder)!r}: is no folder that this gateway may write to"
            )
        self._folder = folder.resolve()
        self.prefix = self._folder.as_uri().rstrip("/") + "/upload-"

    def put(self, spool: Spool) -> str:
        path = self._folder / f"upload-{secrets.token_hex(16)}"
        try:
            with path.open("xb") as file, spool.reader() as content:
                shutil.copyfileobj(content, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise SensestreamError(f"an upload could not be stored: {error}") from error
        return path.as_uri()

    def remove(self, reference: str) -> None:
        name = reference.removeprefix(self._folder.as_uri().rstrip("/") + "/")
        if _NAME.fullmatch(name):
            (self._folder / name).unlink(missing_ok=True)

    def sweep(self, before: float) -> int:
        old = [
            path
            for path in self._folder.iterdir()
            if _NAME.fullmatch(path.name) and path.stat().st_mtime < before
        ]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)


class S3Store:
    """A bucket, or a folder in one, with the credentials that botocore finds. Thread-safe."""

    def __init__(self, address: str) -> None:
        try:
            import botocore.session
        except ModuleNotFoundError:
            raise SettingsError(
                f"SENSESTREAM_UPLOADS={address!r}: install the extra [s3] of sensestream-producer"
            ) from None
        bucket, _, folder = address.removeprefix("s3://").partition("/")
        folder = folder.strip("/")
        if not bucket:
            raise SettingsError(f"SENSESTREAM_UPLOADS={address!r}: write s3://BUCKET/FOLDER")
        self._bucket = bucket
        self._folder = f"{folder}/" if folder else ""
        self.prefix = f"s3://{bucket}/{self._folder}upload-"
        try:
            self._client: Any = botocore.session.get_session().create_client("s3")
        except Exception as error:
            raise SettingsError(f"SENSESTREAM_UPLOADS={address!r}: {error}") from error

    def put(self, spool: Spool) -> str:
        key = f"{self._folder}upload-{secrets.token_hex(16)}"
        try:
            with spool.reader() as body:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=body)
        except Exception as error:
            raise SensestreamError(f"an upload could not be stored: {error}") from error
        return f"s3://{self._bucket}/{key}"

    def remove(self, reference: str) -> None:
        key = reference.removeprefix(f"s3://{self._bucket}/")
        if _NAME.fullmatch(key.removeprefix(self._folder)):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def sweep(self, before: float) -> int:
        count = 0
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._folder + "upload-"
        )
        for page in pages:
            for found in page.get("Contents", ()):
                if found["LastModified"].timestamp() < before:
                    self._client.delete_object(Bucket=self._bucket, Key=found["Key"])
                    count += 1
        return count


def open_store(uploads: str) -> Store | None:
    """The store that the setting `uploads` names; `None` for Redis.

    Raises `SettingsError` for a store that cannot be used.
    """
    if uploads == "redis":
        return None
    return S3Store(uploads) if uploads.startswith("s3://") else FolderStore(Path(uploads))


def present(outcome: Outcome, store: Store | None) -> Outcome:
    """The outcome as callers may see it: without paths of the store or of a worker."""
    message = _ROOTS.sub("", outcome.message)
    audio = outcome.audio
    if store is not None and audio.startswith(store.prefix):
        message = message.replace(audio, "the upload")
        audio = "upload:"
    if message == outcome.message and audio == outcome.audio:
        return outcome
    return replace(outcome, audio=audio, message=message)


async def sweep(store: Store, link: RedisTransport, keys: Keys, stopping: asyncio.Event) -> None:
    """Remove answered uploads at once and old ones once an hour, until `stopping` is set."""
    tasks = [
        asyncio.create_task(_follow(store, link, keys), name="gateway-uploads-answered"),
        asyncio.create_task(_sweep(store), name="gateway-uploads-old"),
    ]
    try:
        await stopping.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(store: Store, link: RedisTransport, keys: Keys) -> None:
    """Remove uploads of all outcomes that are kept: a gateway may have died before it did so."""
    while True:
        with suppress(SensestreamError):
            async with aclosing(follow(link, keys, "0")) as events:
                async for event in events:
                    if isinstance(event, FollowedOutcome) and _is_removable(event.outcome, store):
                        await _quietly(store.remove, event.outcome.audio)
        await asyncio.sleep(1)


def _is_removable(outcome: Outcome, store: Store) -> bool:
    kept = outcome.error is not None and outcome.error.dead_letter
    return outcome.audio.startswith(store.prefix) and not kept


async def _sweep(store: Store) -> None:
    while True:
        await _quietly(store.sweep, time.time() - _KEPT_SECONDS)
        await asyncio.sleep(_SWEEP_SECONDS)


async def _quietly(work: Callable[[Any], object], argument: Any) -> None:
    """Do `work` in a thread. A later sweep finds the uploads that it fails to remove."""
    try:
        await asyncio.to_thread(work, argument)
    except Exception as error:
        log.warning("upload_not_removed", error=str(error))
