"""The page of ``vpbench report --html``: what is on it, what it refuses, and that the same store gives the same bytes."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from page_reader import CURVE, EVIL, Page, check_links, files, mixed_rows, pages
from report_rows import fill, make_row
from typer.testing import CliRunner

from vpbench.cli.report import report
from vpbench.core import counting
from vpbench.core.errors import StoreError, UsageError
from vpbench.reporting import figures
from vpbench.reporting.page import pictures, write_page
from vpbench.reporting.page.links import file_stem
from vpbench.reporting.page.site import MARKER, publish
from vpbench.store.schema import COLUMNS
from vpbench.store.store import Store


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


def test_more_figures_of_a_kind_than_a_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [make_row("vpt", name) for name in ("cars", "digits")]
    store = fill(tmp_path / "runs", *rows)
    for row in rows:
        store.write_artefact(str(row["run_id"]), "curve.csv", lambda path: path.write_text(CURVE))
    monkeypatch.setattr(pictures, "MOST", 1)
    site = write_page(store.folder, tmp_path / "page").parent
    assert len(list((site / "figures" / "curves").glob("*.png"))) == 1
    text = " ".join(Page(site / "index.html").text.split())
    assert "No more than 1 are shown: vpbench report --plot curves --results RESULTS draws all." in text


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
    with pytest.raises(StoreError, match="no results folder"):
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


# The command line


def test_report_html(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", make_row("vpt"), make_row("vpt", "flowers"))
    app = typer.Typer()
    app.command()(report)
    words = ["--results", str(store.folder), "--html", str(tmp_path / "page"), "--dataset", "digits"]
    with mock.patch("vpbench.reporting.page.site.draw_all", lambda *_: []):
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
