"""The supervisord of one directory of services: start it, see that its programs run, end it."""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.config.shipped import conf_path
from components.records import ServiceFailed

STOP_SECONDS = 90
LONGEST_SOCKET = 90
"""Bytes of a socket's path: the kernel takes 107, and supervisord first binds a name with its process id behind."""
PROGRAMS = ("prefect", "mlflow", "labelling", "worker")
STOPPED = ("STOPPED", "EXITED", "FATAL")


@dataclass(frozen=True)
class Supervisord:
    """supervisord with conf/supervisord.conf over one directory."""

    directory: Path
    """Directory of logs, process id and socket, for its owner alone."""

    def start(self, commands: Mapping[str, list[str]], environment: Mapping[str, str]) -> None:
        """Start it in the background, and with it the programs but for the worker.

        Args:
            commands: By name of the program, its command; the others are never started.
            environment: Environment of all programs.

        Raises:
            ServiceFailed: It did not start.
        """
        self._remove_short_link()
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET:
            # Nobody else can write into it; the link finds it again, whatever TMPDIR is then.
            self._short_link.symlink_to(tempfile.mkdtemp(prefix="ratchet-", dir="/tmp"))
        done = self._run("supervisord", env={**environment, **self._variables(commands)})
        if done.returncode != 0:
            cause = (done.stderr.strip().splitlines() or ["no message"])[-1]
            log = self.directory / "supervisord.log"
            raise ServiceFailed(f"supervisord did not start ({cause}): see {log}, then run `ratchet up` again")

    def ensure(self, name: str) -> None:
        """Start a program unless it runs or is being started.

        Raises:
            ServiceFailed: supervisord does not answer, or the program does not start.
        """
        # The exit code of `status` is not 0 if a program is stopped.
        lines = self._control("status").stdout.splitlines()
        states = {words[0]: words[1] for words in map(str.split, lines) if len(words) > 1}
        if name not in states:
            raise ServiceFailed(
                f"supervisord does not answer ({' '.join(lines)}): run `ratchet down`, then start again"
            )
        if states[name] not in STOPPED:
            return
        done = self._control("start", name)
        if done.returncode != 0:
            cause = " ".join((done.stdout + done.stderr).split())
            raise ServiceFailed(f"{name} does not start ({cause}): see {self.directory / name}.log")

    def stop(self) -> bool:
        """End it and its programs, and return whether it ran.

        Raises:
            ServiceFailed: It did not end.
        """
        pid = self.pid()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.pid() is not None:
            if time.monotonic() > deadline:
                log = self.directory / "supervisord.log"
                raise ServiceFailed(f"supervisord (pid {pid}) did not stop within {STOP_SECONDS} s: see {log}")
            time.sleep(0.2)
        self._remove_short_link()
        return True

    def pid(self) -> int | None:
        """Return its process id, or None if it does not run, or is another user's."""
        try:
            pid = int((self.directory / "supervisord.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError, ValueError):
            return None
        # After a power cut, the id may be that of another process, even of another supervisord.
        served = re.search(rb"(?:^|\0)RATCHET_SERVICES=([^\0]*)", environment)
        ours = served is not None and os.path.realpath(served[1]) == os.path.realpath(os.fsencode(self.directory))
        return pid if ours and b"supervisord" in command else None

    @contextlib.contextmanager
    def one_start(self) -> Iterator[None]:
        """Let starts wait for each other; a start that is killed lets the next one go on."""
        with (self.directory / "start.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _remove_short_link(self) -> None:
        if self._short_link.is_symlink():
            shutil.rmtree(self._short_link.readlink(), ignore_errors=True)
            self._short_link.unlink()

    @property
    def _short_link(self) -> Path:
        return self.directory / "socket"

    @property
    def _socket(self) -> Path:
        directory = self._short_link.readlink() if self._short_link.is_symlink() else self.directory
        return directory / "supervisord.sock"

    def _variables(self, commands: Mapping[str, list[str]]) -> dict[str, str]:
        """Return what conf/supervisord.conf takes from the environment; supervisorctl parses the whole file, too."""
        return {
            **{f"RATCHET_{name.upper()}_COMMAND": shlex.join(commands.get(name, ["false"])) for name in PROGRAMS},
            "RATCHET_OWN_SERVERS": str("prefect" in commands).lower(),
            "RATCHET_SERVICES": str(self.directory),
            "RATCHET_SOCKET": str(self._socket),
            "RATCHET_UMASK": f"{_umask():03o}",
        }

    def _control(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._run("supervisorctl", *command, env={**os.environ, **self._variables({})})

    @staticmethod
    def _run(program: str, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"supervisor.{program}", "-c", str(conf_path("supervisord.conf")), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def _umask() -> int:
    """Return the umask of this process, which supervisord would replace for its programs."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
