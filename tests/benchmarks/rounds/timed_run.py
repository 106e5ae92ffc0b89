"""A command of `ratchet`, with the seconds of imports, of the server's start, of every stage and of loading models.

Called by `demo.py` with the checkout to run, the file to write and the command's arguments.
"""

import builtins
import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

WATCHED = {
    "flows.servers.temporary": ("wait_until_up", lambda *_, **__: "waiting for the server"),
    "components.runtime.launch": ("run_stage", lambda name, *_, **__: name),
    "components.models.loading": ("load_policy", lambda *_, **__: "loading models"),
    "components.dpo.checks": ("check_reloaded", lambda *_, **__: "checking the saved model"),
}
"""Functions by module, and the name under which a call's seconds count; a nested call counts in both."""

FIRST_STAGE = "start"


class Seconds:
    """Sums by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, float] = {}
        self._began = time.perf_counter()
        self._import, self._depth, self._unwatched = builtins.__import__, 0, dict(WATCHED)

    def add(self, name: str, began: float) -> None:
        """Add the time since `began`."""
        self.by_name[name] = self.by_name.get(name, 0.0) + time.perf_counter() - began

    def timed(self, function: Callable[..., Any], called: Callable[..., str]) -> Callable[..., Any]:
        """Return the function with its calls timed."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            began, name = time.perf_counter(), called(*args, **kwargs)
            if name == FIRST_STAGE:
                self.add("until the first stage", self._began)
            try:
                return function(*args, **kwargs)
            finally:
                self.add(name, began)

        return counted

    def importing(self, *args: Any, **kwargs: Any) -> ModuleType:
        """Call `__import__` and add its seconds, unless another import is under way.

        A watched function is timed as soon as its module is loaded.
        """
        began, self._depth = time.perf_counter(), self._depth + 1
        try:
            module: ModuleType = self._import(*args, **kwargs)
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.add("imports", began)
        for name in [
            name for name, (function, _) in self._unwatched.items() if hasattr(sys.modules.get(name), function)
        ]:
            function, called = self._unwatched.pop(name)
            setattr(sys.modules[name], function, self.timed(getattr(sys.modules[name], function), called))
        return module


def main() -> None:
    checkout, out, *command = sys.argv[1:]
    sys.path.insert(0, checkout)
    seconds = Seconds()
    builtins.__import__ = seconds.importing
    from flows.cli import app

    try:
        app(command, standalone_mode=False)
    finally:
        Path(out).write_text(json.dumps(seconds.by_name))


if __name__ == "__main__":
    main()
