"""Write the tables of docs/settings.md from the settings as the code has them.

A table stands between `<!-- settings: WHOSE NAME… -->` and `<!-- end -->`. WHOSE is `common`,
`client`, `worker` or `gateway`; without names the table takes all of theirs that no other table
names, so that a new setting appears by itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sensestream_common.settings import ENVIRONMENT_PREFIX, PipelineSettings
from sensestream_consumer.settings import WorkerSettings
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.settings import ProducerSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
SETTINGS: dict[str, type[PipelineSettings]] = {
    "common": PipelineSettings,
    "client": ProducerSettings,
    "worker": WorkerSettings,
    "gateway": GatewaySettings,
}
# Whose settings these have too, with the same meaning: each stands in one table only.
ALSO: dict[str, tuple[str, ...]] = {
    "client": ("common",),
    "worker": ("common",),
    "gateway": ("common", "client", "worker"),
}
# What a default that is found out at the start comes to.
FOUND_OUT = {"concurrency": "the cores it may use", "audio_roots": "the working directory"}
TAKES = {"device": "`auto`, `cpu`, `cuda`, `cuda:1` …"}

_TABLE = re.compile(r"<!-- settings: (\w+)((?: \w+)*) -->\n.*?<!-- end -->", re.DOTALL)
_HEAD = "| setting | default | takes | meaning |\n|---|---|---|---|\n"


def main() -> int:
    before = PAGE.read_text("utf-8")
    after = written(before)
    PAGE.write_text(after, "utf-8")
    print(f"{PAGE.name}: {'written anew' if after != before else 'nothing to do'}")
    return 0


def written(page: str) -> str:
    """The page with every table as the code has it; KeyError for a name that is no setting."""
    named = {name for _, names in _TABLE.findall(page) for name in names.split()}

    def table(match: re.Match[str]) -> str:
        whose, names = match[1], match[2].split()
        rows = [row(name, fields(whose)[name]) for name in names or unnamed(whose, named)]
        return f"<!-- settings: {whose}{match[2]} -->\n{_HEAD}{''.join(rows)}<!-- end -->"

    return _TABLE.sub(table, page)


def fields(whose: str) -> dict[str, FieldInfo]:
    """The settings of these processes, without those that another table has."""
    elsewhere = {name for other in ALSO.get(whose, ()) for name in SETTINGS[other].model_fields}
    return {name: of for name, of in SETTINGS[whose].model_fields.items() if name not in elsewhere}


def unnamed(whose: str, named: set[str]) -> list[str]:
    return [name for name in fields(whose) if name not in named]


def row(name: str, field: FieldInfo) -> str:
    cells = (f"`{ENVIRONMENT_PREFIX}{name.upper()}`", default(name, field), takes(name, field))
    return f"| {' | '.join(cells)} | {field.description} |\n"


def default(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return FOUND_OUT[name]
    if value in ("", ()):
        return "–"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{int(value) if isinstance(value, bool) else value}`"


def takes(name: str, field: FieldInfo) -> str:
    if name in TAKES:
        return TAKES[name]
    if field.annotation is bool:
        return "`0`, `1`"
    if field.annotation not in (int, float):
        return "text" if field.annotation is str else "a list"
    low, high = bound(field, "ge"), bound(field, "le")
    above = f"above {bound(field, 'gt')}" if low is None else f"from {low}"
    return above if high is None else f"{above} to {high}".removeprefix("from ")


def bound(field: FieldInfo, kind: str) -> Any:
    return next((getattr(each, kind) for each in field.metadata if hasattr(each, kind)), None)


if __name__ == "__main__":
    sys.exit(main())
