"""Data sets of the Hugging Face hub, from a hub on this machine."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, hub_serving, use_hub, use_hub_for_datasets
from test_folder_layouts import encoded
from test_hub_shards import write

from vpbench.cli.streams import PACKAGE, plain_warnings
from vpbench.core import plugins
from vpbench.core.errors import DataError, UsageError
from vpbench.core.hub import HubData, located
from vpbench.data.sources import open_path, pinned
from vpbench.execution.job import Job
from vpbench.planning.plan import make_plan
from vpbench.spec.request import Request
from vpbench.spec.run_options import JobOptions
from vpbench.spec.run_spec import RunSpec
from vpbench.store.store import Store

pytest.importorskip("datasets", reason="the extra 'hf' is not installed: pip install 'vpbench[hf]'")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    with hub_serving() as served:
        use_hub(served, tmp_path / "hf", monkeypatch)
        use_hub_for_datasets(served, tmp_path / "hf", monkeypatch)
        yield served


def shard(tmp_path: Path, name: str, labels: list[int], **columns: Any) -> bytes:
    write(tmp_path / name, labels, **columns)
    return (tmp_path / name).read_bytes()


def put_cifar(hub: Hub, tmp_path: Path, **more: bytes) -> str:
    """CIFAR-100 with three classes, in the hub's usual layout."""
    files = {
        "README.md": b"# CIFAR\n",
        "data/train-00000-of-00001.parquet": shard(tmp_path, "train.parquet", [0, 1, 2] * 4),
        "data/test-00000-of-00001.parquet": shard(tmp_path, "test.parquet", [0, 1, 2]),
        "data/extra-00000-of-00001.parquet": shard(tmp_path, "extra.parquet", [0] * 7),
    }
    return hub.put("datasets", "uni/cifar", {**files, **more})


def test_splits_names_and_notes(hub: Hub, tmp_path: Path) -> None:
    sha = put_cifar(hub, tmp_path)
    assert pinned("hf:uni/cifar") == f"hf:uni/cifar@{sha}"
    raw = open_path("hf:uni/cifar")
    assert raw.class_names == ("apple", "bear", "cup")
    assert raw.splits["test"].labels.tolist() == [0, 1, 2]
    assert len(raw.splits["train"]) + len(raw.splits["val"]) == 12
    assert raw.splits["test"].image(1).size == (6, 6)
    assert raw.splits["test"].name(2) == f"row 2 of hf:uni/cifar@{sha} (test)"
    assert "Ignored, as their names say no split: extra (7 rows)." in raw.note
    local = tmp_path / "local"
    local.mkdir()
    for name in ("train", "test"):
        (tmp_path / f"{name}.parquet").rename(local / f"{name}.parquet")
    assert open_path(local).digest == raw.digest
    coarse = open_path("hf:uni/cifar", {"label": "coarse_label"})
    assert coarse.class_names == ("food", "animal") and coarse.digest != raw.digest


