"""The search of a sweep: Optuna by ask and tell, in a journal of its own. Knows no campaign.

The journal is appended to, so a killed search loses nothing: a trial that had not ended is given out again.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from components.artifacts import derive_seed
from components.config import ParameterConfig, SweepConfig
from components.sweep.files import Trial, Value

JOURNAL = "optuna.journal"
REASON = "reason"
"""Attribute of a trial that says why it failed."""
STARTUP_SHARE = 0.3
"""Share of the trials that are drawn at random, before the sampler has seen enough to choose by."""
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Asked(NamedTuple):
    """A trial to run."""

    number: int
    values: dict[str, Value]


class Search:
    """The trials of a sweep, as its journal has them."""

    def __init__(self, directory: Path, config: SweepConfig, *, default: Mapping[str, Value]) -> None:
        """Open the search, or begin it with the base configuration's values as its first trial.

        Args:
            directory: The sweep's directory.
            config: The sweep.
            default: Values of the base configuration, by the names of the parameters.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.config = config
        with _quiet():
            storage = JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
            self._study = optuna.create_study(
                storage=storage,
                study_name=config.sweep,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=self._startup),
            )
            if not self._study.trials:
                self._study.enqueue_trial(dict(default))

    @property
    def _startup(self) -> int:
        return max(2, min(10, round(STARTUP_SHARE * self.config.trials)))

    def ask(self) -> Asked | None:
        """Return the trial that had not ended, else the next one; None when there are as many as the sweep has.

        Each trial's draw has a seed of its own, so that a search that was interrupted draws what it would have drawn.
        """
        with _quiet():
            trials = self._study.get_trials(deepcopy=False)
            ended = sum(trial.state.is_finished() for trial in trials)
            self._study.sampler = self._sampler(ended)
            open_ = next((trial for trial in trials if trial.state == TrialState.RUNNING), None)
            if open_ is not None:
                trial = optuna.trial.Trial(self._study, open_._trial_id)
            elif ended >= self.config.trials:
                return None
            else:
                trial = self._study.ask()
            values = {key: _draw(trial, key, parameter) for key, parameter in self.config.parameters.items()}
        return Asked(trial.number, values)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self.config.seed, "sweep", number)
        return optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=self._startup)

    def is_hopeless(self, number: int, *, round: int, value: float) -> bool:
        """Report what a trial reached after a round; return whether the median of the others there is better."""
        with _quiet():
            trial = optuna.trial.Trial(self._study, self._frozen(number)._trial_id)
            trial.report(value, step=round)
            return trial.should_prune()

    def finish(self, number: int, value: float) -> None:
        """End a trial that has all its rounds."""
        with _quiet():
            self._study.tell(number, value)

    def prune(self, number: int) -> None:
        """End a trial that is hopeless."""
        with _quiet():
            self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """End a trial that failed."""
        with _quiet():
            optuna.trial.Trial(self._study, self._frozen(number)._trial_id).set_user_attr(REASON, reason)
            self._study.tell(number, state=TrialState.FAIL)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that have ended, in order."""
        ended = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state in STATES]
        return tuple(
            Trial(
                number=trial.number,
                values=trial.params,
                state=STATES[trial.state],
                value=trial.value if trial.state == TrialState.COMPLETE else None,
                by_round=dict(sorted(trial.intermediate_values.items())),
                reason=trial.user_attrs.get(REASON, ""),
            )
            for trial in ended
        )

    @property
    def importances(self) -> dict[str, float]:
        """Share of the objective's variance that each parameter explains, largest first (Hutter et al. 2014).

        Empty with fewer than four trials that are done, or if all reached the same.
        """
        done = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if len(done) < 4 or len({trial.value for trial in done}) == 1:
            return {}
        with _quiet():
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.config.seed)
            return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return next(trial for trial in self._study.get_trials(deepcopy=False) if trial.number == number)


def _draw(trial: optuna.trial.Trial, key: str, parameter: ParameterConfig) -> Value:
    if parameter.choices:
        chosen = trial.suggest_categorical(key, list(parameter.choices))
        assert chosen is not None
        return chosen
    low, high = parameter.low, parameter.high
    assert low is not None
    assert high is not None
    if parameter.is_whole:
        return trial.suggest_int(key, int(low), int(high), log=parameter.log)
    return trial.suggest_float(key, low, high, log=parameter.log)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Optuna logs of its own work, and its warnings of interfaces that may change."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").propagate = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        yield
