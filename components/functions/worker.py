"""The process that runs the user's functions: reads calls from a socket and answers them, one JSON object per line.

Runs as a script, with the standard library alone. What the functions print goes to the log, since the standard streams
are not part of the protocol.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import math
import os
import resource
import socket
import sys
import traceback
from typing import Any

BATCH, GROUP, SINGLE = "batch", "group", "single"
FORMS = {BATCH: ("completions", "prompts"), GROUP: ("responses",), SINGLE: ("response",)}
"""By form, the parameters that tell it; the first form that has one of its parameters counts."""


class Function:
    """A loaded function, and how it wants to be called."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        module = _load_file(spec["path"], spec["root"]) if spec["is_file"] else importlib.import_module(spec["module"])
        function = getattr(module, spec["name"], None)
        if function is None:
            raise AttributeError(f"{module.__name__} has no function {spec['name']}")
        if inspect.isclass(function) or not callable(function):
            raise TypeError(f"{spec['name']} is a {type(function).__name__}, not a function")
        self.function = function
        self.is_async = any(map(inspect.iscoroutinefunction, (self.function, type(self.function).__call__)))
        parameters = inspect.signature(self.function).parameters.values()
        by_name = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        self.takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self.names = [each.name for each in by_name]
        self.required = [each.name for each in by_name if each.default is each.empty]
        self.positional = [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY]
        self.form = next((form for form, told in FORMS.items() if set(told) & set(self.names)), None)
        if self.form is None and self.takes_all:
            self.form = BATCH

    def describe(self) -> dict[str, Any]:
        """Return what the caller needs to know."""
        if self.positional:
            raise TypeError(f"{self.spec['name']} has parameters without a name for callers: {self.positional}")
        if self.form is None:
            told = "completions (a batch), responses (all of a prompt) or response (one)"
            raise TypeError(f"{self.spec['name']}({', '.join(self.names)}) takes none of {told}")
        return {
            "form": self.form,
            "is_async": self.is_async,
            "takes_all": self.takes_all,
            "names": self.names,
            "required": self.required,
        }

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments that the function takes, of those that are given."""
        everything = given | {"trainer_state": None, "log_extra": _log, "log_metric": _log}
        if self.form != BATCH:
            everything = given
        return {name: value for name, value in everything.items() if self.takes_all or name in self.names}


def _log(name: str, value: Any) -> None:
    """Write what a function of TRL's logs."""
    print(f"{name}: {value}")


def _load_file(path: str, directory: str) -> Any:
    sys.path.insert(0, directory)
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _scores(value: Any, expected: int | None) -> list[dict[str, Any]]:
    """Return a score, or the reason why there is none, for each response of a call."""
    if expected is None:
        return [_score(value)]
    if hasattr(value, "tolist"):  # numpy, torch
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise TypeError(f"it returned {_short(value)}, but must return a list of {expected} scores")
    if len(value) != expected:
        raise ValueError(f"it returned {len(value)} scores for {expected} responses")
    return [_score(item) for item in value]


def _score(value: Any) -> dict[str, Any]:
    if value is None:
        return {"score": None}
    if hasattr(value, "item") and not isinstance(value, int | float):  # numpy, torch
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):
            return {"error": f"it returned {_short(value)}, but a score must be a number or None"}
    if not isinstance(value, int | float):  # bool is an int
        return {"error": f"it returned {_short(value)}, but a score must be a number or None"}
    try:
        score = float(value)
    except OverflowError:
        return {"error": "it returned an integer that is too large"}
    return {"score": score} if math.isfinite(score) else {"error": f"it returned {score}"}


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = "a value"
    return f"{text[:60]} ({type(value).__name__})"


def _reason(error: BaseException, path: str) -> str:
    """Return an exception in one line, with the last line of the user's file that it passed."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    place = f" ({os.path.basename(path)} line {lines[-1]})" if lines else ""
    printable = "".join(character if character.isprintable() else " " for character in str(error))
    text = " ".join(printable.split())[:300]
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


async def _concurrently(function: Function, calls: list[dict[str, Any]], seconds: float) -> list[Any]:
    """Return the value of each call of an async function, or its exception."""

    async def one(arguments: dict[str, Any]) -> Any:
        return await asyncio.wait_for(function.function(**function.arguments(arguments)), seconds)

    return await asyncio.gather(*map(one, calls), return_exceptions=True)


def _call(function: Function, request: dict[str, Any], loop: asyncio.AbstractEventLoop) -> list[list[dict[str, Any]]]:
    """Return the scores of each call of a request."""
    calls, seconds = request["calls"], request["seconds"]
    if function.is_async:
        try:
            values = loop.run_until_complete(_concurrently(function, calls, seconds))
        except BaseException as error:  # SystemExit ends the loop
            values = [error] * len(calls)
    else:
        values = [_value(function, arguments) for arguments in calls]
    answers = []
    for value, expected in zip(values, request["expected"], strict=True):
        count = 1 if expected is None else expected
        try:
            if isinstance(value, TimeoutError) and function.is_async and not str(value):
                raise TimeoutError(f"it took more than {seconds:g} s")
            if isinstance(value, BaseException):
                raise value
            answers.append(_scores(value, expected))
        except BaseException as error:
            answers.append([{"error": _reason(error, function.spec["path"])}] * count)
    return answers


def _value(function: Function, arguments: dict[str, Any]) -> Any:
    try:
        return function.function(**function.arguments(arguments))
    except BaseException as error:
        return error


def main(descriptor: int) -> None:
    """Load the functions of the first message, then answer one message after the other until the socket closes."""
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor).makefile("rw", encoding="utf-8", newline="\n")

    def answer(value: Any) -> None:
        connection.write(json.dumps(value) + "\n")
        connection.flush()
        sys.stdout.flush()

    first = json.loads(connection.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (first["memory_bytes"], first["memory_bytes"]))
    sys.path += [place for place in first["places"] if place not in sys.path]
    functions, described = [], []
    for spec in first["functions"]:
        try:
            functions.append(Function(spec))
            described.append(functions[-1].describe())
        except BaseException as error:
            described.append({"error": _reason(error, spec["path"])})
    answer(described)
    loop = asyncio.new_event_loop()
    for line in connection:
        request = json.loads(line)
        answer(_call(functions[request["function"]], request, loop))


if __name__ == "__main__":
    main(int(sys.argv[1]))
