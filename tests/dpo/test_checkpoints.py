"""A checkpoint is whole or not there.

Kill -9 at every write, damage to every kind of file, and the run still ends bitwise the same.
"""

import builtins
import io
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.artifacts import digest, read_json, write_json
from components.config import TrainingConfig
from components.dpo import checkpoints
from components.dpo.engine import build_engine, full_weights, join_process_group, load_state
from components.dpo.reference import PairLogps, cached
from components.dpo.stage import run
from components.records import TrainRequest

Make = Callable[..., TrainRequest]
RunUntil = Callable[[TrainRequest, Path, int], None]
LINES = {step: [json.dumps({"step": done}) for done in range(1, step + 1)] for step in range(1, 6)}
LOGPS = PairLogps(torch.tensor([-1.5, -2.0]), torch.tensor([-3.25, -4.0]))


class Trained:
    """A small engine that has made four steps; checkpoints of steps 2 and 3 lie in `before`, of step 4 in `after`."""

    def __init__(self, place: Path, zero_stage: int) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        training = TrainingConfig(zero_stage=zero_stage, learning_rate=1e-2)
        join_process_group()
        self.engine = build_engine(LlamaForCausalLM(config), training, num_steps=9, dtype=torch.float32)
        self.before, self.after = place / "before", place / "after"
        self.before.mkdir()
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        for step in (1, 2, 3, 4):
            self.advance()
            self.weights[step] = self.now()
            checkpoints.save(self.after if step == 4 else self.before, self.engine, step, LINES[step], reference=None)
        self.advance()
        self.weights[5] = self.now()

    def advance(self) -> None:
        ids = torch.arange(8).view(1, 8)
        self.engine.backward(self.engine(input_ids=ids, labels=ids).loss)
        self.engine.step()

    def now(self) -> dict[str, torch.Tensor]:
        weights = full_weights(self.engine)
        assert weights is not None
        return weights

    def stands_at(self, step: int) -> bool:
        now = self.now()
        return all(torch.equal(now[name], tensor) for name, tensor in self.weights[step].items())


@pytest.fixture(scope="module", params=[0, 2], ids=["zero0", "zero2"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), request.param)


class KilledAt:
    """Send this process SIGKILL at its n-th (from 1) opening for writing, write, sync, rename or removal."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0
        sys.addaudithook(self.heard)
        self.fsync, self.save, self.open = os.fsync, torch.save, io.open
        os.fsync = self.synced  # type: ignore[assignment]
        torch.save = self.saved  # type: ignore[assignment]
        io.open = builtins.open = self.opened  # type: ignore[assignment]

    def reached(self) -> bool:
        self.count += 1
        return self.count == self.last

    def now(self) -> None:
        if self.reached():
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            event == "open" and "w" in str(arguments[1])
        ):
            self.now()

    def synced(self, descriptor: int) -> None:
        self.now()
        self.fsync(descriptor)

    def saved(self, content: Any, path: Any, *arguments: Any, **options: Any) -> None:
        self.now()
        self.save(content, path, *arguments, **options)
        if self.reached():
            os.truncate(path, os.stat(path).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(self, *arguments: Any, **options: Any) -> Any:
        file = self.open(*arguments, **options)
        if file.writable():
            whole = file.write

            def write(content: Any) -> Any:
                if self.reached():
                    whole(content[: len(content) // 2])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return whole(content)

            file.write = write
        return file


def ended_by_kill(
    prepare: Callable[[], None], work: Callable[[], None], at: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Does the work in a copy of this process that is killed at its `at`-th operation.

    False if it has fewer and went through.

    A copy has only the thread that copied, so a lock that another thread held at that moment is never released: such a
    copy hangs, says nothing of the work, and is made again.
    """
    for _ in range(5):
        prepare()
        status = _status_of_copy(work, at, monkeypatch)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            continue
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
        return os.WIFSIGNALED(status)
    raise AssertionError(f"five copies hung at operation {at}")


