"""Pages of ``vpbench report --html`` as a reader takes them in: texts, tables, links."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from report_rows import grid, make_row

CURVE = "phase,epoch,epochs,lr,train_loss,val_acc1\nwarm,1,3,0.1,2.5,10\nwarm,2,3,0.1,1.5,40\ntrain,1,1,0.1,0.05,80\n"
EVIL = "<script>alert('1')</script>&\"x"
VOID = {"meta", "link", "img", "input", "br", "path", "circle", "polyline", "wbr"}


class Page(HTMLParser):
    """A page's links, anchors and text; fails where a tag is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str | None] = []
        self.handlers: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [], f"{path} leaves {self._open} open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "script":
            self.scripts.append(given.get("src"))
        if tag not in VOID:
            self._open.append(tag)
        self.text += " " if tag in ("td", "dt", "dd") else ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<path/>`` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"{self.path}: </{tag}> closes nothing"
        assert self._open[-1] == tag, f"{self.path}: </{tag}> where {self._open[-1]} is open"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def files(site: Path) -> dict[str, bytes]:
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in sorted(site.rglob("*")) if path.is_file()}


def check_links(site: Path) -> dict[str, Page]:
    """Every link leads to a file of the site and to an anchor on it; no anchor is there twice."""
    found = pages(site)
    for name, page in found.items():
        assert len(page.ids) == len(set(page.ids)), f"{name} has an id twice"
        for link in page.links:
            if link == "data:,":
                continue
            file, _, anchor = link.partition("#")
            assert not re.match(r"[a-z]+:|/", link), f"{name} links to {link}, which is not of this page"
            target = (site / name).parent / file if file else site / name
            assert target.is_file(), f"{name} links to {link}, which is not there"
            if anchor:
                assert anchor in found[target.resolve().relative_to(site.resolve()).as_posix()].ids, f"{name}: no {link}"
    return found


def mixed_rows() -> list[dict[str, object]]:
    """Two sections, a variant, a preset, a failure, a missing cell."""
    rows = [row for row in grid() if (row["method"], row["dataset"]) != ("insvp", "flowers")]
    rows += [make_row("vpt", "digits", 0, 79.0, options={"prompt_length": 50}, minutes=9, fidelity="released-code")]
    rows += [make_row("vpt:shallow", "digits", 0, 75.0, options={"deep": False}, minutes=9)]
    rows += [make_row("ivpt", "digits", 0, None, error="Traceback\nthe loss became NaN")]
    return [*rows, make_row("vpt", "digits", 0, 84.0, recipe={"epochs": 100}, device="cpu", threads=2, device_name="a CPU")]
