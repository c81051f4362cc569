"""Results that are one list a file: entries are added whole, and nothing that was there is lost."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from benchmarks.errors import Misuse
from benchmarks.run import listings


def test_entries_are_added_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "found.json"
    assert listings.read(path) == []
    listings.append(path, {"a": 1})
    listings.append(path, {"b": 2})
    assert listings.read(path) == [{"a": 1}, {"b": 2}]
    assert [file for file in path.parent.rglob("*") if file.is_file()] == [path]


def append_many(path: Path, name: str) -> None:
    for number in range(50):
        listings.append(path, {name: number})


def test_two_processes_that_add_to_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_many, args=(path, name)) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = listings.read(path)
    for name in ("a", "b"):
        assert [entry[name] for entry in found if name in entry] == list(range(50))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"is no file; give the path of a file of entries"):
        listings.read(tmp_path)


def test_an_entry_that_cannot_be_written_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    listings.append(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        listings.append(path, {"b": object()})
    assert path.read_bytes() == before


@pytest.mark.parametrize(("text", "message"), [("[1", "is not JSON"), (json.dumps({"a": 1}), "no list of entries")])
def test_what_is_no_list_is_refused_and_kept(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(Misuse, match=message):
        listings.append(path, {"a": 1})
    assert path.read_text() == text