def test_the_cache_is_enough(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network, with and without a revision; and a commit stays what it was."""
    from huggingface_hub import constants

    first = put_cifar(hub, tmp_path)
    digest = open_path("hf:uni/cifar").digest
    asked = len(hub.requests)
    assert open_path(f"hf:uni/cifar@{first}").digest == digest
    assert len(hub.requests) == asked
    second = put_cifar(hub, tmp_path, **{"README.md": b"# Other words\n"})
    assert pinned("hf:uni/cifar") == f"hf:uni/cifar@{second}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match=rf"cannot be reached .* Taken from there: hf:uni/cifar at commit {first[:12]}"):
        assert pinned("hf:uni/cifar") == f"hf:uni/cifar@{first}"
        assert open_path("hf:uni/cifar").digest == digest
    with pytest.raises(DataError, match=r"uni/other: http://127.0.0.1:9 cannot be reached .*opened once"):
        open_path("hf:uni/other")


def test_configurations(hub: Hub, tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: s.parquet\n"
    card += "- config_name: large\n  data_files:\n  - split: train\n    path: l.parquet\n---\n"
    files = {
        "README.md": card.encode(),
        "s.parquet": shard(tmp_path, "s.parquet", [0, 1] * 5),
        "l.parquet": shard(tmp_path, "l.parquet", [0, 1, 2] * 10),
    }
    hub.put("datasets", "uni/two", files)
    raw = open_path("hf:uni/two:large")
    assert len(raw.class_names) == 3 and "No splits given: 70 % of every class" in raw.note
    with pytest.raises(DataError, match=r"hf:uni/two@\w+ cannot be loaded: Config name is missing.*small.*Say hf:uni/two:CONFIG"):
        open_path("hf:uni/two")
    with pytest.raises(DataError, match=r"hf:uni/two:huge@\w+ cannot be loaded: BuilderConfig 'huge' not found"):
        open_path("hf:uni/two:huge")


def test_folders_of_images(hub: Hub) -> None:
    files = {f"{split}/{name}/{number}.png": encoded(len(split) * 100 + len(name) * 10 + number)
             for split in ("train", "test") for name in ("cat", "mouse") for number in range(5)}  # fmt: skip
    hub.put("datasets", "me/pets", files)
    raw = open_path("hf:me/pets")
    assert raw.class_names == ("cat", "mouse") and len(raw.splits["test"]) == 10
    assert raw.splits["test"].content(0) in files.values()


def test_what_goes_wrong_is_one_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cifar(hub, tmp_path)
    hub.put("datasets", "uni/hidden", {"a.parquet": b""}, private=True)
    no_images = {"image": "fine_label", "label": "coarse_label"}
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "hf:uni/cifra": (rf"there is no 'uni/cifra' on {hub.url}: correct the name, or set HF_TOKEN if it is private\.", {}),
        "hf:uni/hidden": (r"there is no 'uni/hidden'", {}),
        "hf:uni/cifar@nightly": (r"uni/cifar has no such revision", {}),
        "hf:uni/cifar": (r"column 'fine_label' is int64; .*: it holds no images, choose another", no_images),
    }
    for path, (words, columns) in cases.items():
        with pytest.raises(DataError, match=words) as caught:
            open_path(path, columns)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"has no column 'labels' \(it has img, fine_label, coarse_label\); correct --columns"):
        open_path("hf:uni/cifar", {"label": "labels"})
    for odd in ("hf:", "hf:a/b/c", "hf:../etc", "hf:a/..", "hf:a/b:"):
        with pytest.raises(UsageError, match="names no data set of the Hugging Face hub: write hf:owner/name"):
            open_path(odd)
    monkeypatch.setattr(plugins, "_extras", lambda: {"hf"})
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "vpbench.data.sources.hf")
    with pytest.raises(UsageError, match=r"needs the library datasets, an extra: pip install 'vpbench\[hf\]'"):
        pinned("hf:uni/cifar")


def test_a_row_cannot_name_a_file_of_this_machine(hub: Hub, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(1))
    write(tmp_path / "train.parquet", [0, 1] * 5)
    table = pq.read_table(tmp_path / "train.parquet")
    images = [{"bytes": None, "path": str(secret)}, *table["img"].to_pylist()[1:]]
    table = table.set_column(0, "img", pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    stream = io.BytesIO()
    pq.write_table(table, stream)
    hub.put("datasets", "bad/one", {"train.parquet": stream.getvalue()})
    with pytest.raises(DataError, match=r"row 0 names a file outside of the hub's cache, '.*secret\.png'; it is not read"):
        open_path("hf:bad/one")


def test_the_identity_of_a_run(hub: Hub, tmp_path: Path) -> None:
    sha = put_cifar(hub, tmp_path)

    def planned(data: str) -> Any:
        return make_plan(Request(methods=["linear"], precision="fp32", data=(data,)), Store(tmp_path / "results"))

    plan = planned("hf:uni/cifar")
    spec: RunSpec = plan.runs[0].spec
    assert (spec.data.dataset, spec.data.hub, spec.data.path) == ("cifar", f"uni/cifar@{sha}", f"hf:uni/cifar@{sha}")
    assert RunSpec.model_validate(json.loads(json.dumps(spec.identity()))).run_id == spec.run_id
    assert planned(f"hf:uni/cifar@{sha}").runs[0].spec.run_id == spec.run_id
    assert Job.of(plan.runs[0], plan, JobOptions()).spec.data.path == f"hf:uni/cifar@{sha}"
    put_cifar(hub, tmp_path, **{"README.md": b"# Other words\n"})
    other = planned("hf:uni/cifar").runs[0].spec
    assert other.data.digest == spec.data.digest and other.run_id != spec.run_id


def test_warnings_are_lines() -> None:
    with plain_warnings():
        assert warnings.formatwarning("a\nb", UserWarning, str(PACKAGE / "data" / "x.py"), 1) == "warning: a b\n"
        assert "x.py:1: UserWarning" in warnings.formatwarning("a", UserWarning, "/other/x.py", 1)


def test_names() -> None:
    data = HubData.parse("hf:zalando-datasets/fashion_mnist:v1.0@refs/convert/parquet")
    assert (data.repository, data.config, data.revision) == ("zalando-datasets/fashion_mnist", "v1.0", "refs/convert/parquet")
    assert data.name == "fashion_mnist-v1.0" and HubData.parse("hf:uni/cifar:default").name == "cifar"
    assert str(data) == "hf:zalando-datasets/fashion_mnist:v1.0@refs/convert/parquet"
    assert located("hf:a/b") == "hf:a/b" and located("b", Path("/a")) == "/a/b"
