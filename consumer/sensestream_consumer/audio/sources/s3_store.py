"""Read single objects of an S3 store, and translate its errors. Needs the extra `[s3]`.

botocore alone: Amazon's own chain of credentials (environment, ~/.aws, single sign-on, container
and instance roles), its endpoint and region settings. It blocks; `s3` calls it from threads.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import botocore.session
import urllib3
from botocore import exceptions as failures
from botocore.config import Config
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

from sensestream_consumer.audio.policy import AudioPolicy, too_large
from sensestream_consumer.audio.sources.reference import Reference
from sensestream_consumer.audio.spool import Spool

if TYPE_CHECKING:
    from sensestream_consumer.audio.spool import Fetched

__all__ = ["S3Store"]

# At DEBUG botocore logs requests with their signatures.
logging.getLogger("botocore").setLevel(logging.INFO)

_CONNECT_TIMEOUT = 10.0  # seconds; a store that does not answer by then is down
_READ = 64 * 1024  # bytes; between two reads a thread looks whether anybody still waits
_GONE = {404, 410}
_FORBIDDEN = {401, 403}
_PASSING = {408, 429}
# Among the answers of 400 are some that pass: a slow sender, credentials about to be renewed.
_PASSING_CODES = {
    "RequestTimeout",
    "ExpiredToken",
    "SlowDown",
    "Throttling",
    "RequestLimitExceeded",
}
_SETUP = (
    failures.NoCredentialsError,
    failures.PartialCredentialsError,
    failures.ProfileNotFound,
    failures.ConfigParseError,
    failures.InvalidConfigError,
)


class S3Store:
    """The store of the environment and ~/.aws; safe to use from any number of threads."""

    def __init__(self, policy: AudioPolicy, *, connections: int) -> None:
        self._limit = policy.max_bytes
        self._config = Config(
            connect_timeout=min(_CONNECT_TIMEOUT, policy.fetch_timeout / 2),
            read_timeout=policy.fetch_timeout,
            max_pool_connections=connections,
            retries={"total_max_attempts": 1},  # the worker tries again, as for any other audio
            user_agent_extra="sensestream-worker",
        )
        self._client: Any = None
        self._connecting = threading.Lock()

    def copy(self, reference: Reference, bucket: str, key: str, stop: threading.Event) -> Fetched:
        """Copy an object of at most `policy.max_bytes` bytes until `stop` is set; blocking."""
        try:
            answer = self._connected().get_object(Bucket=bucket, Key=key)
            with closing(answer["Body"]) as body, Spool(reference.display, self._limit) as spool:
                if answer.get("ContentLength", 0) > self._limit:
                    raise too_large(reference.display, self._limit)
                while not stop.is_set() and (data := body.read(_READ)):
                    spool.write(data)
                return spool.finish(_media_type(answer))
        except failures.ClientError as error:
            raise _refused(reference, error) from error
        except failures.BotoCoreError as error:
            raise _failed(reference, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:  # in the middle of a body
            raise _broken(reference, error) from error

    def _connected(self) -> Any:
        # Making a client is not thread-safe, using it is. One that could not be made is tried
        # again: a profile may have been written meanwhile.
        with self._connecting:
            if self._client is None:
                self._client = _connect(self._config)
            return self._client


def _connect(config: Config) -> Any:
    try:
        return botocore.session.get_session().create_client("s3", config=config)
    except ValueError as error:  # its words for an endpoint that is no URL
        message = f"the worker's object store cannot be reached: {error}; check AWS_ENDPOINT_URL"
        raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, message) from error


def _media_type(answer: dict[str, Any]) -> str:
    return str(answer.get("ContentType", "")).partition(";")[0].strip().lower()[:100]


def _refused(reference: Reference, error: Any) -> RequestError:
    """What the store answered instead of an object."""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = re.sub(r"[^A-Za-z0-9.]", "", str(error.response.get("Error", {}).get("Code", "")))[:60]
    answer = f"{reference}: the store answered {status} ({code or 'no reason'})"
    if status in _PASSING or status >= 500 or code in _PASSING_CODES:
        return TransientError(ErrorCode.AUDIO_UNAVAILABLE, answer)
    if status in _GONE:
        return RequestError(ErrorCode.AUDIO_NOT_FOUND, f"{answer}; check bucket and key")
    if status in _FORBIDDEN:
        message = (
            f"{answer}; let the worker's credentials read it (s3:GetObject; without s3:ListBucket "
            "the same is answered for a key that does not exist)"
        )
        return RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
    message = f"{answer}; check the bucket's region and the worker's AWS settings"
    return RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)


def _failed(reference: Reference, error: Exception) -> RequestError:
    """Why no answer came."""
    if isinstance(error, failures.ParamValidationError):
        message = f"{reference} is no bucket and key that S3 knows; write s3://bucket/name.wav"
        return RequestError(ErrorCode.BAD_REQUEST, message)
    if isinstance(error, _SETUP):
        message = (
            f"{reference}: the worker has no credentials for the store ({type(error).__name__}); "
            "give it some by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws or a role"
        )
        return RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
    if isinstance(error, failures.SSLError):
        message = f"{reference}: the store's certificate is not trusted (see AWS_CA_BUNDLE)"
        return RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)
    return _broken(reference, error)


def _broken(reference: Reference, error: Exception) -> TransientError:
    message = f"{reference}: the store could not be read ({type(error).__name__})"
    return TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)
