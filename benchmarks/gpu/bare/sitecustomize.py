"""Stand-ins for packages of Flockstep's that a plain run on loopback never uses, where a machine lacks them.

Python loads this at its start when this folder is on PYTHONPATH. A package that is installed is used as ever.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: Encryption, tokens, compression and pages: what is imported at the start and used only where it is asked for.
UNUSED = {"cryptography", "hypothesis", "jwt", "prometheus_client", "starlette", "uvicorn", "zstandard"}


class Missing(type):
    """A name of a package that is not there: it may be inherited from, caught and named, but not used."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{cls.__name__}.{name}", (Exception,), {})

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        if sys._getframe(1).f_code.co_name == "<module>":  # a constant, such as which hash is used
            return Missing(f"{cls.__name__}()", (Exception,), {})
        raise ModuleNotFoundError(f"{cls.__name__} is used, but its package is not installed: pip install it")


class MissingModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self.__name__}.{name}", (Exception,), {})


class Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in UNUSED:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return MissingModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.path.append(str(Path(__file__).with_name("packages")))
sys.meta_path.append(Finder())
