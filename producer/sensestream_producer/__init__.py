"""The client side of a Sensestream pipeline: submit speech, follow its transcripts.

    async with Client("redis://127.0.0.1:6379/0") as client:
        outcome = await client.transcribe("file:///data/a.wav")

Code without an event loop uses `sensestream_producer.blocking.Client`; tests without Redis use
`sensestream_producer.testing`. The import reads no environment and opens no connection.
"""

from sensestream_common import __version__
from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.errors import (
    BacklogFull,
    ErrorCode,
    PipelineError,
    RedisUnavailable,
    RequestError,
    SensestreamError,
    SettingsError,
    SubmitRefused,
    WaitTimeout,
)
from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.transcript import Segment, Word
from sensestream_common.settings import load_settings

from sensestream_producer.client import Client
from sensestream_producer.operations.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetters,
    Replay,
    ReplayResult,
)
from sensestream_producer.operations.status import PipelineStatus, RequestStatus, WorkerStatus
from sensestream_producer.outcomes.follower import FollowedOutcome, Gap, GapReason
from sensestream_producer.settings import ProducerSettings
from sensestream_producer.submit.submission import Receipt, Submission, SubmitOptions

__all__ = [
    "AudioWarning",
    "BacklogFull",
    "CacheUse",
    "Client",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetters",
    "ErrorCode",
    "FollowedOutcome",
    "Gap",
    "GapReason",
    "Lane",
    "Outcome",
    "PipelineError",
    "PipelineStatus",
    "ProducerSettings",
    "Receipt",
    "RedisUnavailable",
    "Replay",
    "ReplayResult",
    "RequestError",
    "RequestStatus",
    "Segment",
    "SensestreamError",
    "SettingsError",
    "Status",
    "Submission",
    "SubmitOptions",
    "SubmitRefused",
    "WaitTimeout",
    "Word",
    "WorkerStatus",
    "__version__",
    "load_settings",
]
