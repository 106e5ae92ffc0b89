"""What pins a user's function: its own code and the code that it imports beside it, wherever that lies."""

import shutil
from pathlib import Path

import pytest

from components.config import ConstraintsConfig, FunctionConfig
from components.functions.checking import check_functions
from components.functions.source import code_digest, find_source
from components.functions.violations import check_constraint
from tests.functions.conftest import LIMITS

FILES = {
    "rewards.py": "import json, helper\nfrom parts import one\ndef f(response):\n    import late\n    return 1",
    "helper.py": "import deeper",
    "deeper.py": "X = 1",
    "late.py": "X = 1",
    "parts/__init__.py": "",
    "parts/one.py": "from . import two\nfrom .three import X",
    "parts/two.py": "X = 1",
    "parts/three.py": "X = 1",
    "parts/unused.py": "X = 1",
    "unused.py": "X = 1",
    "json.txt": "data",
}


def written(directory: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return f"{directory}/rewards.py:f"


def test_digest_covers_all_that_is_imported_beside_the_file_and_nothing_else(tmp_path: Path) -> None:
    function = written(tmp_path / "a", FILES)
    first = code_digest(function)
    changed = {}
    for name in FILES:
        (tmp_path / "a" / name).write_text(FILES[name] + "\n# changed\n")
        changed[name] = code_digest(function) != first
        (tmp_path / "a" / name).write_text(FILES[name])
    assert [name for name, is_other in changed.items() if not is_other] == ["parts/unused.py", "unused.py", "json.txt"]
    assert code_digest(function) == first


def test_digest_does_not_depend_on_the_place_but_on_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = written(tmp_path / "a", FILES)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert code_digest(function) == code_digest(f"{tmp_path}/b/rewards.py:f") != code_digest(function[:-1] + "g")
    monkeypatch.chdir(tmp_path / "a")
    assert code_digest("rewards.py:f") == code_digest("./rewards.py:f") == code_digest(function)


def test_digest_of_an_installed_module_covers_its_package_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "g2_rewards"
    written(package, {"__init__.py": "", "a.py": "from g2_rewards.b import X\ndef f(response): 1", "b.py": "X = 1"})
    written(package, {"lazy/__init__.py": "def __getattr__(name): ...", "lazy/inner.py": "X = 1", "c.py": "X = 1"})
    monkeypatch.syspath_prepend(tmp_path)
    assert find_source("g2_rewards.a:f").path == package / "a.py"
    one, lazy = code_digest("g2_rewards.a:f"), code_digest("g2_rewards.lazy:f")
    (package / "c.py").write_text("X = 2")
    assert code_digest("g2_rewards.a:f") == one
    (package / "b.py").write_text("X = 2")
    assert code_digest("g2_rewards.a:f") != one
    (package / "lazy" / "inner.py").write_text("X = 2")
    assert code_digest("g2_rewards.lazy:f") != lazy
    trl = find_source("trl.rewards:think_format_reward")
    assert trl.version == "trl 1.16.0"
    assert not trl.is_file
    # Another version of ours with the same code is the same function.
    assert find_source("components.functions.library.pattern:score").version == ""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("missing.py:f", r"the file .*/missing.py does not exist: name a Python file"),
        ("no_such_package.rewards:f", r"there is no module no_such_package.rewards: install it, or name a file"),
        ("trl.no_such_module:f", r"there is no module trl.no_such_module"),
    ],
)
def test_code_that_does_not_exist_is_named(function: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        code_digest(function)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(response", r"rewards.py line 1 is not valid Python \('\(' was never closed\): correct it"),
        ("import no_such_package\ndef f(response): 1", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0\ndef f(response): 1", r"ZeroDivisionError: division by zero \(rewards.py line 1\)"),
        ("import sys\nsys.exit()", r"SystemExit \(rewards.py line 2\)"),
        ("import os\nos._exit(7)", r"cannot be loaded: its process exited \(7\)"),
        ("def g(response): 1", "AttributeError: rewards has no function f"),
        ("f = 3", "TypeError: f is a int, not a function"),
        ("class f:\n    def __init__(self, response): ...", "TypeError: f is a type, not a function"),
        ("def f(text): 1", r"f\(text\) takes none of completions \(a batch\), responses \(all of a prompt\)"),
        ("def f(response, /): 1", "has parameters without a name for callers"),
        (
            "def f(response, solution, answer): 1",
            r"requires solution, but the prompts' rows have answer, level: add the column, give the parameter",
        ),
        ("def f(response, prompts): 1", "requires response, but"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_in_one_line(source: str, says: str, tmp_path: Path) -> None:
    function = FunctionConfig(function=written(tmp_path, {"rewards.py": source}))
    with pytest.raises(ValueError, match=says) as refused:
        check_functions([function], LIMITS, ["answer", "level", "responses"], rows="the prompts' rows")
    assert "\n" not in str(refused.value)
    assert "rewards.py:f" in str(refused.value)


def test_arguments_stand_for_columns_and_must_be_parameters(tmp_path: Path) -> None:
    name = written(tmp_path, {"rewards.py": "def f(response, pattern, flags=0): 1"})
    good = FunctionConfig(function=name, arguments={"pattern": "x"})
    check_functions([good], LIMITS, (), rows="the rows")
    with pytest.raises(ValueError, match=r"takes no argument flag: remove it from `arguments` \(it takes response"):
        check_functions([FunctionConfig(function=name, arguments={"flag": 1})], LIMITS, None, rows="the rows")


def test_a_callable_object_and_an_async_function_are_functions(tmp_path: Path) -> None:
    source = """
class Reward:
    async def __call__(self, completions, **kwargs): ...
f = Reward()
def g(**kwargs): ...
"""
    name = written(tmp_path, {"rewards.py": source})
    one, other = check_functions(
        [FunctionConfig(function=name), FunctionConfig(function=name[:-1] + "g")], LIMITS, (), rows="the rows"
    )
    assert (one.form, one.is_async, other.form, other.is_async) == ("batch", True, "batch", False)


def test_a_constraint_over_all_responses_is_refused(tmp_path: Path) -> None:
    name = written(tmp_path, {"rewards.py": "def f(prompt, responses): 1"})
    with pytest.raises(ValueError, match=r"takes all responses to a prompt, but a rule is about one"):
        check_constraint(ConstraintsConfig(function=name), (), rows="the rows")
