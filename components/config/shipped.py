"""Find the files of the project's `conf` folder. All code finds them through this module."""

from pathlib import Path


def conf_path(name: str) -> Path:
    """Return the path of a file in `conf`.

    `conf` is beside the `components` package, in a checkout and in an installed copy. It is not looked up as a package:
    another `conf` earlier on the import path (Sphinx's conf.py, say) would be found instead.
    """
    return Path(__file__).resolve().parents[2] / "conf" / name
