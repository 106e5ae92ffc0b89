"""Ask the advisory service for known vulnerabilities of the locked packages: `make audit`.

pip-audit counts a package that the service does not answer for as skipped, and ends well. Here only an answer counts:
a package without one fails the audit. The one exception is `audit.py if-reachable`, for places without the service: it
passes, and says so, if the service answered for no package at all.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
UNREACHABLE = "if-reachable"


def audit(files: list[Path]) -> dict[str, list[str] | None]:
    """Return the vulnerabilities of each locked package, and None for a package that was not audited."""
    locked = [line.split("==")[0] for file in files for line in file.read_text().splitlines() if "==" in line]
    requirements = [part for file in files for part in ("--requirement", str(file))]
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it ended before it wrote a result: the service did not answer at all
        print((done.stderr.strip().splitlines() or ["pip-audit wrote nothing"])[-1], file=sys.stderr)
        answers = []
    found = {
        entry["name"]: [vulnerability["id"] for vulnerability in entry["vulns"]]
        for entry in answers
        if "vulns" in entry
    }
    return {name: found.get(name) for name in locked}


def verdict(vulnerabilities: dict[str, list[str] | None], *, allow_unreachable: bool) -> tuple[bool, list[str]]:
    """Return whether the audit passes, and the lines that say why."""
    unaudited = [name for name, ids in vulnerabilities.items() if ids is None]
    lines = [f"{name}: {', '.join(ids)}" for name, ids in vulnerabilities.items() if ids]
    vulnerable, total = len(lines), len(vulnerabilities)
    if len(unaudited) == total:
        lines.append(f"NOT AUDITED: the advisory service gave no answer for any of {total} packages")
    elif unaudited:
        lines.append(f"NOT AUDITED: the advisory service gave no answer for {', '.join(unaudited)}")
    lines.append(f"{vulnerable} vulnerable, {len(unaudited)} not audited, of {total} locked packages")
    passes = not vulnerable and (not unaudited or (allow_unreachable and len(unaudited) == total))
    return passes, lines


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments not in ([], [UNREACHABLE]):
        sys.exit(f"audit.py {' '.join(arguments)}: the only argument is {UNREACHABLE}")
    passed, told = verdict(audit(sorted(HERE.glob("lock*.txt"))), allow_unreachable=arguments == [UNREACHABLE])
    print("\n".join(told))
    sys.exit(0 if passed else 1)
