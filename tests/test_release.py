"""What is built holds the whole package and nothing else, and forecasts where only what it needs is installed.

The environment is a fresh one that sees only those installed packages that the wheel's requirements lead to, so an
import of anything else fails, as does a requirement that is not met.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

from darts_msft import __version__

ROOT = Path(__file__).parent.parent
MOST = 12e6  # bytes of a wheel
FRESH = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
ALONE = """
import socket
import darts_msft.training.windows
def refuse(*_): raise OSError("the network was asked for")
socket.socket.connect = refuse
darts_msft.training.windows.VALIDATION_WINDOWS = 16
print(darts_msft.__file__)
"""


def run(*words: object, folder: Path, limit: float = 300) -> str:
    """What a command prints; it knows nothing of this process's settings."""
    done = subprocess.run([*map(str, words)], cwd=folder, env=FRESH, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


def wheel_in(folder: Path) -> Path:
    (wheel,) = folder.glob("darts_msft-*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    wheel, packages = wheel_in(built), (ROOT / "darts_msft", ROOT / "darts_msft_command")
    assert wheel.name == f"darts_msft-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    files = (file for package in packages for file in package.rglob("*"))
    own = {str(file.relative_to(ROOT)) for file in files if file.is_file() and file.suffix != ".pyc"}
    about = {name for name in names if name.startswith(f"darts_msft-{__version__}.dist-info/")}
    assert names - about == own
    assert {Path(name).name for name in about} >= {"METADATA", "RECORD", "LICENSE", "SOURCE.md", "entry_points.txt"}


def test_what_tells_the_version_agrees() -> None:
    told = {
        "pyproject.toml": r'^version = "(.*)"$',
        "CITATION.cff": "^version: (.*)$",
        "CHANGELOG.md": r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$",
    }
    for name, pattern in told.items():
        found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)
        assert found, name
        assert found[1] == __version__, name


def test_the_sdist_holds_what_is_tracked(built: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert names - set(listed.splitlines()) <= {"PKG-INFO"}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "docs/index.md"} <= names


def needs(one: Distribution, extras: frozenset[str]) -> dict[str, frozenset[str]]:
    """What a distribution with these extras requires here, with the extras that it asks of it."""
    from packaging.requirements import Requirement

    found = {}
    for text in one.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            found[requirement.name] = frozenset(requirement.extras)
    return found


def environment(folder: Path, wheel: Path) -> Path:
    """A fresh environment's Python: with the packages that the wheel leads to, by links, and the wheel."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    meta = zipfile.ZipFile(wheel).read(f"darts_msft-{__version__}.dist-info/METADATA").decode()
    (folder / "METADATA").write_text(meta)
    waiting, seen = needs(Distribution.at(folder), frozenset()), {}
    while waiting:
        name, extras = waiting.popitem()
        if seen.get(name, frozenset()) >= extras and name in seen:
            continue
        seen[name] = extras | seen.get(name, frozenset())
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # pip says so if it is needed
        waiting |= needs(found, seen[name])
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", python, "install", "--quiet", "--no-index"]
    run(*pip, wheel, folder=folder)
    return python


def quick_start() -> str:
    """The README's ten lines, with a single small epoch."""
    (code,) = re.findall(r"^## Ten lines\n\n```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert "n_epochs=3" in code
    return ALONE + code.replace("n_epochs=3", "n_epochs=1, windows_per_epoch=32")


def forecasts_in(folder: Path, python: Path) -> None:
    """The quick start and the command run there, without a network, from what was installed."""
    place, *lines = run(python, "-I", "-c", quick_start(), folder=folder).splitlines()
    assert Path(place).is_relative_to(folder)
    assert any(line.startswith("kept: ") for line in lines)
    assert len(re.findall(r"\d+\.\d+", lines[-1])) == 3  # the last step's three quantiles
    run(python, "-I", "-c", "from darts_msft.datasets import load_departures as l; "
        "l()[:700].to_dataframe().to_csv('data.csv', index_label='date')", folder=folder)  # fmt: skip
    words = ("data.csv", "--time", "date", "--horizon", "24", "--context", "64", "--picture", "picture.png")
    run(python.with_name("darts-msft"), "forecast", *words, folder=folder)
    assert len((folder / "forecast.csv").read_text().splitlines()) == 25
    assert (folder / "picture.png").stat().st_size > 5000


@pytest.mark.slow
def test_it_forecasts_where_only_what_it_needs_is_installed(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("packaging")
    forecasts_in(tmp_path, environment(tmp_path / "fresh", wheel_in(built)))


@pytest.mark.network
def test_it_installs_from_the_wheelhouse_alone(tmp_path: Path) -> None:
    """`make wheelhouse`, then an empty environment that finds nothing else."""
    place = f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready-test", f"WHEELHOUSE={tmp_path / 'wheels'}"
    subprocess.run(["make", "wheelhouse", *place], cwd=ROOT, check=True)
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    only = ("--isolated", "install", "--quiet", "--no-index", "--find-links", tmp_path / "wheels")
    run(python, "-m", "pip", *only, "darts-msft", folder=tmp_path, limit=1200)
    forecasts_in(tmp_path, python)
