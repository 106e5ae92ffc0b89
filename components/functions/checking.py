"""Checks of the user's functions before anything is made: they load, can be called, and get what they ask for."""

from collections.abc import Collection, Sequence

from components.artifacts import digest
from components.config import CallLimits, FunctionConfig
from components.functions.process import Description, FunctionProcess
from components.functions.scoring import OWN_NAMES
from components.functions.source import code_digest
from components.functions.worker import BATCH, GROUP, SINGLE

GIVEN = {
    BATCH: {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"},
    GROUP: {"prompt", "responses"},
    SINGLE: {"prompt", "response"},
}
"""By form, the parameters that are always given."""
_descriptions: dict[str, list[Description]] = {}


def check_functions(
    functions: Sequence[FunctionConfig], limits: CallLimits, columns: Collection[str] | None, *, rows: str
) -> list[Description]:
    """Load functions in a process of their own and check that they can be called.

    Args:
        functions: The functions.
        limits: What a call may take.
        columns: Names of the other columns of the rows; None if they are not known.
        rows: The rows, for messages, such as "the prompts' rows".

    Returns:
        How each wants to be called.

    Raises:
        ValueError: One cannot be loaded or called, or requires a parameter that is not given; one line with the remedy.
    """
    descriptions = _described(functions, limits)
    for function, description in zip(functions, descriptions, strict=True):
        given = GIVEN[description.form]
        unknown = set(function.arguments) - set(description.names)
        if unknown and not description.takes_all:
            raise ValueError(
                f"function {function.function} takes no argument {min(unknown)}: remove it from `arguments` (it takes "
                f"{', '.join(description.names)})"
            )
        if columns is None:
            continue
        carried = set(columns) - OWN_NAMES
        missing = [
            name for name in description.required if name not in given | carried and name not in function.arguments
        ]
        if missing:
            named = ", ".join(sorted(carried)) or "no other columns"
            raise ValueError(
                f"function {function.function} requires {', '.join(missing)}, but {rows} have {named}: add "
                "the column, give the parameter a default, or set it in `arguments`"
            )
    return descriptions


def _described(functions: Sequence[FunctionConfig], limits: CallLimits) -> list[Description]:
    """Load the functions, unless the same code was loaded before."""
    key = digest([[function, code_digest(function.function)] for function in functions])
    if key not in _descriptions:
        with FunctionProcess(functions, limits, log=None) as process:
            _descriptions[key] = process.describe()
    return _descriptions[key]
