"""From which code a result is: what counts as a change of it, in a small repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.errors import Misuse
from benchmarks.run import provenance

NO_CODE = ("README.md", "darts_msft/card.md", "tests/test_a.py", "examples/01.py", "benchmarks/results/runs/a.json")
CODE = ("darts_msft/model.py", "benchmarks/run/jobs.py", "pyproject.toml", "darts_msft/tests/a.py")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def put(folder: Path, name: str, text: str = "1") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def commit(folder: Path) -> str:
    """Everything, as a commit, by its name."""
    git(folder, "add", ".")
    git(folder, "commit", "-m", "more")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository that results are of."""
    for name in (*NO_CODE, *CODE):
        put(tmp_path, name)
    git(tmp_path, "init")
    commit(tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "counts"), [*((name, False) for name in NO_CODE), *((name, True) for name in CODE)])
def test_what_a_figure_may_rest_on_counts(checkout: Path, name: str, counts: bool) -> None:
    """Changed, removed and committed; other files beside it that git doesn't know, too."""
    before = git(checkout, "rev-parse", "HEAD")
    assert not provenance.is_dirty()
    new = Path(name).with_stem("new")
    put(checkout, str(new))
    assert provenance.is_dirty() == counts
    (checkout / new).unlink()
    put(checkout, name, "2")
    assert provenance.is_dirty() == counts
    (checkout / name).unlink()
    assert provenance.is_dirty() == counts
    after = commit(checkout)
    assert provenance.provenance()["commit"] == after != before
    assert provenance.same_code(before, after) == (not counts)
    assert provenance.same_code(after, after)
    assert not provenance.is_dirty()


def test_a_new_folder_of_texts_does_not_count(checkout: Path) -> None:
    put(checkout, "notes/more/a.md")
    assert not provenance.is_dirty()
    put(checkout, "notes/more/a.py")
    assert provenance.is_dirty()


@pytest.mark.parametrize("inside_another", [False, True])
def test_a_download_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch, inside_another: bool) -> None:
    """The commit of a repository around it is not its own."""
    download = checkout / "download" if inside_another else checkout.parent / f"{checkout.name}-download"
    download.mkdir()
    monkeypatch.setattr(provenance, "ROOT", download)
    for ask in (provenance.provenance, provenance.is_dirty):
        with pytest.raises(
            Misuse, match=r"^results need a git checkout, .* \(fatal: not a git .* `git clone`"
        ) as error:
            ask()
        assert "\n" not in str(error.value)


def test_git_that_is_not_installed_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(Misuse, match=r"results need a git checkout.*No such file or directory: 'git'"):
        provenance.is_dirty()
