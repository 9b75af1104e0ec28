"""The configuration read: TOML and command line into values, with all that is wrong at once."""

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final, cast

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from ..paths import default_socket_path, default_store_path
from .limits import problems_of
from .values import (
    BACKEND_TYPES,
    BackendConfig,
    Config,
    ConfigurationError,
    CredentialSource,
    SideConfig,
    ThirdPartyConfig,
)

#: Where distributions announce the types of backends that they bring.
ENTRY_POINT_GROUP: Final = "dataplaned.backends"


def load_config(path: str | None, *, socket: str | None, root: str | None) -> Config:
    """Read the file, if there is one, and let the command line have the last word.

    Args:
        path: The TOML file; defaults only when `None`.
        socket: Replaces `daemon.socket`.
        root: Replaces all backends by one filesystem store, `local`, in this directory.

    Raises:
        ConfigurationError: The file cannot be read or breaks the schema.
    """
    tables = {} if path is None else _read(path)
    for name in ("daemon", "backend"):
        if type(tables.setdefault(name, {})) is not dict:
            raise ConfigurationError(f"{path}: {name}: must be a table")
    daemon = cast("dict[str, object]", tables["daemon"])
    if socket or daemon.get("socket", "") == "":
        daemon["socket"] = socket or default_socket_path()
    if root is not None or not tables["backend"]:
        tables["backend"] = {"local": {"type": "filesystem", "root": root or default_store_path()}}
    config = _structure(tables, path or "command line")
    problems = problems_of(config)
    if problems:
        name = path or "command line"
        raise ConfigurationError("\n".join(f"{name}: {problem}" for problem in problems))
    return config


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigurationError(f"{path}: {os.strerror(exc.errno or 0)}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def _structure(tables: dict[str, Any], name: str) -> Config:
    try:
        return _CONVERTER.structure(tables, Config)
    except cattrs.BaseValidationError as exc:
        problems = cattrs.transform_error(exc, path="", format_exception=_describe)
    raise ConfigurationError("\n".join(f"{name}: {_tidy(problem)}" for problem in problems))


def _describe(exc: BaseException, _type: type | None) -> str:
    if isinstance(exc, ForbiddenExtraKeysError):
        return ", ".join(_describe_unknown(key, exc.cl) for key in sorted(exc.extra_fields))
    if isinstance(exc, KeyError):
        return "is missing"
    return str(exc)


def _describe_unknown(key: str, table: type) -> str:
    known = [field.name for field in dataclasses.fields(table)]
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _tidy(problem: str) -> str:
    what, _, where = problem.rpartition(" @ ")
    key = re.sub(r"\['([^']*)'\]", r".\1", where).strip(".")
    return f"{key}: {what}" if key else what


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in (
        (bool, (bool,)),
        (int, (int,)),
        (float, (int, float)),
        (str, (str,)),
    ):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    # Before the tables, whose hooks look for those of their fields.
    sides = {kind: table for kind, table in BACKEND_TYPES.items() if kind != "mirror"}
    converter.register_structure_hook(SideConfig, _structure_backend(sides))
    converter.register_structure_hook(BackendConfig, _structure_backend(BACKEND_TYPES))
    for table in (CredentialSource, *BACKEND_TYPES.values()):
        converter.register_structure_hook(
            table,
            make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True),
        )
    return converter


def _structure_backend(types: Mapping[str, type[BackendConfig]]) -> Any:
    def structure(table: object, _: object) -> BackendConfig:
        settings = cast("dict[str, object]", table) if isinstance(table, dict) else {}
        kind = settings.get("type")
        if isinstance(kind, str) and kind in types:
            return _CONVERTER.structure(table, types[kind])
        installed = {found.name for found in entry_points(group=ENTRY_POINT_GROUP)}
        if not isinstance(kind, str) or kind not in installed - set(BACKEND_TYPES):
            known = ", ".join((*types, *sorted(installed)))
            raise ValueError(f"type is {kind!r}, must be one of {known}")
        others = {name: value for name, value in settings.items() if name != "type"}
        return ThirdPartyConfig(type=kind, settings=others)

    return structure


def _strict(kind: type, accepted: tuple[type, ...]) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) not in accepted:  # true is an integer to isinstance
            raise ValueError(f"is {value!r}, must be {kind.__name__}")
        return kind(value)

    return structure


_CONVERTER: Final = _make_converter()
