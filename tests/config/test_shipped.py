"""The shipped files are found whatever else is called `conf` on the import path."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from components.config import load_config
from components.config.shipped import conf_path
from flows.doctor import findings
from flows.prefect_page.form import preset_path
from pathlib import Path
import conf
assert conf.__file__.endswith("elsewhere/conf.py"), conf.__file__
assert load_config(preset_path("demo")).campaign == "demo"
assert conf_path("supervisord.conf").is_file() and conf_path("prefect.yaml").is_file()
print([finding.name for finding in findings(Path.cwd())])
"""


def test_conf_another_conf_first_on_the_path_changes_nothing(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "conf.py").write_text("project = 'somebody else'\n")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{elsewhere}{os.pathsep}{root}"}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout
    assert "torch" in done.stdout