def _status_of_copy(work: Callable[[], None], at: int, monkeypatch: pytest.MonkeyPatch) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            # A copy has none of the threads that meet other ranks; there are no others, so meeting them changes
            # nothing.
            for name in ("barrier", "all_reduce"):
                monkeypatch.setattr(torch.distributed, name, lambda *_, **__: None)
            KilledAt(at)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def test_saves_killed_at_every_operation_in_a_process_of_their_own() -> None:
    """Forking the process of a whole test run fails if memory is short and hangs if another thread holds a lock."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "alone",
        str(Path(__file__).resolve()),
    ]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "4 passed" in done.stdout


@pytest.mark.alone
def test_save_killed_at_every_operation_leaves_an_intact_checkpoint(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed_from = []
    for at in itertools.count(1):
        directory = tmp_path / f"{at}"

        def prepare() -> None:
            shutil.rmtree(directory, ignore_errors=True)  # noqa: B023
            shutil.copytree(trained.before, directory)  # noqa: B023
            load_state(trained.engine, trained.after / "step-000004", 4)

        def save() -> None:
            checkpoints.save(directory, trained.engine, 4, LINES[4], reference=LOGPS)  # noqa: B023

        killed = ended_by_kill(prepare, save, at, monkeypatch)
        step, metrics, reference = checkpoints.resume(directory, trained.engine)
        assert trained.stands_at(step), at
        assert metrics == LINES[step], at
        assert (reference is not None) == (step == 4), at
        assert reference is None or torch.equal(torch.stack(reference[:2]), torch.stack(LOGPS[:2])), at
        resumed_from.append(step)
        for done in range(step + 1, 6):
            trained.advance()
            if done == 4:
                checkpoints.save(directory, trained.engine, 4, LINES[4], reference=LOGPS)
        assert trained.stands_at(5), at
        assert checkpoints.resume(directory, trained.engine)[0] == 4, at
        assert len(list(directory.iterdir())) <= checkpoints.KEEP + 1, at
        shutil.rmtree(directory)
        if not killed:
            break
    assert resumed_from == sorted(resumed_from), "from one operation on, the new checkpoint is there"
    assert set(resumed_from) == {3, 4}
    assert resumed_from.count(3) > 12, "the operations were really counted"
    assert resumed_from.count(4) > 3


@pytest.mark.alone
def test_save_over_a_damaged_checkpoint_killed_at_every_operation_keeps_the_one_before(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in itertools.count(1):
        directory = tmp_path / f"{at}"

        def prepare() -> None:
            shutil.rmtree(directory, ignore_errors=True)  # noqa: B023
            shutil.copytree(trained.before, directory)  # noqa: B023
            shutil.copytree(trained.after / "step-000004", directory / "step-000004")  # noqa: B023
            flip(directory / "step-000004" / checkpoints.METRICS)  # noqa: B023
            load_state(trained.engine, trained.after / "step-000004", 4)

        def save() -> None:
            checkpoints.save(directory, trained.engine, 4, LINES[4], reference=LOGPS)  # noqa: B023

        killed = ended_by_kill(prepare, save, at, monkeypatch)
        step, _, _ = checkpoints.resume(directory, trained.engine)
        assert step in (3, 4), at
        assert trained.stands_at(step), at
        shutil.rmtree(directory)
        if not killed:
            break
    assert at > 20


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_resume_any_flipped_bit_of_the_hashes_is_refused_or_harmless(trained: Trained, tmp_path: Path) -> None:
    step = tmp_path / "step-000003"
    shutil.copytree(trained.before / "step-000003", step)
    path = step / checkpoints.HASHES
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 4, 7):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            assert checkpoints._newest_intact_step(tmp_path) in (
                (0, 3) if whole[place : place + 1].isspace() else (0,)
            ), (place, bit)
    path.write_bytes(whole)
    assert checkpoints._newest_intact_step(tmp_path) == 3


def test_resume_every_truncation_of_the_hashes_is_refused(trained: Trained, tmp_path: Path) -> None:
    step = tmp_path / "step-000003"
    shutil.copytree(trained.before / "step-000003", step)
    path = step / checkpoints.HASHES
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        assert checkpoints._newest_intact_step(tmp_path) == 0, length


def test_resume_checkpoint_under_another_steps_name_is_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.before / "step-000003", tmp_path / "step-000009")
    assert checkpoints.resume(tmp_path, trained.engine) == (0, [], None)


def test_resume_checkpoint_of_another_number_of_processes_is_refused(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.before, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with caplog.at_level(logging.WARNING):
        assert checkpoints._newest_intact_step(tmp_path) == 0
    assert "it was made by 1 processes, and these are 4" in caplog.text


def test_resume_checkpoint_of_an_earlier_layout_is_refused_and_makes_room(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its steps held other pairs, so a training that went on from it would see some pairs twice and others never."""
    shutil.copytree(trained.before, tmp_path, dirs_exist_ok=True)
    for checkpoint in tmp_path.glob("step-*"):
        recorded = read_json(checkpoint / checkpoints.HASHES)
        old = {name: value for name, value in recorded.items() if name not in ("layout", "digest")}
        write_json(checkpoint / checkpoints.HASHES, old | {"digest": digest(old)})
    with caplog.at_level(logging.WARNING):
        assert checkpoints._newest_intact_step(tmp_path) == 0
    assert "an earlier version of this program made it" in caplog.text
    checkpoints.save(tmp_path, trained.engine, 1, LINES[1], reference=None)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000001"], "the older ones would outlive it"


