"""The page of ``vpbench report --html``: what is on it, what it refuses, and that the same store gives the same bytes."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st
from report_rows import fill, grid, make_row
from sweeps import case
from typer.testing import CliRunner

from vpbench.cli.report import report
from vpbench.cli.run import run as run_command
from vpbench.core import counting
from vpbench.core.errors import StoreError, UsageError
from vpbench.planning.plan import Request, make_plan
from vpbench.planning.suites import preprocess_for, suite_card
from vpbench.reporting import figures
from vpbench.reporting.page import write_page
from vpbench.reporting.page.curve import HEIGHT, curves, epoch_ticks, read_epochs, value_axis
from vpbench.reporting.page.links import file_stem
from vpbench.reporting.page.site import MARKER, publish
from vpbench.reporting.quantities import MISSING, blocks, quantity
from vpbench.reporting.repeat_command import Plans, repeat_command
from vpbench.store.schema import COLUMNS
from vpbench.store.store import Store

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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rows = mixed_rows()
    store = fill(tmp_path_factory.mktemp("store") / "runs", *rows)
    for row in rows[:3]:
        store.write_artefact(str(row["run_id"]), "curve.csv", lambda path: path.write_text(CURVE))
    return store


@pytest.fixture(scope="module")
def site(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without figures. Not to be changed."""
    return write_page(store.folder, tmp_path_factory.mktemp("site") / "page", figures=False).parent


def test_every_link_leads_somewhere_on_the_page(site: Path, store: Store) -> None:
    found = check_links(site)
    assert {name.split("/")[0] for name in found} == {"index.html", "methods", "runs"}
    assert {name for name in found if name.startswith("methods/")} == {
        f"methods/{name}.html" for name in ("insvp", "ivpt", "linear", "vpt")
    }
    assert {name[5:-5] for name in found if name.startswith("runs/")} == set(store.load()["run_id"])


def test_every_run_can_be_reached_from_the_leaderboard(site: Path) -> None:
    reached, waiting, found = set(), {"index.html"}, pages(site)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        links = {((site / name).parent / link.partition("#")[0]).resolve() for link in found[name].links if ".html" in link}
        waiting |= {link.relative_to(site.resolve()).as_posix() for link in links} - reached
    assert reached == set(found)


def test_leaderboard_says_what_the_table_says(site: Path) -> None:
    html = (site / "index.html").read_text()
    row = re.search(r'<tr data-method="linear".*?</tr>', html, re.DOTALL)
    assert row is not None
    cells = [
        (value, " ".join(re.sub("<[^>]+>", "", cell).split()))
        for value, cell in re.findall(r'<td data-value="(.*?)">(.*?)</td>', row[0], re.DOTALL)
    ]
    # Columns: natural digits and flowers, structured sprites, the mean, then costs. Seeds 0 and 1 are 0.4 apart.
    assert cells[:4] == [
        ("60.2", "60.2 ± 0.3 (2)"),
        ("66.2", "66.2 ± 0.3 (2)"),
        ("63.2", "63.2 ± 0.3 (2)"),
        ("63.2", "63.2 ± 0.3"),
    ]
    assert cells[4][1] == "0.00192\u20130.00307"
    page = Page(site / "index.html")
    assert "2 tables differ" in page.text
    assert "Measured on: a CPU, cpu, 2 threads." in page.text
    assert "Runs without a number: 1 diverged." in page.text
    assert "Protocol: images stretched to 48 x 48" in page.text
    assert "the loss became NaN" in page.text


def test_method_page(site: Path) -> None:
    text = " ".join(Page(site / "methods" / "vpt.html").text.split())
    for part in (
        "Visual Prompt Tuning, ECCV 2022",
        "fidelity follows the released code",
        "vpt:shallow",
        "prompt tokens N per block",
    ):
        assert part in text
    assert "seed 0 79.0" in text
    assert re.search(r"prompts new ones before every block before block 0", text)


