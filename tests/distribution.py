"""The wheel as its users get it: `python -m tests.distribution FOLDER` builds it, looks into it and installs it.

The source archive is built first and the wheel from that, so that a file which either lacks is missed. The wheel is
installed into a folder of its own, which comes before the libraries of this environment.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 5_000_000  # bytes


def built(folder: Path) -> Path:
    """The wheel of the package, made from its own source archive."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def package() -> set[str]:
    """The files of the package in the checkout."""
    files = [path for path in (ROOT / "lipdiag").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in files}


def contents(wheel: Path) -> set[str]:
    """What it installs, without the record of the installation."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def said(folder: Path, *arguments: str) -> str:
    """What a Python prints that has the wheel before the libraries, far from the checkout."""
    environment = os.environ | {"PYTHONPATH": str(folder / "bare")}
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout


def main(folder: Path) -> None:
    """Build, look, install, try; an error where anything is not as it must be."""
    wheel = built(folder)
    size, found = wheel.stat().st_size, contents(wheel)
    if size > LARGEST:
        raise SystemExit(f"{wheel.name} has {size} bytes, more than {LARGEST}")
    if found != package():
        raise SystemExit(f"{wheel.name} has too much or too little: {sorted(found ^ package())}")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", "bare"]
    said(folder, *pip, str(wheel))
    versions = said(folder, "bare/bin/lipdiag", "--version")
    if versions.split()[1] != wheel.name.split("-")[1]:
        raise SystemExit(f"{wheel.name} says that it is\n{versions}")
    place = said(folder, "-c", "import lipdiag; print(lipdiag.__file__)")
    if not Path(place).is_relative_to(folder / "bare"):
        raise SystemExit(f"what was tried is {place}, not {wheel.name}")
    said(folder, "bare/bin/lipdiag", "selftest")
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(found)} files, installed and tried\n{versions}", end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
