"""The configuration read: TOML and command line into values, with all that is wrong at once."""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final, Literal, cast, get_args, get_origin

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from ..paths import default_socket_path, default_store_path
from .limits import problems_of
from .sources import DEFAULT, Sources, read_sources
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration, and where its values were read."""

    config: Config
    sources: Sources


def load_config(
    path: str | None,
    *,
    socket: str | None,
    root: str | None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read everything that a daemon is told; see `load`."""
    return load(path, socket=socket, root=root, environment=environment).config


def load(
    path: str | None,
    *,
    socket: str | None,
    root: str | None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the file, its drop-ins and the environment; the command line has the last word.

    Args:
        path: The TOML file; defaults only when `None`.
        socket: Replaces `daemon.socket`.
        root: Replaces all backends by one filesystem store, `local`, in this directory.
        environment: Where variables are; this process's when `None`.

    Raises:
        ConfigurationError: Something cannot be read or breaks the schema. Every line of it
            names the file or variable, and the key.
    """
    sources = read_sources(path, os.environ if environment is None else environment)
    if socket:
        sources.put({"daemon": {"socket": socket}}, "--socket")
    elif sources.get("daemon", "socket") in (None, "") and not sources.tables.get("socket"):
        sources.put({"daemon": {"socket": default_socket_path()}}, DEFAULT)
    if root is not None:
        sources.replace("backend", {"local": _store(root)}, "--root")
    elif not sources.tables.get("backend"):
        sources.replace("backend", {"local": _store(default_store_path())}, DEFAULT)
    config = _structure(sources)
    problems = problems_of(config)
    if problems:
        lines = (_with_origin(each.partition(":")[0], each, sources) for each in problems)
        raise ConfigurationError("\n".join(lines))
    return Loaded(config=config, sources=sources)


def _store(root: str) -> dict[str, object]:
    return {"type": "filesystem", "root": root}


def _structure(sources: Sources) -> Config:
    try:
        return _CONVERTER.structure(sources.tables, Config)
    except cattrs.BaseValidationError as exc:
        found = cattrs.transform_error(exc, path="", format_exception=_describe)
    problems = [each for problem in found for each in _tidy(problem)]
    lines = (_with_origin(key, problem, sources) for key, problem in problems)
    raise ConfigurationError("\n".join(lines))


def _with_origin(key: str, problem: str, sources: Sources) -> str:
    """Put the name of the file or variable before a problem."""
    return f"{sources.origin_of(key)}: {problem}"


def _describe(exc: BaseException, _type: type | None) -> str:
    if isinstance(exc, ForbiddenExtraKeysError):
        return "\n".join(_describe_unknown(key, exc.cl) for key in sorted(exc.extra_fields))
    if isinstance(exc, KeyError):
        return "is missing"
    return str(exc)


def _describe_unknown(key: str, table: type) -> str:
    known = [field.name for field in dataclasses.fields(table)]
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _tidy(problem: str) -> Iterator[tuple[str, str]]:
    """Give the key of each line of a problem, and the line with where it is."""
    what, _, where = problem.rpartition(" @ ")
    table = re.sub(r"\['([^']*)'\]", r".\1", where).strip(".")
    for line in what.splitlines():
        unknown = re.match(r"unknown key '([^']*)'", line)
        key = ".".join(part for part in (table, unknown and unknown[1]) if part)
        yield key, f"{table}: {line}" if table else line


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in (
        (bool, (bool,)),
        (int, (int,)),
        (float, (int, float)),
        (str, (str,)),
    ):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    converter.register_structure_hook_func(_is_choice, _choose)
    converter.register_structure_hook_func(_is_list, _structure_list)
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


def _is_list(kind: object) -> bool:
    return get_origin(kind) == Sequence


def _structure_list(value: object, kind: Any) -> object:
    if not isinstance(value, list):
        raise ValueError(f"is {value!r}, must be a list")  # noqa: TRY004 - as for all values
    tuple_of: Any = tuple
    return _CONVERTER.structure(value, tuple_of[get_args(kind)[0], ...])


def _is_choice(kind: object) -> bool:
    return get_origin(kind) == Literal


def _choose(value: object, kind: Any) -> object:
    words = get_args(kind)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"is {value!r}, must be one of {', '.join(words)}")
    return value


_CONVERTER: Final = _make_converter()