def test_what_a_method_follows_is_in_words(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", make_row("insvp", fidelity="both-differ"))
    site = write_page(store.folder, tmp_path / "page", figures=False).parent
    for name in ("index.html", "methods/insvp.html"):
        text = " ".join(Page(site / name).text.split())
        assert "paper and released code differ; presets for both" in text
        assert "both-differ" not in text


def test_run_page(site: Path, store: Store) -> None:
    run = str(mixed_rows()[0]["run_id"])
    html = (site / "runs" / f"{run}.html").read_text()
    text = " ".join(Page(site / "runs" / f"{run}.html").text.split())
    row = store.read_row(run) or {}
    assert f"{row['method']} on {row['dataset']}, seed {row['seed']}" in text
    assert "vpbench run --methods" in text
    assert f"run {run}" in text
    assert "linear's paper, table 4" in text
    assert html.count("<svg") == 2, "training loss and validation accuracy"
    assert "0.25" in text
    for column in set(COLUMNS) - {"error", "spec", "method_config", "preprocess", "recipe", "recipe_source"}:
        assert f"<code>{column}</code>" in html
    other = str(mixed_rows()[-1]["run_id"])
    assert "No learning curve was stored" in Page(site / "runs" / f"{other}.html").text


@pytest.mark.sweep
def test_figures_are_there_and_the_others_say_why_not(tmp_path: Path) -> None:
    rows = [make_row("linear", acc1=60.0), make_row("vpt", acc1=70.0)]
    store = fill(tmp_path / "runs", *rows)
    store.write_artefact(str(rows[0]["run_id"]), "curve.csv", lambda path: path.write_text(CURVE))
    site = write_page(store.folder, tmp_path / "page").parent
    check_links(site)
    text = " ".join(Page(site / "index.html").text.split())
    drawn = {path.parent.name for path in (site / "figures").rglob("*.png")}
    assert {"pareto", "heatmap", "seeds", "curves"} <= drawn
    assert "tsne" not in drawn
    assert re.search(r"tsne: [^.]*RESULTS.*--save features", text)
    assert str(tmp_path).encode() not in b"".join(files(site).values())


def test_drawing_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is no terminal, a line now and then; a page takes minutes."""
    store = fill(tmp_path / "runs", make_row("linear", acc1=60.0))
    monkeypatch.setattr(counting, "EVERY_S", 0.0)
    drawn = []

    def draw(name: str, *_: object) -> list[Path]:
        drawn.append(name)
        raise StoreError("nothing to draw")

    monkeypatch.setattr(figures, "draw_figures", draw)
    with counting.counting("page") as on_progress:
        write_page(store.folder, tmp_path / "page", on_progress=on_progress)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(drawn) > 5
    assert lines[1] == f"page, {drawn[1].replace('_', '-')}: 1 of {len(drawn)}"
    with counting.counting("page", quiet=True) as on_progress:
        on_progress(1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.sweep
def test_the_same_store_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    """All but the figures, whose bytes have tests of their own."""
    sites = []
    for name in ("here", "there"):
        store = fill(tmp_path / name / "runs", *mixed_rows())
        sites.append(write_page(store.folder, tmp_path / name / "page", figures=False).parent)
    assert files(sites[0]) == files(sites[1])


def test_nothing_from_a_row_becomes_markup(tmp_path: Path) -> None:
    row = make_row(
        EVIL, EVIL, 0, None, options={EVIL: EVIL}, error=f"{EVIL}\n{EVIL}", suite=EVIL, recipe_source=EVIL, backbone=EVIL
    )
    odd = {**make_row("vpt", device_name=EVIL, fidelity=EVIL), "run_id": f"../../{EVIL}", "group_id": "/etc/x"}
    copied = {**make_row("vpt", seed=3), "run_id": "../outside", "preprocess": "{}", "spec": EVIL}
    store = fill(tmp_path / "runs", row)
    for name, other in (("a", odd), ("b", copied)):
        written = store.write_row({**other, "run_id": name})
        _set_run_id(written, str(other["run_id"]))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "curve.csv").write_text(CURVE)
    with pytest.warns(UserWarning, match="is no name") as caught:  # rows whose ids could lead out of the store
        site = write_page(store.folder, tmp_path / "site" / "page", figures=False).parent
    assert len(caught) == 2
    found = check_links(site)
    for name, page in found.items():
        assert page.scripts == ["table.js" if name == "index.html" else "../table.js"]
        assert page.handlers == []
    assert EVIL in found["index.html"].text
    assert any(EVIL in page.text for name, page in found.items() if name.startswith("methods/"))
    failed = next(page for name, page in found.items() if f"{EVIL}\n{EVIL}" in page.text)
    assert failed.path.parent.name == "runs"
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["page"]
    assert not any("Training loss" in page.text for page in found.values()), "a run id must not lead out of the store"


def _set_run_id(path: Path, run_id: str) -> None:
    """What a file of somebody else may hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(0, table.schema.field("run_id"), pa.array([run_id])), path)


