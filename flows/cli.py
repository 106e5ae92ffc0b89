"""The command `ratchet`. Exit code 0: done; 2: the user's input is wrong; 1: anything else.

Errors are one line, never a traceback.
"""

from flows.linux_only import refuse_other_systems

# Before the imports below: they load modules that other systems lack, such as fcntl, and would end in a traceback.
refuse_other_systems()

from flows.sigterm import end_on_sigterm

end_on_sigterm()

import inspect
import logging
import re
from collections.abc import Callable

import typer

from components.runtime.addresses import keep_loopback_off_proxies
from flows.commands import (
    convert,
    feedback,
    history,
    infer_reward,
    label,
    look,
    preferences,
    reward_model,
    run,
    serve,
    services,
    sft,
    study,
    sweep,
    validate,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn a language model towards what people prefer, round after round, and never backwards.\n\n"
    "Start with [bold]ratchet run conf/demo.yaml[/bold], then look at [bold]ratchet status demo[/bold]. "
    "Campaigns are stored under [bold]runs/[/bold], or in the directory that the variable RATCHET_RUNS names.",
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Rounds": (run.run, look.status, look.report),
    "Demonstrations": (sft.sft, infer_reward.infer_reward),
    "Comparisons": (study.study, sweep.sweep),
    "Preferences": (
        label.label,
        preferences.collect,
        preferences.pairs,
        preferences.calibrate,
        reward_model.reward_model,
        convert.convert,
        validate.validate,
        feedback.feedback,
    ),
    "History": (history.compare, history.lineage, history.rollback, history.gc),
    "Servers": (services.up, services.down, services.deploy, services.worker, services.ui, serve.serve),
    "Help": (look.reference, look.doctor),
}


def _help(command: Callable[..., None]) -> str:
    """Return a command's docstring with each paragraph on one line: typer keeps the line breaks within a paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n) *", " ", inspect.getdoc(command) or "")


for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel, help=_help(command))(command)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    logging.captureWarnings(True)
    keep_loopback_off_proxies()
    app()


if __name__ == "__main__":
    main()
