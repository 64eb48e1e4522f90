"""Flags of a command line for every setting: named, described and typed as the settings are.

It needs the extra `[cli]`, which the distributions with a command line require.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sensestream_common.settings import ENVIRONMENT_PREFIX, PipelineSettings

__all__ = ["settings_flags"]

Command = Callable[..., Any]


def settings_flags(
    kind: type[PipelineSettings], *, without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """A decorator that gives a click command a flag for each setting of `kind`.

    A flag that is not given is `None`, so that `load_settings` looks into the environment.
    """

    def decorate(command: Command) -> Command:
        for name, field in reversed(kind.model_fields.items()):
            if name not in without:
                command = _option(name, field)(command)
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    flag = "--" + name.replace("_", "-")
    variable = ENVIRONMENT_PREFIX + name.upper()
    text = f"{field.description}  [{variable}{_default(field)}]"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    kind = field.annotation if field.annotation in (int, float) else str
    return click.option(flag, name, type=kind, default=None, help=text, metavar=_metavar(field))


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined or default in ("", ()):
        return ""
    if isinstance(default, tuple):
        return f", default {','.join(map(str, default))}"
    shown = {True: "1", False: "0"}.get(default, default) if isinstance(default, bool) else default
    return f", default {shown}"


def _metavar(field: FieldInfo) -> str:
    if field.annotation is int or field.annotation is float:
        return "NUMBER"
    return "LIST" if get_args(field.annotation) else "TEXT"
