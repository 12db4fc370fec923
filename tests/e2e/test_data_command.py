"""``vpbench data``: what is listed, judged, fetched and checked, from the command line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import CHECKOUT, Outcome, environment, rows, traces, vpbench
from file_server import FileServer, serving
from published_set import FACTS, SOURCE, lay_out, members, offered, packed
from sweeps import some

from vpbench.data import sources
from vpbench.data.catalog import dataset_card, dataset_names

ARCHIVE = packed(".tar.gz")
SUITE = (CHECKOUT / "benchmarks" / "suites" / "mini.toml").read_text()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def cards(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """vpbench's cards and, beside them, those of a set, its suite and a set that cannot be fetched.

    They are found as they would be had they come with vpbench: in the package of cards, and in that of sources.
    """
    site = tmp_path / "site"
    for folder in ("datasets", "suites", "recipes", "searches"):
        shutil.copytree(CHECKOUT / "benchmarks" / folder, site / "benchmarks" / folder)
    (site / "benchmarks" / "backbones").symlink_to(CHECKOUT / "benchmarks" / "backbones")
    (site / "benchmarks" / "__init__.py").write_text("")
    download = offered(server.put("set.tar.gz", ARCHIVE), ARCHIVE).model_dump(exclude={"md5"}, exclude_defaults=True)
    facts = "".join(f"{key} = {json.dumps(value)}\n" for key, value in FACTS.items())
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in download.items())
    datasets = site / "benchmarks" / "datasets"
    (datasets / "pictures.toml").write_text(f"{facts}[[downloads]]\n{lines}")
    (datasets / "by-hand.toml").write_text(facts.replace('["pictures", "Pictures-1.0"]', '["by-hand"]'))
    kept = [line for line in SUITE.splitlines() if not line.startswith("datasets")]
    (site / "benchmarks" / "suites" / "pictures.toml").write_text("\n".join(['datasets = ["pictures"]', *kept]))
    (site / "sources").mkdir()
    (site / "sources" / "pictures.py").write_text(SOURCE)

    spec = importlib.util.spec_from_file_location("vpbench.benchmarks", site / "benchmarks" / "__init__.py")
    assert spec
    monkeypatch.setitem(sys.modules, "vpbench.benchmarks", importlib.util.module_from_spec(spec))
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(site / "sources")])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the first test to import the source would leave a file
    monkeypatch.setenv("VPBENCH_DATA", str(tmp_path / "data"))
    return site


PROCESS = """
import sys
import vpbench
site = sys.argv.pop(1)
vpbench.__path__.insert(0, site)
import vpbench.data.sources as sources
sources.__path__.append(site + "/sources")
from vpbench.cli.app import main
if sys.argv[1:] != ["several"]:
    main()
import io, json
from contextlib import redirect_stdout
for words in json.load(sys.stdin):
    sys.argv, code = ["vpbench", "data", *words.split()], 0
    with redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    print(json.dumps([words, code, out.getvalue(), "torch" in sys.modules]))
