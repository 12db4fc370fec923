"""Registry of plug-ins with lazy import: the modules of a package, the user's own files, and the entry points of a group.

A plug-in is one file, registered under its file name, so that names are listed without importing anything. One that is broken
is an error where it is asked for, and takes nothing else away.
"""

from __future__ import annotations

import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any, Generic, TypeVar

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.user_files import user_files

T = TypeVar("T")


class Registry(Generic[T]):
    """All plug-ins of one kind, by name.

    Args:
        kind: name of an entry in messages, e.g. ``"method"``.
        package: the package whose modules are entries, e.g. ``"vpbench.methods"``.
        pick: selects the entry in an imported module, or validates the object that an entry point loads.
        group: entry-point group through which other distributions add entries, or None.
        folder: of the user's folders, whose files are entries, too, e.g. ``"methods"``; or None.
    """

    def __init__(
        self, kind: str, package: str, pick: Callable[[str, Any], T], group: str | None = None, folder: str | None = None
    ) -> None:
        self.kind, self._package, self._pick, self._group, self._folder = kind, package, pick, group, folder

    def _modules(self) -> set[str]:
        folders = tuple(import_module(self._package).__path__)
        changed = (Path(folder).stat().st_mtime_ns if Path(folder).is_dir() else 0 for folder in folders)
        return set(_modules_in(folders, tuple(changed)))

    def _files(self) -> dict[str, list[Path]]:
        """The user's, by name; several are a mistake, to be reported by who asks for it."""
        return user_files(self._folder) if self._folder else {}

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        """By name; several where distributions disagree on what it is."""
        found: dict[str, dict[str, EntryPoint]] = {}
        for point in entry_points(group=self._group) if self._group else ():
            found.setdefault(point.name, {})[point.value] = point
        return {name: list(points.values()) for name, points in found.items()}

    def has(self, name: str) -> bool:
        """Whether there is an entry of that name; imports nothing."""
        return name in self._modules() or name in self._files() or name in self._entry_points()

    def names(self) -> list[str]:
        """All names, sorted. Imports no entry."""
        return sorted(self._modules() | self._files().keys() | self._entry_points().keys())

    def working(self) -> Iterator[tuple[str, T]]:
        """Every entry that can be imported, by name; a warning of one line names each of the others, and collisions."""
        modules, points = self._modules(), self._entry_points()
        for name in self.names():
            if name in modules and name in points:
                hidden = f"{self.kind} '{name}' of {points[name][0].value} is hidden by vpbench's own: rename or uninstall it."
                warnings.warn(hidden, stacklevel=2)
            try:
                yield name, self.get(name)
            except UsageError as error:
                warnings.warn(f"{error} It is left out.", stacklevel=2)

    def _file(self, name: str) -> Path | None:
        """The user's file of that name, which nothing else may have."""
        files = self._files().get(name, [])
        others = [*map(str, files[1:]), *(["vpbench's own"] if name in self._modules() else [])]
        if files and others:
            raise UsageError(f"{self.kind} '{name}' is both {files[0]} and {others[0]}; rename yours.")
        return files[0] if files else None

    def _imported(self, name: str) -> ModuleType:
        module = f"{self._package}.{name}"
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "vpbench":
                raise self._broken(name, module, error) from error
            extra = f"an extra: pip install 'vpbench[{name}]'" if name in _extras() else "which is not installed"
            raise UsageError(f"{self.kind} '{name}' needs the library {error.name}, {extra}.") from error
        except (Exception, SystemExit) as error:
            raise self._broken(name, module, error) from error

    def _broken(self, name: str, place: str, error: BaseException) -> UsageError:
        """In one line; a plug-in may raise anything, and may call ``exit``."""
        said = " ".join(str(error).split())
        return UsageError(f"{self.kind} '{name}' cannot be imported from {place}: {type(error).__name__}: {said}.")

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UsageError: for an unknown name (with a suggestion) or an entry that cannot be imported.
        """
        if file := self._file(name):
            try:
                module = _imported_file(f"vpbench_user.{self._folder}.{name}", file)
            except (Exception, SystemExit) as error:
                raise self._broken(name, place_of(file, error), error) from error
            return self._pick(name, module)
        if name in self._modules():  # without looking at other distributions, which takes 50 ms
            return self._pick(name, self._imported(name))
        if name not in (names := self.names()):
            raise unknown(self.kind, name, names)
        point, *others = self._entry_points()[name]
        if others:
            raise UsageError(f"{self.kind} '{name}' is both {point.value} and {others[0].value}; uninstall one of them.")
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:
            raise self._broken(name, point.value, error) from error
        return self._pick(name, loaded)


@lru_cache(maxsize=256)  # a plan asks thousands of times
def _modules_in(folders: tuple[str, ...], _changed: tuple[int, ...]) -> frozenset[str]:
    """Names of the modules in folders; ``_changed`` is when each of these changed last."""
    return frozenset(info.name for info in pkgutil.iter_modules(folders) if not info.name.startswith("_"))


def _extras() -> set[str]:
    """Names of vpbench's extras; none in a checkout that is not installed."""
    try:
        return set(metadata("vpbench").get_all("Provides-Extra") or ())
    except PackageNotFoundError:
        return set()


def _imported_file(called: str, file: Path) -> ModuleType:
    """A file as the module ``called``, imported once per process, and again when it has changed.

    Raises:
        Exception, SystemExit: whatever the file raises.
    """
    state = (str(file), file.stat().st_mtime_ns, file.stat().st_size)
    known = sys.modules.get(called)
    if known is not None and getattr(known, "_vpbench_state", None) == state:
        return known
    spec = spec_from_file_location(called, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[called] = module_from_spec(spec)  # there before it runs, as for any import
    module._vpbench_state = state  # type: ignore[attr-defined]
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[called]
        raise
    return module


def place_of(file: Path, error: BaseException) -> str:
    """``FILE:LINE`` of what failed in a plug-in's file: a syntax error's own line, else the last line of it that was run."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno or 1)
    return f"{file}:{lines[-1]}" if lines else str(file)


def _is_part(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or one of its submodules."""
    return module == package or module.startswith(package + ".")


def subclass_in(base: type[T]) -> Callable[[str, Any], type[T]]:
    """A ``pick`` for :class:`Registry`: the one subclass of ``base`` in a module, or the class of an entry point."""

    def pick(name: str, found: Any) -> type[T]:
        if isinstance(found, ModuleType):
            own = [
                value
                for value in vars(found).values()
                if isinstance(value, type) and issubclass(value, base) and _is_part(value.__module__, found.__name__)
            ]
            if len(own) != 1:
                raise UsageError(f"'{name}': {found.__file__} must define one subclass of {base.__name__}, not {len(own)}.")
            return own[0]
        if isinstance(found, type) and issubclass(found, base):
            return found
        raise UsageError(f"'{name}': {found!r} is not a subclass of {base.__name__}.")

    return pick
