"""The clients of the pipeline in memory; every verb not defined here is the real clients'."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, Unpack

from sensestream_common.contract.outcome import Outcome, outcome_from_json

from sensestream_producer import blocking, client as real
from sensestream_producer.operations.status import PipelineStatus, RequestStatus, WorkerStatus
from sensestream_producer.outcomes.follower import FollowedOutcome, Gap, GapReason
from sensestream_producer.outcomes.stream_ids import ORIGIN, StreamId, id_text, parse_id
from sensestream_producer.outcomes.wait_limit import wait_limit
from sensestream_producer.outcomes.waiter import closed_meanwhile, no_longer_kept, not_kept
from sensestream_producer.settings import MAX_UPLOAD_BYTES
from sensestream_producer.submit.pending import backlog_full
from sensestream_producer.submit.submission import Receipt, RequestState, Submission, SubmitOptions
from sensestream_producer.submit.uploads import BoundedReader
from sensestream_producer.testing.dead_letters import ScriptedLetters
from sensestream_producer.testing.script import digest_of
from sensestream_producer.testing.store import Store
from sensestream_producer.testing.worker import MODEL, WORKER, ScriptedWorker

__all__ = ["BlockingClient", "Client"]

_REWIND_MS = 60_000

T = TypeVar("T")


class Client(real.Client):
    """An asyncio client of a `ScriptedPipeline`, which makes it.

    The methods are those of `sensestream_producer.Client`, and are documented there.
    """

    def __init__(
        self,
        store: Store,
        worker: ScriptedWorker,
        *,
        max_backlog: int = 1_000_000,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
    ) -> None:
        # The real client's __init__ is not called: it would need a Redis.
        self.keys = store.keys
        self.dead = ScriptedLetters(store, worker, max_backlog=max_backlog)
        self._store = store
        self._worker = worker
        self._max_backlog = max_backlog
        self._reader = BoundedReader(max_upload_bytes)
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        self._store.changed.notify()

    async def ping(self) -> None:
        with self._store.step():
            pass

    async def transcribe(
        self,
        audio: str | Path | bytes | Submission,
        *,
        timeout: float | None = 60.0,
        **options: Unpack[SubmitOptions],
    ) -> Outcome:
        submission = real.identified(audio, options)
        async with wait_limit(submission.id, timeout):
            mark = self._store.last
            receipt = await self._send(submission)
            if receipt.state == RequestState.DONE:
                return self._fetch(receipt)
            return await self._until(lambda: self._outcome(mark, entry=receipt.entry))

    async def wait(self, request_id: str, *, timeout: float | None = 60.0) -> Outcome:
        async with wait_limit(request_id, timeout):
            mark = self._store.last
            return await self._until(lambda: self._answer(request_id, mark))

    async def follow(self, position: str = "$") -> AsyncGenerator[FollowedOutcome | Gap]:
        start = None if position == "$" else parse_id(position)
        with self._store.step():
            at = self._store.last if start is None else start
        with self._store.changed.subscribe() as changed:
            while True:
                changed.clear()
                with self._store.step():
                    events, at = self._behind(at)
                for event in events:
                    yield event
                if not events:
                    await changed.wait()

    async def position(self) -> str:
        with self._store.step():
            return id_text(self._store.last)

    async def listen(self) -> AsyncGenerator[Outcome]:
        async with aclosing(self.follow("$")) as events:
            async for event in events:
                if isinstance(event, FollowedOutcome):
                    yield outcome_from_json(event.outcome.dumps())

    async def status(self, request_id: str) -> RequestStatus | None:
        with self._store.step():
            record = self._store.records.get(request_id)
            if record is None:
                return None
            kept = self._store.outcomes.get(parse_id(record.outcome)) if record.outcome else None
            return RequestStatus(
                id=request_id,
                state=record.state,
                entry=record.entry,
                lane=record.lane,
                status=record.status,
                outcome=kept,
            )

    async def pipeline_status(self) -> PipelineStatus:
        with self._store.step() as now:
            queued = list(self._store.queued.values())
            high = sum(each.lane == "high" for each in queued)
            picked_up = sum(each.picked_up for each in queued)
            ages = [now - parse_id(each.entry)[0] for each in queued]
            worker = WorkerStatus(
                consumer=WORKER, model=MODEL, device="memory", in_flight=picked_up
            )
            return PipelineStatus(
                backlog=len(queued) - high,
                backlog_high=high,
                pending=picked_up,
                oldest_ms=max(ages) if ages else None,
                transcripts=len(self._store.outcomes),
                dead=len(self._store.letters),
                workers=() if self._worker.away else (worker,),
                counters=dict(sorted(self._store.counters.items())),
            )

    async def _submit(self, submission: Submission) -> Receipt:
        request = submission.request(submission.id, self.keys)
        lane, time_left = submission.lane, submission.time_left
        content = None
        if not isinstance(submission.audio, str):
            content = await self._read(submission.audio)
            request = replace(request, digest=digest_of(content))
        with self._store.step() as now:
            if duplicate := self._duplicate(request.id):
                return duplicate
            backlog = len(self._store.queued)
            if backlog >= self._max_backlog:
                self._store.count("refused")
                raise backlog_full(self.keys, backlog, self._max_backlog)
            deadline = request.deadline if time_left is None else now + time_left
            request = replace(request, submitted_at=now, deadline=deadline)
            if content is not None:
                self._store.uploads[self.keys.upload(request.id)] = content
                self._store.upload_ends.pop(self.keys.upload(request.id), None)
            receipt = Receipt(id=request.id, entry=self._store.add(request, lane, now), lane=lane)
            self._worker.work(now)
            return receipt

    async def _read(self, source: Path | bytes) -> bytes:
        async with aclosing(self._reader.chunks(source)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    def _duplicate(self, request_id: str) -> Receipt | None:
        record, unanswered = self._store.find(request_id)
        if record is None or not (unanswered or record.status == "completed"):
            return None
        self._store.count("duplicates")
        return Receipt(
            id=request_id,
            entry=record.entry,
            lane=record.lane,
            duplicate=True,
            state=record.state,
            status=record.status,
            outcome=record.outcome,
        )

    async def _until(self, look: Callable[[], T | None]) -> T:
        """The first result of `look` that is not None, now or after a change."""
        with self._store.changed.subscribe() as changed:
            while True:
                changed.clear()
                if self._closed:
                    raise closed_meanwhile()
                with self._store.step():
                    if (found := look()) is not None:
                        return found
                await changed.wait()

    def _fetch(self, receipt: Receipt) -> Outcome:
        with self._store.step():
            kept = self._store.outcomes.get(parse_id(receipt.outcome))
        if kept is None:
            raise no_longer_kept(receipt.id, receipt.outcome)
        return kept

    def _outcome(self, mark: StreamId, *, entry: str = "", request_id: str = "") -> Outcome | None:
        behind = (outcome for _, outcome in self._store.since(mark))
        return next((o for o in behind if o.entry == entry or o.id == request_id), None)

    def _answer(self, request_id: str, mark: StreamId) -> Outcome | None:
        record = self._store.records.get(request_id)
        if record is None or record.state != RequestState.DONE:
            return self._outcome(mark, request_id=request_id)
        kept = self._store.outcomes.get(parse_id(record.outcome))
        if kept is None:
            raise not_kept(request_id, record.outcome)
        return kept

    def _behind(self, at: StreamId) -> tuple[list[FollowedOutcome | Gap], StreamId]:
        """The events behind a position, and the position behind them."""
        last, trimmed = self._store.last, self._store.trimmed
        if last < at:
            to = (max(0, last[0] - _REWIND_MS), 0)
            return [Gap(id_text(to), GapReason.REWOUND, id_text(last), id_text(at))], to
        events: list[FollowedOutcome | Gap] = []
        if ORIGIN < at < trimmed:
            lost = id_text(trimmed)
            events.append(Gap(lost, GapReason.TRIMMED, id_text(at), lost))
            at = trimmed
        behind = self._store.since(at)
        events += [FollowedOutcome(id_text(stream_id), outcome) for stream_id, outcome in behind]
        return events, behind[-1][0] if behind else at


class BlockingClient(blocking.Client):
    """A blocking client of a `ScriptedPipeline`, which makes it."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._set_up(make)
