"""Write the images' lock files: each package's version and the hash of its file.

`make lock` runs it, with Python 3.11 on Linux x86_64. The versions are those of conf/versions.txt; what that file does
not name is resolved by pip. The CPU build of torch is on no package index, so it has no line here.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ["setuptools", "wheel"]
"""What builds source distributions and the package itself; installed first."""
PROJECT = [f"{ROOT}[gpu,s3,postgres,kubernetes]", "async-timeout", "torch===2.13.0"]
"""The package with the drivers of Postgres and S3 and the client of Kubernetes, what redis wants before Python 3.11.3,
and torch: `===` leaves out its CPU build, 2.13.0+cpu."""
OF_GPU = re.compile(r"torch|triton|cuda-.*|nvidia-.*")
HEADER = "# Written by `make lock` for Python 3.11 on Linux x86_64.\n"


def resolve(*requirements: str) -> list[dict[str, Any]]:
    """Return pip's report of what it would install."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        constraints = ["--constraint", str(ROOT / "conf" / "versions.txt"), "--report", str(report)]
        subprocess.run([*pip, *constraints, *requirements], check=True)
        return json.loads(report.read_text())["install"]


def line(package: dict[str, Any]) -> tuple[str, str]:
    """Return a package's normalised name and its line of the lock file."""
    name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
    sha256 = package["download_info"]["archive_info"]["hashes"]["sha256"]
    return name, f"{name}=={package['metadata']['version']} --hash=sha256:{sha256}\n"


def main() -> None:
    """Resolve and write the three files."""
    tools = dict(map(line, resolve(*BUILD)))
    project = resolve(*PROJECT)
    packages = dict(line(package) for package in project if "archive_info" in package["download_info"])
    of_gpu = {name: text for name, text in packages.items() if OF_GPU.fullmatch(name)}
    rest = {name: text for name, text in packages.items() if name not in of_gpu and name not in tools}
    for file, lines in (("lock-build.txt", tools), ("lock-gpu.txt", of_gpu), ("lock.txt", rest)):
        (HERE / file).write_text(HEADER + "".join(lines[name] for name in sorted(lines)))
        print(f"{file}: {len(lines)} packages")


if __name__ == "__main__":
    main()
