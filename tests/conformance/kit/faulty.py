"""Runs a program some of whose modules have faults planted in their source.

    faulty.py FAULTS -m MODULE [ARG...]
    faulty.py FAULTS SCRIPT [ARG...]

FAULTS is a JSON list of `[module, old, new]`. The old text must be there: a fault that is not
planted would be caught by nobody and prove nothing.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType


class Planter(importlib.abc.MetaPathFinder):
    def __init__(self, faults: Sequence[tuple[str, str, str]]) -> None:
        self._faults = faults

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        faults = [(old, new) for module, old, new in self._faults if module == fullname]
        if not faults:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Loader(fullname, spec.origin, faults)
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__(fullname, path)
        self._faults = faults

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text(encoding="utf-8")
        for old, new in self._faults:
            if old not in source:
                sys.exit(f"{fullname} does not contain {old!r}")
            source = source.replace(old, new)
        return compile(source, self.path, "exec")


def main() -> None:
    faults, program, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, Planter(json.loads(faults)))
    if program == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(program).parent)
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
