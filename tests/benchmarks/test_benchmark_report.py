"""The report: self-contained, safe whatever the names are, and every figure traceable to its file and command."""

from __future__ import annotations

import base64
import json
import shlex
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from fake_results import arguments_of, result, store

from benchmarks import report, tables
from benchmarks.__main__ import main
from benchmarks.run import store as results
from benchmarks.run.selection import read, select

EVIL = "<script>alert('x')<img src=x onerror=alert(1)>&\"b"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements with their attributes, the text within them, and the ids; fails on tags that don't match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append((tag, self.elements[-1][2]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, text in self.open:
            text.append(data)

    def all(self, tag: str, attribute: str) -> list[tuple[str, str]]:
        """Value of the attribute, and text, of every such element that has it."""
        found = [(attrs.get(attribute), "".join(text).strip()) for own, attrs, text in self.elements if own == tag]
        return [(value, text) for value, text in found if value is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two seeds, a user's data set of a name that is mark-up, PF, and the choice of one result."""
    own = f"{EVIL}.toml"
    entries = [
        result("msft"),
        result("msft", seed=1, command="python -m benchmarks run --suite first --seeds 1", resolved={"num_scales": 2}),
        result("dlinear"),
        result("msft", own),
        result("full", family="pf"),
    ]
    for entry in entries:
        entry["examples"] = entry["examples"][:1]
    entries[3]["examples"][0]["variable"] = EVIL
    choice = {"kind": "choice", "key": entries[2]["choice_key"], "experiment": entries[2]["experiment"], "rows": []}
    same = ("weights", "data_hash", "protocol", "defaults", "provenance")
    choice |= {**{name: entries[2][name] for name in same}, "chosen": {}, "dropped": [], "followed": None}
    choices = [choice, {**choice, "data_hash": "0" * 64}, {**choice, "defaults": "0" * 64}]
    folder = store(tmp_path_factory.mktemp("of results"), *entries, *choices)
    assert main(["report", "--results", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page: Page) -> None:
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    names = {name for _, attrs, _ in page.elements for name in attrs}
    assert not {name for name in names if name.startswith("on")}
    assert [source[:26] for source, _ in page.all("img", "src")] == ["data:image/svg+xml;base64,"] * 6
    (policy,) = [a["content"] for _, a, _ in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_link_leads_somewhere(page: Page, folder: Path) -> None:
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    links = [link for link, _ in page.all("a", "href")]
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (folder / unquote(link)).is_file()


def test_names_are_text(page: Page) -> None:
    headings = [text for _, text in page.all("th", "class")]
    assert f"{EVIL} 96" in headings
    for source, _ in page.all("img", "src"):
        tree = ET.fromstring(base64.b64decode(source.split(",")[1]))
        assert not [element for element in tree.iter() if element.tag.endswith("script")]
    assert any(EVIL in caption for caption, _ in page.all("img", "alt"))


def test_every_figure_is_that_of_the_file_it_leads_to(page: Page, folder: Path) -> None:
    files = {f"#result-{path.stem}": json.loads(path.read_text()) for path in (folder / "runs").glob("*.json")}
    figures = [(attrs, "".join(text)) for tag, attrs, text in page.elements if tag == "a" and "title" in attrs]
    assert len(figures) == 3 * 2 + 3  # three cells of LSF, one of PF
    seeds = 0
    for attrs, text in figures:
        values = files[str(attrs["href"])]["metrics"].values()
        if "±" in text:
            seeds += 1
            assert attrs["href"] == f"#result-{str(attrs['title']).split('.json')[0]}"
            both = [json.loads((folder / "runs" / name).read_text()) for name in str(attrs["title"]).split(", ")]
            means = [sum(entry["metrics"][metric] for entry in both) / 2 for metric in ("mse", "mae")]
            assert [entry["experiment"]["seed"] for entry in both] == [0, 1]
            assert text.split(" ± ")[0] in [f"{mean:.3f}" for mean in means]
        else:
            assert text in [f"{value:.3f}" for value in values]
    assert seeds == 2
    marks = {tag: ["".join(text) for own, _, text in page.elements if own == tag] for tag in ("strong", "u")}
    (table,) = [table for table in select(arguments_of(tables, "--results", str(folder))) if table.family == "lsf"]
    for tag, place in (("strong", 1), ("u", 2)):
        expected = [
            table.text(row, column, metric)
            for row in table.rows
            for column in table.columns
            for metric in table.metrics
            if table.marks(column, metric).get(row) == place
        ]
        assert marks[tag] == expected


def test_pictures_name_their_command_and_results(page: Page, folder: Path) -> None:
    captions = ["".join(text) for tag, _, text in page.elements if tag == "figcaption"]
    assert len(captions) == 6
    command = f"python -m benchmarks plot --results {shlex.quote(str(folder))}"
    assert all(caption.endswith(f"Made by {command}.") for caption in captions)
    # what is left out is said in words
    notes = ["".join(text) for tag, attrs, text in page.elements if tag == "p" and attrs.get("class") == "notes"]
    assert sum(note.startswith("Left out: No diagram of critical differences") for note in notes) == 2


def test_the_choice_is_that_of_the_same_data_and_defaults(page: Page) -> None:
    links = [unquote(link) for link, _ in page.all("a", "href") if link.startswith("choices/")]
    assert len(links) == 1
    assert "-dlinear-" in links[0]
    assert not links[0].endswith(("-2.json", "-3.json"))  # those of other data and of other defaults


def test_the_same_page_each_time(folder: Path) -> None:
    before = (folder / "report.html").read_bytes()
    report.main(arguments_of(report, "--results", str(folder)))
    assert (folder / "report.html").read_bytes() == before


def test_every_source_has_the_command_that_measured_it(page: Page, folder: Path) -> None:
    commands = ["".join(text) for tag, _, text in page.elements if tag == "code"]
    assert commands.count("python -m benchmarks run --suite first --seeds 1") == 1
    rows = {attrs["id"]: "".join(text) for tag, attrs, text in page.elements if tag == "tr" and "id" in attrs}
    (seed_1,) = [row for row in rows.values() if "--seeds 1" in row]
    assert "num_scales=2" in seed_1  # what the model really had


def test_a_folder_that_is_none_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(tmp_path / "typo")]) == 2
    assert capsys.readouterr().err.startswith(f"python -m benchmarks report: no results in {tmp_path / 'typo'};")
    assert main(["report", "--results", str(tmp_path / "typo"), "--output", str(tmp_path / "new")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_reading_gives_what_the_store_has(folder: Path) -> None:
    assert [(run.path, run.result) for run in read(folder)] == results.entries(folder, "run")
