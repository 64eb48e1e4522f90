"""The service that repeats.py measures: a Redis cache before a model, as a tutorial has it.

    uvicorn tutorial:app          with TUTORIAL_REDIS, TUTORIAL_MODEL and TUTORIAL_THREADS set

In our own words and with its faults: the key is a hash of the first kilobyte, values are pickled,
the handler blocks the event loop for as long as Redis and the model take.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import tempfile
import warnings
from typing import Annotated, Any

from fastapi import FastAPI, Form, UploadFile
from redis import Redis

_KEPT = 86_400  # seconds

redis = Redis.from_url(os.environ["TUTORIAL_REDIS"])
app = FastAPI()


def _load() -> Any:
    warnings.simplefilter("ignore")
    from funasr_onnx import SenseVoiceSmall

    with contextlib.redirect_stdout(io.StringIO()):
        return SenseVoiceSmall(
            os.environ["TUTORIAL_MODEL"],
            batch_size=10,
            quantize=True,
            intra_op_num_threads=int(os.environ["TUTORIAL_THREADS"]),
        )


model = _load()


@app.post("/api/transcribe")
async def transcribe(
    file: UploadFile,
    language: Annotated[str, Form()] = "auto",
    use_itn: Annotated[bool, Form()] = True,
) -> dict[str, Any]:
    """The transcript, from the cache if the recording begins like one that was heard before."""
    content = await file.read()
    key = f"asr:{hashlib.md5(content[:1024]).hexdigest()}:{language}"
    kept = redis.get(key)
    if isinstance(kept, bytes):
        return {"status": "success", "data": pickle.loads(kept), "from_cache": True}
    with tempfile.NamedTemporaryFile(suffix=".wav") as copy:
        copy.write(content)
        copy.flush()
        [text] = model(copy.name, language=language, use_itn=use_itn)
    redis.setex(key, _KEPT, pickle.dumps(text))
    return {"status": "success", "data": text, "from_cache": False}
