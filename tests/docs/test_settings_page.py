"""docs/settings.md lists every setting as the code has it."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
from sensestream_common.settings import PipelineSettings
from sensestream_consumer.settings import WorkerSettings
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.settings import ProducerSettings

from tests.packaging.workspace import ROOT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_page", ROOT / "tools/settings_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_code_says(generator: ModuleType) -> None:
    page = generator.PAGE.read_text("utf-8")
    assert page == generator.written(page), "run: python tools/settings_page.py"


def test_every_setting_has_exactly_one_row(generator: ModuleType) -> None:
    rows = re.findall(r"^\| `SENSESTREAM_(\w+)`", generator.PAGE.read_text("utf-8"), re.MULTILINE)
    kinds = (PipelineSettings, ProducerSettings, WorkerSettings, GatewaySettings)
    every = {name for kind in kinds for name in kind.model_fields}
    assert sorted(name.lower() for name in rows) == sorted(every)


def test_a_setting_that_no_table_names_comes_into_the_one_without_names(
    generator: ModuleType,
) -> None:
    page = generator.written(
        "<!-- settings: client max_upload_bytes -->\n<!-- end -->\n"
        "<!-- settings: worker -->\n<!-- end -->\n"
    )
    assert page.count("SENSESTREAM_MAX_UPLOAD_BYTES") == 1
    assert (
        "| `SENSESTREAM_MAX_ATTEMPTS` | `3` | 1 to 1000 | Starts before the dead letter. |" in page
    )


def test_a_name_that_is_no_setting_is_refused(generator: ModuleType) -> None:
    with pytest.raises(KeyError, match="max_attemps"):
        generator.written("<!-- settings: worker max_attemps -->\n<!-- end -->")
