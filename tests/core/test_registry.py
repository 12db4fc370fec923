"""Plug-ins by name: files of a package, entry points of other distributions, and everything that can be wrong with them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import some

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.plugins import Registry, subclass_in
from vpbench.interface import Method
from vpbench.models.registry import check_preset, current_options, expand_labels, method_class, method_registry, resolve_method
from vpbench.reporting.describe import describe, listing

PLUG_IN = """
from vpbench.interface import Method, MethodConfig, option

class ThirdConfig(MethodConfig):
    strength: float = option(1.0, "how much", "assumption: none", gt=0)

class Third(Method[ThirdConfig]):
    title, summary, paper, fidelity, Config = "Third", "from elsewhere", "none", "paper", ThirdConfig
"""


NAMELESS = re.sub(r"title, summary.*", "Config = ThirdConfig", PLUG_IN)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, for distributions."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(site: Path, distribution: str, **points: str) -> None:
    """What pip leaves of a distribution with entry points of the group ``vpbench.methods``."""
    folder = site / f"{distribution}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[vpbench.methods]", *lines]))


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_own_files() -> None:
    names = method_registry().names()
    assert names == sorted(names)
    assert {"linear", "vpt", "insvp"} <= set(names)
    assert not any(name.startswith("_") for name in names)
    assert method_class("vpt").__name__ == "VPT"


def test_listing_imports_neither_methods_nor_torch() -> None:
    code = (
        "import sys; from vpbench.models.registry import method_registry; method_registry().names(); "
        "print([name for name in sys.modules if name == 'torch' or name.startswith('vpbench.methods.')])"
    )
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("value", ["third_party_method", "third_party_method:Third"])
def test_entry_point(value: str, site: Path) -> None:
    (site / "third_party_method.py").write_text(PLUG_IN)
    install(site, "third-party", third=value)
    sys.modules.pop("third_party_method", None)
    assert "third" in method_registry().names()
    assert method_class("third").title == "Third"
    assert resolve_method("third", {"strength": 2}).config["strength"] == 2.0


def test_collision_with_own(site: Path) -> None:
    install(site, "third-party", vpt="third_party_method:Third")
    assert method_registry().names().count("vpt") == 1
    with pytest.warns(UserWarning, match="method 'vpt' of third_party_method:Third is hidden by vpbench's own"):
        assert dict(method_registry().working())["vpt"].__name__ == "VPT"


def test_collision_between_others(site: Path) -> None:
    install(site, "third-party", third="a:A")
    install(site, "fourth-party", third="b:B")
    with pytest.raises(UsageError) as caught:
        method_class("third")
    assert "a:A" in one_line(caught) and "b:B" in str(caught.value)
    with pytest.warns(UserWarning, match="'third' is both a:A and b:B"):
        assert "vpt" in dict(method_registry().working())


def test_installed_twice_is_no_collision(site: Path) -> None:
    install(site, "third-party", third="a:A")
    install(site, "third-party-again", third="a:A")
    assert "third" in method_registry().names()


@pytest.mark.parametrize(
    ("value", "content", "words"),
    some(
        [
            ("module_nowhere:A", None, "ModuleNotFoundError"),
            ("broken_method:Absent", "", "Absent"),
            ("broken_method", "1 / 0", "ZeroDivisionError"),
            ("broken_method", "def f(:", "SyntaxError"),
            ("broken_method", "import vpbench.nothing", "ModuleNotFoundError"),
            pytest.param("broken_method", "raise SystemExit(3)", "SystemExit: 3", marks=pytest.mark.sweep),
            ("broken_method", "exit()", "SystemExit"),
            pytest.param(
                "broken_method", "raise RuntimeError('two\\nlines')", "RuntimeError: two lines", marks=pytest.mark.sweep
            ),
            ("broken_method", NAMELESS, "has no title and no summary and no paper and no fidelity"),
            pytest.param("broken_method:value", "value = 3", "3 is not a subclass of Method", marks=pytest.mark.sweep),
            pytest.param("broken_method:C", "class C: pass", "is not a subclass of Method", marks=pytest.mark.sweep),
            pytest.param("broken_method", "", "must define one subclass of Method, not 0", marks=pytest.mark.sweep),
            ("broken_method", PLUG_IN + "class Fourth(Third): pass", "must define one subclass of Method, not 2"),
        ],
        3,
    ),
)
def test_broken_entry_point(value: str, content: str | None, words: str, site: Path) -> None:
    if content is not None:
        (site / "broken_method.py").write_text(content)
    install(site, "third-party", third=value)
    sys.modules.pop("broken_method", None)
    assert "third" in method_registry().names()  # listing does not look inside
    with pytest.raises(UsageError) as caught:
        method_class("third")
    assert words in one_line(caught)
    assert "'third'" in str(caught.value)
    with pytest.warns(UserWarning, match="'third'") as warned:
        listed = [entry["name"] for entry in listing("methods")]
    assert [str(warning.message).count("\n") for warning in warned] == [0]
    assert "third" not in listed and {"linear", "vpt"} <= set(listed)
    with pytest.warns(UserWarning, match="'third'"):
        assert {"linear", "vpt"} <= set(expand_labels(["all"]))
    assert current_options("third", {"strength": 2}) == {"strength": 2}  # rows of it can still be shown


def test_package_scan(site: Path) -> None:
    package = site / "things_of_a_test"
    package.mkdir()
    for name, content in {
        "__init__": "", "_shared": "", "red": "class Red(Exception): pass", "none": "",
        "two": "class A(Exception): pass\nclass B(A): pass",
        "borrowed": "from things_of_a_test.red import Red\nclass Blue(Red): pass",
    }.items():  # fmt: skip
        (package / f"{name}.py").write_text(content)
    registry = Registry("thing", "things_of_a_test", subclass_in(Exception))
    assert registry.names() == ["borrowed", "none", "red", "two"]
    assert registry.get("red").__name__ == "Red"
    assert registry.get("borrowed").__name__ == "Blue"  # what is imported from elsewhere is not its own
    for name, count in (("none", 0), ("two", 2)):
        with pytest.raises(UsageError, match=rf"{name}\.py must define one subclass of Exception, not {count}"):
            registry.get(name)
    with pytest.raises(UsageError, match=r"unknown thing 'rad'\. Did you mean 'red'"):
        registry.get("rad")


@pytest.mark.parametrize("content", ["def f(:", "raise SystemExit", "import nothing_of_this_name", "1 / 0"])
def test_a_broken_file_is_named_and_takes_nothing_away(content: str, site: Path) -> None:
    package = site / f"files_{abs(hash(content))}"
    package.mkdir()
    for name, text in {"__init__": "", "good": "class Good(Exception): pass", "bad": content}.items():
        (package / f"{name}.py").write_text(text)
    registry = Registry("thing", package.name, subclass_in(Exception))
    with pytest.warns(UserWarning, match="thing 'bad'") as warned:
        assert [name for name, _ in registry.working()] == ["good"]
    assert len(warned) == 1 and "\n" not in str(warned[0].message)


@pytest.mark.parametrize(
    ("label", "settings", "words"),
    [
        ("vpt:shallow", {"vpt.deep": True}, "vpt.deep=True undoes what vpt:shallow is (deep=False)"),
        ("vpt:shallow", {"vpt.deep": "true"}, "undoes"),
        ("vpt:shallow", {"vpt.prompt_length": 5, "vpt.deep": False, "e2vpt.prune": False}, None),
        ("vpt", {"vpt.deep": True}, None),
        ("vpt:shallow", {"vpt.dropout": 0.2}, None),  # another variant, which its label names
    ],
)
def test_settings_that_undo_a_preset(label: str, settings: dict[str, object], words: str | None) -> None:
    if words is None:
        check_preset(label, settings)
        return
    with pytest.raises(UsageError) as caught:
        check_preset(label, settings)
    assert words in one_line(caught)


def test_a_presets_values_name_the_preset_as_their_source() -> None:
    options = {entry["option"]: entry for entry in describe("method", "insvp:released", Path())["options"]}
    assert options["train_specific"]["source"].startswith("the preset released: ")
    plain = {entry["option"]: entry for entry in describe("method", "insvp", Path())["options"]}
    assert options["head_init"]["source"] == plain["head_init"]["source"]


@pytest.mark.parametrize(
    ("name", "guess"), [("vptt", "vpt"), ("insv", "insvp"), ("linaer", "linear"), ("VPT", None), ("zzzzz", None)]
)
def test_unknown_method(name: str, guess: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        method_class(name)
    message = one_line(caught)
    assert message.startswith(f"unknown method '{name}'.")
    assert ("Did you mean" in message) == (guess is not None)
    if guess:
        assert f"Did you mean '{guess}'?" in message
    else:
        assert "Known: adapter, adapter_plus, " in message and message.endswith(", ... (vpbench list methods).")


@pytest.mark.parametrize("name", ["_pca", "__init__", "", ".", "vpt.py", "../vpt"])
def test_what_is_no_method(name: str) -> None:
    with pytest.raises(UsageError, match="unknown method"):
        method_class(name)


def test_unknown() -> None:
    assert str(unknown("dish", "pizza", ["soup", "piza"], "(see the menu)")) == (
        "unknown dish 'pizza'. Did you mean 'piza'? (see the menu)"
    )
    assert str(unknown("dish", "pie", ["soup", "piza"])) == "unknown dish 'pie'. Known: piza, soup."
    assert str(unknown("dish", "pizza", [])) == "unknown dish 'pizza'. There is no dish at all."


@pytest.mark.parametrize(
    ("label", "settings", "words"),
    [
        ("vpt:shalow", {}, "unknown preset of vpt 'shalow'. Did you mean 'shallow'?"),
        ("vpt:", {}, "unknown preset of vpt ''"),
        ("vpt", {"prompt_lenght": 3}, "unknown option of vpt 'prompt_lenght'. Did you mean 'prompt_length'?"),
        ("vpt", {"prompt_length": "many"}, "vpt.prompt_length"),
        ("vpt", {"prompt_length": 0}, "(given: 0)"),
        ("vpt", {"dropout": float("nan")}, "vpt.dropout"),
        ("vpt", {"head_init": "zero"}, "(given: 'zero')"),
    ],
)
def test_options(label: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_method(label, settings)
    assert words in one_line(caught)


def test_a_list_of_methods_says_group_and_year() -> None:
    lines = {line["name"]: line for line in listing("methods")}
    assert (lines["vpt"]["group"], lines["vpt"]["year"]) == ("prompts", 2022)
    assert all(isinstance(line["year"], int) for line in lines.values())


# Integers whose size costs no memory, or that are as many as a data set has.
def test_every_count_has_an_upper_bound() -> None:
    """A mistyped count of prompts, units or ranks is refused before a model is built of it."""
    for name in method_registry().names():
        for field, info in method_class(name).Config.model_fields.items():
            if info.annotation in (int, int | None):
                with pytest.raises(UsageError, match=rf"{name}\.{field}: must be at most \d+"):
                    resolve_method(name, {field: 2**63})
    assert resolve_method("viapt", {"eval_seed": 10**6}).config["eval_seed"] == 10**6
    with pytest.raises(UsageError, match=r"vpt\.prompt_length: must be at most 10000 \(given: 10001\)"):
        resolve_method("vpt", {"prompt_length": 10_001})


def test_every_method_has_its_facts() -> None:
    for name in method_registry().names():
        kind = method_class(name)
        assert issubclass(kind, Method)
        for fact in (kind.title, kind.summary, kind.paper, kind.fidelity):
            assert fact
        assert str(kind.year) in kind.paper, f"{name}: the source of its year"
        for field, info in kind.Config.model_fields.items():
            assert info.description, (name, field)
            assert isinstance(info.json_schema_extra, dict) and info.json_schema_extra["source"], (name, field)
        for preset in kind.presets:
            assert resolve_method(f"{name}:{preset}").preset == preset