class Interrupted:
    """A training of six steps that ended after the fifth, with checkpoints of steps 2 and 4, and one uninterrupted."""

    def __init__(self, request: TrainRequest, place: Path, run_until: RunUntil) -> None:
        self.request, self.place = request, place
        self.whole = self.finish(place / "whole" / "run")
        run_until(request, place / "cut" / "run", 5)

    def finish(self, out: Path) -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        run(self.request, out)
        return read_json(out / "train.json") | {
            "losses": [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        }

    def damaged(self, place: Path, damage: Callable[[Path], None]) -> dict[str, Any]:
        shutil.copytree(self.place / "cut" / "checkpoints", place / "checkpoints")
        damage(place / "checkpoints" / digest(self.request)[:16])
        return self.finish(place / "run")


@pytest.fixture(scope="module")
def interrupted(make_request: Make, tmp_path_factory: pytest.TempPathFactory, run_until: RunUntil) -> Interrupted:
    return Interrupted(
        make_request(epochs=2, checkpoint_every=2, zero_stage=2), tmp_path_factory.mktemp("interrupted"), run_until
    )


FILES = {
    "weights": "step-000004/**/*model_states.pt",
    "optimizer": "step-000004/**/*optim_states.pt",
    "hashes": f"step-000004/{checkpoints.HASHES}",
    "metrics": f"step-000004/{checkpoints.METRICS}",
}


@pytest.mark.parametrize("damage", [flip, truncate, os.unlink])
@pytest.mark.parametrize("kind", FILES)
def test_training_damaged_file_goes_on_from_the_checkpoint_before_and_ends_bitwise_the_same(
    kind: str,
    damage: Callable[[Path], None],
    interrupted: Interrupted,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def harm(directory: Path) -> None:
        (path,) = directory.glob(FILES[kind])
        damage(path)

    with caplog.at_level(logging.WARNING):
        resumed = interrupted.damaged(tmp_path, harm)
    assert resumed["resumed_from_step"] == 2
    assert "step-000004 is not used: " in caplog.text
    assert resumed["policy_digest"] == interrupted.whole["policy_digest"]
    assert resumed["losses"] == interrupted.whole["losses"]


def test_training_all_checkpoints_damaged_begins_again_and_ends_bitwise_the_same(
    interrupted: Interrupted, tmp_path: Path
) -> None:
    def harm(directory: Path) -> None:
        for path in directory.glob(f"step-*/{checkpoints.METRICS}"):
            truncate(path)

    resumed = interrupted.damaged(tmp_path, harm)
    assert resumed["resumed_from_step"] == 0
    assert resumed["policy_digest"] == interrupted.whole["policy_digest"]


@pytest.mark.parametrize("damage", [flip, truncate])
def test_training_damaged_reference_scores_are_computed_again(
    damage: Callable[[Path], None], interrupted: Interrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        resumed = interrupted.damaged(tmp_path, lambda directory: damage(directory / "reference.safetensors"))
    assert "reference.safetensors is damaged and not used" in caplog.text
    assert resumed["resumed_from_step"] == 4
    assert resumed["policy_digest"] == interrupted.whole["policy_digest"]


def test_cached_any_flipped_bit_is_never_read_as_other_numbers(tmp_path: Path) -> None:
    join_process_group()
    logps = PairLogps(torch.tensor([-1.5, -2.0]), torch.tensor([-3.25, -4.0]))
    path = tmp_path / "reference.safetensors"
    cached(path, rank=0, compute=lambda: logps)
    whole = path.read_bytes()
    again = PairLogps(torch.zeros(2), torch.zeros(2))
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 2
        path.write_bytes(content)
        read = cached(path, rank=1, compute=lambda: again)
        assert read is again or all(torch.equal(one, other) for one, other in zip(read, logps, strict=True)), place
    path.write_bytes(whole)
    assert torch.equal(cached(path, rank=1, compute=lambda: again).chosen, logps.chosen)
