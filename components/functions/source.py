"""Where the code of a user's function is, and the digest that pins it. Imports nothing of the user's."""

import ast
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from components.config.function import FUNCTION

OURS = __name__.partition(".")[0]


class Source(NamedTuple):
    """The code that a function begins in."""

    path: Path
    """File of its module."""
    root: Path
    """Directory that its module is imported from, and in which what it imports is pinned as well."""
    module: str
    """Name of the module, as it is imported from `root`."""
    name: str
    """Name of the function."""
    version: str | None
    """Version of the distribution; None for a file of the user's, empty for our own, which its code pins."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file of the user's rather than an installed module."""
        return self.version is None


def find_source(function: str) -> Source:
    """Return where a function is.

    Args:
        function: `FILE.py:NAME`, absolute or relative to the working directory, or `package.module:NAME`.

    Raises:
        ValueError: There is no such file or module.
    """
    match = FUNCTION.fullmatch(function)
    assert match is not None, function
    if match["file"]:
        path = Path(match["file"]).expanduser().absolute()
        if not path.is_file():
            raise ValueError(f"function {function}: the file {path} does not exist: name a Python file, or a module")
        return Source(path, path.parent, path.stem, match["name"], None)
    module = match["module"]
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        spec = None
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    if spec is not None and spec.origin and not roots:
        roots = [Path(spec.origin)]
    for root in roots:
        file = _module_file(root.joinpath(*rest)) if root.is_dir() else (None if rest else root)
        if file is not None:
            return Source(file, root.parent, module, match["name"], "" if first == OURS else _version(first))
    raise ValueError(
        f"function {function}: there is no module {module}: install it, or name a file, such as ./my_rewards.py:score"
    )


def code_digest(function: str) -> str:
    """Return the sha256 over the code that a function runs, as far as it can be known without running it.

    That is its own file and, recursively, the modules that these files import from the same directory, or from the same
    package of an installed one, whose version counts too. Data that the code reads, what it imports by a name made at
    run time, and other installed packages are not part of it.

    Raises:
        ValueError: As `find_source`, or a file is not Python.
    """
    source = find_source(function)
    total = hashlib.sha256(f"{source.module}:{source.name} {source.version}\n".encode())
    for path in sorted(_reachable(source, function)):
        content = path.read_bytes()
        total.update(f"{path.relative_to(source.root)} {len(content)}\n".encode() + content)
    return total.hexdigest()


def _reachable(source: Source, function: str) -> set[Path]:
    """Return the files that the function's module consists of and imports, its own first."""
    if source.path.name == "__init__.py" and not source.is_file:
        # A package's __init__ may import its modules by name only, when they are used.
        waiting = sorted(source.path.parent.rglob("*.py"))
    else:
        waiting = [source.path]
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for name in _imports(path, source.root, function):
            if source.is_file or name.split(".")[0] == source.module.split(".")[0]:
                waiting += _files(source.root, name)
    return reached


def _imports(path: Path, root: Path, function: str) -> Iterator[str]:
    """Yield the full names of everything that a file imports; a name may be of a module or of what is in one."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f" line {line}" if line else ""
        reason = getattr(error, "msg", str(error))
        raise ValueError(f"function {function}: {path}{place} is not valid Python ({reason}): correct it") from None
    package = path.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from (f"{module}.{alias.name}" if module else alias.name for alias in node.names)


def _files(root: Path, name: str) -> list[Path]:
    """Return the files below `root` that an import of a name runs: each package's, and the module's own."""
    files, place = [], root
    for part in name.split("."):
        place = place / part
        path = _module_file(place)
        if path is None:
            break
        files.append(path)
    return files


def _module_file(place: Path) -> Path | None:
    package, module = place / "__init__.py", place.with_name(f"{place.name}.py")
    return next((path for path in (package, module) if path.is_file()), None)


@cache
def _version(package: str) -> str:
    distributions = importlib.metadata.packages_distributions().get(package, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(distributions))) or "unknown"