@pytest.mark.sweep
@given(st.text())
def test_file_names_are_harmless(name: str) -> None:
    stem = file_stem(name)
    assert re.fullmatch(r"[a-z0-9_-]{1,64}", stem)
    assert file_stem(stem) == stem


def test_file_names_differ() -> None:
    names = ["vpt", "VPT", "v/p", "v\\p", "v p", "..", "", "é"]
    assert len({file_stem(name) for name in names}) == len(names)
    assert file_stem("vpt") == "vpt"


def test_a_folder_of_somebody_else_is_left_alone(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis is not empty and holds no earlier page"):
        write_page(store.folder, mine, figures=False)
    with pytest.raises(UsageError, match=r"chapter.tex is a file"):
        write_page(store.folder, mine / "chapter.tex", figures=False)
    assert files(mine) == {"chapter.tex": b"years of work"}


def test_an_earlier_page_is_replaced_but_for_files_added_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()  # empty is fine
    store = fill(tmp_path / "runs", make_row("vpt"), make_row("linear"))
    write_page(store.folder, folder, figures=False)
    assert (folder / "methods" / "linear.html").exists()
    fewer = fill(tmp_path / "fewer", make_row("vpt"))
    write_page(fewer.folder, folder, figures=False)
    assert not (folder / "methods" / "linear.html").exists()
    (folder / "methods" / "CNAME").write_text("example.org")
    with pytest.raises(UsageError, match="holds methods/CNAME, which is not of the earlier page"):
        write_page(store.folder, folder, figures=False)
    (folder / "methods" / "CNAME").unlink()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="holds link"):
        write_page(store.folder, folder, figures=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer", "page", "runs"]


def test_an_interruption_leaves_the_earlier_page(tmp_path: Path) -> None:
    folder = tmp_path / "page"

    def stop(site: Path) -> None:
        (site / "index.html").write_text("half")
        raise KeyboardInterrupt

    publish(folder, lambda site: (site / "index.html").write_text("whole"))  # type: ignore[func-returns-value, arg-type]
    with pytest.raises(KeyboardInterrupt):
        publish(folder, stop)
    assert (folder / "index.html").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert set(files(folder)) == {"index.html", MARKER}


def test_a_file_where_a_folder_is_needed_is_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be (written|read)") as caught:
        write_page(store.folder, tmp_path / "file" / "page", figures=False)
    assert "\n" not in str(caught.value)


@pytest.mark.sweep
def test_large_stores_have_a_page_per_specification(tmp_path: Path) -> None:
    rows = [
        {**make_row("vpt", dataset, seed, 80.0 + seed), "group_id": dataset}
        for dataset in ("digits", "flowers")
        for seed in (10, 9, 0)
    ]
    store = fill(tmp_path / "runs", *rows)
    site = write_page(store.folder, tmp_path / "page", figures=False, own_page=5).parent
    found = check_links(site)
    assert {name for name in found if name.startswith("runs/")} == {"runs/digits.html", "runs/flowers.html"}
    page = found["runs/digits.html"]
    assert "vpt on digits, seeds 0, 9 and 10" in page.text
    anchors = {f"run-{row['run_id']}" for row in rows if row["dataset"] == "digits"}
    assert anchors <= set(page.ids)
    html = (site / "runs" / "digits.html").read_text()
    row = re.search(r"<code>acc1</code>.*?</tr>", html, re.DOTALL)
    assert row is not None
    assert re.findall(r"<td>(.*?)</td>", row[0]) == ["80 %", "89 %", "90 %"]


@pytest.mark.sweep
def test_large_stores_have_overviews_only(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", make_row("vpt"), make_row("linear"))
    site = write_page(store.folder, tmp_path / "page", own_page=1).parent
    assert {path.parent.name for path in (site / "figures").rglob("*.png")} == {"pareto"}
    assert "vpbench report --plot heatmap --results RESULTS" in Page(site / "index.html").text


def test_filters(store: Store, tmp_path: Path) -> None:
    site = write_page(store.folder, tmp_path / "page", method="vpt", seed=0, figures=False).parent
    found = check_links(site)
    assert {name for name in found if name.startswith("methods/")} == {"methods/vpt.html"}
    with pytest.raises(UsageError, match="method 'vbt'"):
        write_page(store.folder, tmp_path / "other", method="vbt", figures=False)
    assert not (tmp_path / "other").exists()


def test_a_method_that_was_deleted_still_has_a_page(tmp_path: Path) -> None:
    rows = [
        make_row("gone:big", seed=seed, fidelity="paper", options={"size": 3}, recipe_source="gone's paper") for seed in (0, 1)
    ]
    store = fill(tmp_path / "runs", make_row("linear"), *rows)
    site = write_page(store.folder, tmp_path / "page", figures=False).parent
    found = check_links(site)
    text = " ".join(found["methods/gone.html"].text.split())
    assert "This version of vpbench cannot describe gone" in text
    assert "runs 2 ok labels gone:big versions 1 fidelity follows the paper" in text
    assert "seed 1 80.0" in text
    run = found[f"runs/{rows[0]['run_id']}.html"].text
    assert "--methods gone:big" in run
    assert "gone.size=3" in run
    assert "unknown method 'gone'" in run or "no method 'gone'" in run or "gone" in run


def test_only_failures_broken_files_and_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no runs in"):
        write_page(tmp_path / "nothing", tmp_path / "page")
    assert not (tmp_path / "page").exists()
    store = fill(tmp_path / "runs", make_row("vpt", acc1=None, status="oom", error="out of memory"))
    (store.folder / "broken.parquet").write_bytes(b"not parquet")
    with pytest.warns(UserWarning, match=r"broken\.parquet is not a readable result"):
        site = write_page(store.folder, tmp_path / "page", figures=False).parent
    text = " ".join(check_links(site)["index.html"].text.split())
    assert "1 run, 1 of them failed" in text
    assert "No run has a number." in text
    assert "RESULTS/broken.parquet is not a readable result" in text
    assert "vpt on digits, seed 0 oom out of memory" in text


# The command that repeats a run


def planned_rows(**request: object) -> list[dict[str, object]]:
    """Rows as the runs of a request would leave them."""
    plan = make_plan(Request(**request), Store("/nonexistent/results"))  # type: ignore[arg-type]
    return [
        {
            "run_id": run.spec.run_id, "method": run.spec.method.label, "method_version": run.spec.method.version,
            "method_config": json.dumps(run.spec.method.config), "suite": run.spec.data.suite, "dataset": run.spec.data.dataset,
            "backbone": run.spec.backbone.name, "weights": run.spec.backbone.weights, "weights_sha256": None,
            "image_size": run.spec.backbone.image_size, "preprocess": json.dumps(run.spec.preprocess.identity()),
            "recipe": run.spec.recipe.model_dump_json(), "seed": run.spec.seed, "precision": run.spec.precision,
            "selection": run.spec.selection,
        }
        for run in plan.runs
    ]  # fmt: skip


REQUESTS = {
    "default": {"methods": ("linear", "insvp")},
    "preset": {"methods": ("vpt:shallow",), "seeds": 6},
    "all": {
        "methods": ("vpt", "e2vpt"), "seeds": 2, "weights": "random", "image_size": 48, "epochs": 3, "precision": "fp32",
        "selection": "best_val", "settings": {"vpt.prompt_length": 3, "vpt.deep": False, "recipe.lr": 0.5, "vpt.project": 7},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [case(name, always=["all"]) for name in REQUESTS])
def test_the_command_plans_the_same_run(name: str) -> None:
    rows = planned_rows(datasets=("digits",), **REQUESTS[name])
    app = typer.Typer()
    app.command()(run_command)
    for row in rows[:: max(1, len(rows) - 1)]:  # the first and the last
        command = repeat_command(row, Plans())
        words = shlex.split(command.line)
        assert words[:2] == ["vpbench", "run"]
        done = CliRunner().invoke(app, [*words[2:], "--dry-run", "--json", "--results", "/nonexistent/results"])
        assert done.exit_code == 0, done.output
        assert row["run_id"] in {run["run_id"] for run in json.loads(done.stdout)}


def test_the_command_says_nothing_needless() -> None:
    row = planned_rows(datasets=("digits",), methods=("linear",))[0]
    assert (
        repeat_command(row, Plans()).line
        == f"vpbench run --methods linear --suite mini --datasets digits --image-size 40 --precision {row['precision']}"
    )


def test_the_command_says_what_it_cannot_bring_back() -> None:
    row = planned_rows(datasets=("digits",), methods=("vpt",))[0]
    changed = {
        **row, "weights": "file", "weights_sha256": "ab" * 32, "seed": 7, "method_version": 99,
        "preprocess": '{"resize": "crop"}',
        "method_config": json.dumps({**json.loads(str(row["method_config"])), "old": 'a "b" c'}),
    }  # fmt: skip
    command = repeat_command(changed, Plans())
    assert "--weights FILE" in command.line
    notes = " ".join(command.notes)
    for part in (
        "SHA-256 abab",
        "Seed 7 is not among",
        "was made with version 99",
        "prepared images otherwise",
        "no option 'old' any more",
    ):
        assert part in notes
    custom = repeat_command({**row, "suite": "custom", "dataset": "mine"}, Plans())
    assert "--data PATH" in custom.line
    own = preprocess_for(suite_card("custom"), None, "#102030").identity()
    custom = repeat_command({**row, "suite": "custom", "dataset": "mine", "preprocess": json.dumps(own)}, Plans())
    assert "--background '#102030'" in custom.line
    assert not any("prepared images otherwise" in note for note in custom.notes)
    assert repeat_command({**row, "suite": "lost"}, Plans()).notes[0] == "This version of vpbench has no suite 'lost'."


# Values and curves


def test_quantities() -> None:
    assert quantity("acc1", 81.25) == "81.25 %"
    assert quantity("mem_train_peak", 3 * 2**30) == "3,221,225,472 bytes (3 GiB)"
    assert quantity("bytes_saved", 1000) == "1,000 bytes (1000 B)"
    assert quantity("latency_ms_p50", 4.123456789) == "4.12346 ms"
    assert quantity("flops_forward", 250_000_000) == "250,000,000 FLOPs per image"
    assert quantity("seed", 1000) == "1000"
    assert quantity("git_dirty", False) == "no"
    assert quantity("first_losses", [1.0, 0.5]) == "1, 0.5"
    assert quantity("acc5", None) == quantity("acc5", float("nan")) == MISSING


def test_every_column_is_in_one_block() -> None:
    found = blocks([*COLUMNS, "column of another version"])
    names = [name for _, members in found for name in members]
    assert sorted(names) == sorted([*COLUMNS, "column of another version"])
    assert [title for title, _ in found][-1] == "Of another version"


def test_a_curve_shows_its_epochs(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(CURVE)
    loss, accuracy = curves(read_epochs(path), EVIL)
    for picture in (loss, accuracy):
        assert picture.count("<circle") == 3
        assert picture.count("<polyline") == 2, "a phase is a line of its own"
        assert "<script" not in picture
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', loss)]
    assert heights == sorted(heights), "a loss that falls goes down the page"
    assert "2.5 in the first epoch, 0.05 in the last of 3" in loss


def test_a_diverged_or_broken_curve(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("phase,train_loss,val_acc1\ntrain,2.0,\ntrain,nan,\ntrain,inf,\n")
    (loss,) = curves(read_epochs(path), "x")
    assert loss.count("<circle") == 1
    path.write_text("phase,train_loss,val_acc1\ntrain,nan,\n")
    assert curves(read_epochs(path), "x") == []
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match="no learning curve"):
        read_epochs(path)


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6), st.booleans())
@example(0.9375, 2.220446049250313e-16, False)
@example(1.0, 2.220446049250313e-16, False)
@example(2544.386, 0.000176, False)
@example(1e-6, 1e-9, False)
def test_axes_hold_their_values(low: float, extent: float, may_log: bool) -> None:
    axis = value_axis(low, low + extent, may_log)
    assert -1e-6 <= axis.place(low) <= axis.place(low + extent) <= 1 + 1e-6
    assert 2 <= len(axis.ticks) <= 8
    assert len({f"{tick:g}" for tick in axis.ticks}) == len(axis.ticks)
    places = sorted(map(axis.place, axis.ticks))
    assert min(after - before for before, after in pairwise(places)) * HEIGHT > 11, "labels do not touch"
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)


@given(st.integers(1, 5000))
def test_epoch_ticks(count: int) -> None:
    ticks = epoch_ticks(count)
    assert ticks[0] == 1
    assert ticks == sorted(set(ticks))
    assert ticks[-1] <= count
    assert len(ticks) <= 7


# Colours


def themes() -> Iterator[dict[str, str]]:
    css = (Path(sys.modules["vpbench.reporting.page"].__file__ or "").parent / "style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL))
    assert light.keys() == dark.keys()
    yield light
    yield dark


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_aa() -> None:
    for theme in themes():
        for ground in ("page", "card", "mark"):
            for ink, least in (
                ("text", 4.5),
                ("quiet", 4.5),
                ("link", 4.5),
                ("good", 4.5),
                ("bad", 4.5),
                ("focus", 3),
                ("curve", 3),
            ):
                light, dark = sorted((luminance(theme[ground]), luminance(theme[ink])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= least, (ink, ground, theme)


# The command line


def test_report_html(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", make_row("vpt"), make_row("vpt", "flowers"))
    app = typer.Typer()
    app.command()(report)
    words = ["--results", str(store.folder), "--html", str(tmp_path / "page"), "--dataset", "digits"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.stdout == f"{tmp_path / 'page' / 'index.html'}\n"
    assert "1 run." in Page(tmp_path / "page" / "index.html").text


def test_html_excludes_the_other_outputs(store: Store, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    words = ["--results", str(store.folder), "--html", str(tmp_path / "page")]
    for other in (["--table", "1"], ["--plot", "pareto"], ["--format", "md"], ["--json"], ["--out", "x"]):
        assert isinstance(CliRunner().invoke(app, [*words, *other]).exception, UsageError)
    assert not (tmp_path / "page").exists()