"""


def start(cards: Path, *words: str) -> subprocess.Popen[str]:
    """The command as a process of its own, with the same cards."""
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(cards), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def refused(done: Outcome, code: int, *parts: str) -> None:
    assert done.code == code, done.err
    (line,) = done.err.splitlines()
    assert line.startswith("vpbench: ")
    for part in parts:
        assert part in line


def test_list(cards: Path) -> None:
    entries = {entry["name"]: entry for entry in json.loads(vpbench("data", "list", "--json").out)}
    assert sorted(entries) == dataset_names()
    assert entries["digits"] == {
        "name": "digits", "title": "Digits", "group": "natural", "classes": 10, "n_train": 800, "n_val": 200, "n_test": 797,
        "licence": "CC BY 4.0",
    }  # fmt: skip
    done = vpbench("data", "list")
    assert done.code == 0
    assert all(name in done.out for name in ("digits", "pictures", "by-hand"))


def test_from_nothing_to_a_run(cards: Path, server: FileServer, tmp_path: Path, unmeasured: None) -> None:
    before = vpbench("data", "doctor", "pictures", "--json")
    folder = str(tmp_path / "data" / "pictures")
    assert before.code == 1
    assert json.loads(before.out) == [
        {"name": "pictures", "status": "missing", "folder": folder, "detail": "vpbench data get pictures"}
    ]
    planned = vpbench("data", "get", "--suite", "pictures", "--dry-run")
    assert planned.code == 0
    assert f"{server.url}/set.tar.gz to {folder}/set.tar.gz" in planned.out
    assert server.exchanges == []
    assert not (tmp_path / "data").exists()

    fetched = vpbench("data", "get", "--suite", "pictures")
    assert fetched.code == 0, fetched.err
    assert "1 of 1 ready" in fetched.out
    assert len(server.exchanges) == 1
    again = vpbench("data", "get", "pictures")
    assert (again.code, len(server.exchanges)) == (0, 1)
    assert "nothing to fetch" in vpbench("data", "get", "pictures", "--dry-run").out

    after = vpbench("data", "doctor", "--suite", "pictures")
    assert after.code == 0
    assert folder in after.out
    assert "12 train, 3 val, 6 test" in after.out
    verified = vpbench("data", "verify", "pictures", "--images", "--json")
    assert verified.code == 0
    (facts,) = json.loads(verified.out)
    assert (facts["counts"]["n_test"], facts["decoded"], facts["unreadable"], facts["problems"]) == (6, 21, 0, [])

    run = vpbench(
        "run", "--suite", "pictures", "--methods", "linear", "--epochs", 1, "--device", "cpu", "--precision", "fp32",
        "--results", tmp_path / "runs",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert rows(tmp_path / "runs")["dataset"].tolist() == ["pictures"]


def test_doctor_of_all(cards: Path) -> None:
    done = vpbench("data", "doctor")
    assert done.code == 1
    built_in = [name for name in dataset_names() if not dataset_card(name).folders]
    assert f"{len(built_in)} of {len(dataset_names())} ready" in done.out
    assert "Ask at https://pictures.invalid/." in done.out
    assert vpbench("data", "doctor", "--suite", "mini").code == 0
    assert vpbench("data", "doctor", "digits,sprites-location", "digits").out.count("built in") == 2


def test_verify_finds_broken_images(cards: Path, tmp_path: Path) -> None:
    files = members()
    for name in files:
        if name.endswith(".png") and "train" in name:
            files[name] = files[name][:40]
    lay_out(tmp_path / "elsewhere" / "pictures", files)
    assert vpbench("data", "verify", "pictures", "--data-root", tmp_path / "elsewhere").code == 0
    done = vpbench("data", "verify", "pictures", "--images", "--data-root", tmp_path / "elsewhere")
    assert done.code == 1
    assert "15 of 21 images cannot be read" in done.out
    assert done.out.count(".png cannot be read as an image") == 10
    assert "and 5 more" in done.out


def test_verify_of_what_is_not_there(cards: Path) -> None:
    done = vpbench("data", "verify", "digits", "pictures", "--json")
    assert done.code == 1
    first, second = json.loads(done.out)
    assert vpbench("data", "verify", "pictures").out.startswith("pictures: missing, ")
    assert first["problems"] == []
    assert "Pictures is not in" in second["problems"][0]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    some(
        [
            ("get picture", 2, ["'picture'", "Did you mean 'pictures'?"]),
            ("doctor picture", 2, ["Did you mean 'pictures'?"]),
            ("verify picture", 2, ["Did you mean 'pictures'?"]),
            ("convert", 2, ["at least one data set"]),
            ("convert picture", 2, ["Did you mean 'pictures'?"]),
            ("convert pictures --from tdfs", 2, ["'tdfs'", "Did you mean 'tfds'?"]),
            ("convert pictures", 2, ["pictures cannot be converted from tfds"]),
            ("convert vtab.dsprites-location --from original --path {nowhere}", 3, ["{nowhere}", "does not exist"]),
            ("get", 2, ["at least one data set", "vpbench data list"]),
            ("get pictures --suite mini", 2, ["--suite mini", "exclude each other"]),
            ("get --suite custom", 2, ["'custom'", "no data sets of its own"]),
            ("doctor --suite minni", 2, ["Did you mean 'mini'?"]),
            ("get by-hand", 3, ["Pictures cannot be downloaded automatically", "Ask at https://pictures.invalid/."]),
            ("get by-hand --dry-run", 3, ["Ask at https://pictures.invalid/."]),
            ("get pictures --data-root {file}", 2, ["{file}", "--data-root"]),
        ],
        8,
    ),
)
def test_mistakes(cards: Path, tmp_path: Path, words: str, code: int, parts: list[str]) -> None:
    def filled(text: str) -> str:
        return text.format(nowhere=tmp_path / "nowhere", file=tmp_path / "file")

    (tmp_path / "file").write_text("mine")
    before = traces(tmp_path)
    done = vpbench("data", *filled(words).split())
    refused(done, code, *map(filled, parts))
    assert done.out == ""
    assert traces(tmp_path) == before


def test_a_file_that_is_gone(cards: Path, server: FileServer, tmp_path: Path) -> None:
    server.files.clear()
    refused(vpbench("data", "get", "pictures"), 3, f"{server.url}/set.tar.gz", "404", "Ask at https://pictures.invalid/.")
    assert not (tmp_path / "data" / "pictures").exists()


def test_a_file_that_changed(cards: Path, server: FileServer, tmp_path: Path) -> None:
    """Of the same size, so that only the checksum tells."""
    server.put("set.tar.gz", ARCHIVE[::-1])
    done = vpbench("data", "get", "pictures")
    assert done.code == 3
    assert "sha256" in done.err.splitlines()[-1]
    assert "the card says" in done.err.splitlines()[-1]
    assert traces(tmp_path / "data") == {}


def test_one_set_that_fails_does_not_keep_others(cards: Path) -> None:
    done = vpbench("data", "get", "by-hand", "pictures")
    assert done.code == 3
    assert "vpbench: by-hand: Pictures cannot be downloaded automatically." in done.err
    assert "1 of 1 ready" in done.out


def test_files_that_do_not_make_the_set(cards: Path, server: FileServer) -> None:
    """They came as the card says and are still not what the source reads."""
    content = packed(".tar.gz", {"readme.txt": b"moved"})
    card = cards / "benchmarks" / "datasets" / "pictures.toml"
    facts = card.read_text().split("[[downloads]]")[0]
    address = server.put("other.tar.gz", content)
    card.write_text(f'{facts}[[downloads]]\nurl = "{address}"\nunpack = true\n')
    done = vpbench("data", "get", "pictures")
    assert done.code == 1
    assert "incomplete" in done.out
    assert "train.txt is missing" in done.out


def test_ctrl_c_keeps_what_came(cards: Path, server: FileServer, tmp_path: Path) -> None:
    server.hold_after = half = len(ARCHIVE) // 2
    process = start(cards, "data", "get", "pictures")
    part = tmp_path / "data" / "pictures" / "set.tar.gz.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == half):
        assert time.monotonic() < deadline, "nothing came"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "vpbench: interrupted; what came of pictures is kept, the same command continues."
    assert "Traceback" not in errors
    assert part.stat().st_size == half

    server.hold_after = None
    done = vpbench("data", "get", "pictures")
    assert done.code == 0, done.err
    assert server.exchanges[-1].range == f"bytes={half}-"
    assert server.exchanges[-1].sent == len(ARCHIVE) - half
    assert not part.exists()


@pytest.mark.sweep
def test_torch_stays_out(cards: Path, tmp_path: Path) -> None:
    """One process for all: the first command that imports torch is the first to say so."""
    lay_out(tmp_path / "data" / "pictures")
    asked = ["list", "doctor --suite pictures", *(f"{name} --help" for name in ("list", "doctor", "get", "verify", "convert"))]
    asked.append("get pictures")
    out, errors = start(cards, "several").communicate(json.dumps(asked), timeout=60)
    found = [json.loads(line) for line in out.splitlines()]
    assert [words for words, *_ in found] == asked, errors
    for words, code, said, imported in found:
        assert (code, imported) == (0, False) and said, (words, errors)
        if "--help" in words:
            assert "Examples" in said and f"vpbench data {words.split()[0]}" in said


def test_a_dry_run_goes_on_after_a_set_that_is_got_by_hand(cards: Path, server: FileServer) -> None:
    done = vpbench("data", "get", "by-hand", "pictures", "--dry-run")
    assert done.code == 0
    assert "by-hand: by hand. Pictures cannot be downloaded automatically. Ask at https://pictures.invalid/." in done.out
    assert f"pictures: {server.url}/set.tar.gz to " in done.out
    assert server.exchanges == []


def test_a_plan_without_its_data(cards: Path, tmp_path: Path) -> None:
    words = ("run", "--suite", "pictures", "--methods", "linear,vpt", "--epochs", 2, "--results", tmp_path / "runs")
    refused(vpbench(*words), 3, "pictures: ", "'vpbench data get pictures' fetches it")
    done = vpbench(*words, "--dry-run")
    assert done.code == 0, done.err
    assert "recipe of linear, vpt on all data sets: optimizer=adamw lr=" in done.out
    assert "preprocessing: images stretched to 40 x 40 (bicubic with antialias); normalised with " in done.out
    assert "; decoded with EXIF orientation, transparency on white; no random flips\n" in done.out
    assert "48 training images" in " ".join(done.out.split())
    assert "Not here, counted from the cards: pictures" in done.out
    assert "2 runs, 0 stored, 2 missing." in done.out
    planned = json.loads(vpbench(*words, "--dry-run", "--json").out)
    assert [(run["run_id"], run["status"], run["n_train"], run["n_test"]) for run in planned] == [(None, "missing", 12, 6)] * 2
    assert planned[0]["recipe"]["epochs"] == 2
    assert planned[0]["recipe_source"]
    search = ("tune", "--suite", "pictures", "--methods", "linear", "--space", "vpt-grid", "--dry-run")
    searched = vpbench(*search, "--results", tmp_path / "runs")
    assert searched.code == 0, searched.err
    assert "Not here, counted from the cards: pictures" in searched.out
    assert not (tmp_path / "data").exists()


def test_converting_a_suite(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is skipped, what needs a login comes last, and one that fails does not stop the others."""
    from vpbench.core.errors import DataError
    from vpbench.data import conversion

    asked: list[str] = []
    refused = ["vtab.eurosat"]

    def write(name: str, source: str, path: Path | None, root: Path, **_: object) -> Path:
        asked.append(f"{name} from {source}, {path and path.name}")
        if name in refused:
            raise DataError("TFDS cannot prepare it")
        return root / name

    def fetch(name: str, root: Path, on_step: object) -> Path:
        return root / "fetched.zip"

    monkeypatch.setattr(conversion, "convert", write)
    monkeypatch.setattr(conversion, "fetch_original", fetch)
    missing: list[str] = []
    monkeypatch.setattr(conversion, "lacking", lambda source: "".join(missing) if source == "tfds" else "")
    planned = vpbench("data", "convert", "--suite", "vtab1k-specialized", "--dry-run")
    assert [line.partition(":")[0] for line in planned.out.splitlines()] == [
        "vtab.camelyon", "vtab.eurosat", "vtab.resisc45", "vtab.retinopathy",
    ]  # fmt: skip
    assert "with a Kaggle login" in planned.out.splitlines()[-1]
    done = vpbench("data", "convert", "--suite", "vtab1k-specialized")
    assert done.code == 3
    assert done.err == "vpbench: vtab.eurosat: TFDS cannot prepare it\n"
    assert done.out.split() == [str(tmp_path / "data" / name) for name in ("vtab.camelyon", "vtab.resisc45", "vtab.retinopathy")]
    assert asked == [
        "vtab.camelyon from tfds, None", "vtab.eurosat from tfds, None", "vtab.resisc45 from original, fetched.zip",
        "vtab.retinopathy from tfds, None",
    ]  # fmt: skip
    refused += ["vtab.camelyon", "vtab.retinopathy"]
    assert vpbench("data", "convert", "--suite", "vtab1k-specialized").err == (
        "vpbench: vtab.camelyon: TFDS cannot prepare it\nvpbench: vtab.eurosat, vtab.retinopathy: the same as vtab.camelyon.\n"
    )
    for words in ("doctor", "get --dry-run"):
        lines = vpbench("data", *words.split(), "--suite", "vtab1k-specialized").out.splitlines()
        assert lines[-1].startswith("'vpbench data convert --suite vtab1k-specialized' writes them. ")
    missing.append("TFDS is not installed.")
    asked.clear()
    done = vpbench("data", "convert", "--suite", "vtab1k-specialized")
    assert done.code == 2
    assert done.err == (
        "vpbench: vtab.camelyon: TFDS is not installed.\nvpbench: vtab.eurosat, vtab.retinopathy: the same as vtab.camelyon.\n"
    )
    assert asked == ["vtab.resisc45 from original, fetched.zip"]
    planned = vpbench("data", "convert", "vtab.dtd", "--dry-run")
    assert (planned.code, planned.err) == (2, "vpbench: TFDS is not installed.\n")
    assert planned.out.startswith("vtab.dtd: from tfds to ")
