"""The client side of a Sensestream pipeline: submit speech, follow its transcripts.

    async with Client("redis://127.0.0.1:6379/0") as client:
        outcome = await client.transcribe("file:///data/a.wav")

Code without an event loop takes `sensestream_producer.blocking.Client`, tests without Redis take
`sensestream_producer.testing`. Importing it reads no environment and opens no connection.
"""

from sensestream_common import __version__
from sensestream_common.errors import (
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
from sensestream_common.keys import Lane
from sensestream_common.outcome import CacheUse, Outcome, Status
from sensestream_common.settings import load_settings
from sensestream_common.transcript import Segment, Word

from sensestream_producer.client import Client
from sensestream_producer.follow import Followed, Gap, GapReason
from sensestream_producer.letters import (
    DeadLetter,
    DeadLetters,
    Replay,
    ReplayResult,
    Selection,
)
from sensestream_producer.settings import ProducerSettings
from sensestream_producer.status import PipelineStatus, RequestStatus, WorkerStatus
from sensestream_producer.submission import Receipt, Submission, SubmitOptions

__all__ = [
    "BacklogFull",
    "CacheUse",
    "Client",
    "DeadLetter",
    "DeadLetters",
    "ErrorCode",
    "Followed",
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
    "Selection",
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
