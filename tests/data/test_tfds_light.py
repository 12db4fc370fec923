"""Converting from TensorFlow Datasets without TensorFlow: as_data_source, in the order that TFDS has."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.conversion import tfds as conversion
from vpbench.data.conversion.tfds import convert_tfds
from vpbench.data.sources import open_dataset

SIZES = {"train": 2_100, "validation": 40, "test": 1}
NAME = "vtab.clevr-count"
CARD = dataset_card(NAME).model_copy(update={"n_test": 40})


def scene(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_has_tensorflow", lambda: False)


class Builder:
    """What the conversion uses of a TFDS builder whose files are ArrayRecord."""

    def __init__(self, name: str, data_dir: Path | None, file_format: str) -> None:
        assert (name, file_format) == ("clevr:3.1.0", "array_record")
        self.data_dir = data_dir
        splits = {split: SimpleNamespace(num_examples=size) for split, size in SIZES.items()}
        self.info = SimpleNamespace(full_name="clevr/3.1.0", version="3.1.0", splits=splits, features={"image": None})
        self.error: Exception | None = None

    def download_and_prepare(self) -> None:
        if self.error:
            raise self.error

    def as_data_source(self, split: str, decoders: dict[str, Any]) -> list[dict[str, Any]]:
        assert decoders == {"image": "skip"}
        start, stop = map(int, split.partition("[")[2].rstrip("]").split(":"))
        return [{"image": scene(number), "objects": {"size": [0] * (3 + number % 8)}} for number in range(start, stop)]


def library(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    def builder(*given: Any, **more: Any) -> Builder:
        made = Builder(*given, **more)
        made.error = error
        return made

    fake = SimpleNamespace(builder=builder, decode=SimpleNamespace(SkipDecoding=lambda: "skip"))
    monkeypatch.setattr(conversion, "_tensorflow_datasets", lambda: fake)
    monkeypatch.setattr(conversion.importlib.metadata, "version", lambda name: "4.9.10")


def test_images_are_read_as_they_are_stored(without_tensorflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch)
    convert_tfds(NAME, CARD, tmp_path / NAME)
    raw = open_dataset(CARD, tmp_path)
    assert [raw.splits["val"].content(index) for index in (0, 199)] == [scene(1890), scene(2089)]
    assert raw.splits["train"].labels.tolist() == [number % 8 for number in range(800)]


@pytest.mark.parametrize("message", ["No module named 'tensorflow'", "Please install tensorflow"])
def test_what_needs_tensorflow(message: str, without_tensorflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, ModuleNotFoundError(message))
    with pytest.raises(UsageError, match=r"TFDS needs TensorFlow to prepare clevr: pip install 'vpbench\[tfds\]'\."):
        convert_tfds(NAME, CARD, tmp_path / NAME)
    assert not (tmp_path / NAME).exists()


@pytest.mark.slow  # TFDS takes a minute for it
def test_the_library_itself(without_tensorflow: None, tmp_path: Path) -> None:
    """A small data set of clevr's name and features, prepared and read by TFDS; its hashed order is kept."""
    if "tensorflow" in sys.modules:
        pytest.skip("TensorFlow is imported already")
    pytest.importorskip("array_record", reason="NOT RUN: converting without TensorFlow, install vpbench[tfds-light]")
    tfds = pytest.importorskip("tensorflow_datasets", reason="NOT RUN: converting from TFDS, install vpbench[tfds-light]")
    from etils import epath
    from tensorflow_datasets.core import registered

    features = tfds.builder_cls("clevr")(data_dir=tmp_path / "tfds", version="3.1.0").info.features
    one = {"color": 0, "material": 0, "shape": 0, "size": 0, "rotation": 0.0, "3d_coords": np.zeros(3, np.float32)}
    with registered.skip_registration():

        class Clevr(tfds.core.GeneratorBasedBuilder):  # type: ignore[name-defined,misc]
            VERSION = tfds.core.Version("3.1.0")
            pkg_dir_path = epath.Path(tmp_path)

            def _info(self) -> Any:
                return self.dataset_info_from_configs(features=features)

            def _split_generators(self, _: Any) -> Any:
                return {split: self._generate_examples(size) for split, size in SIZES.items()}

            def _generate_examples(self, size: int = 0) -> Any:
                for number in range(size):
                    objects = [{**one, "pixel_coords": np.ones(3, np.float32)} for _ in range(3 + number % 8)]
                    image, name = io.BytesIO(scene(number)), f"{number}.png"
                    yield number, {"image": image, "file_name": name, "objects": objects, "question_answer": []}

    Clevr(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    convert_tfds(NAME, CARD, tmp_path / "root" / NAME, tmp_path / "tfds")
    raw = open_dataset(CARD, tmp_path / "root")
    source = tfds.builder("clevr:3.1.0", data_dir=tmp_path / "tfds").as_data_source("validation")
    numbers = [int(example["file_name"].decode().removesuffix(".png")) for example in source]
    assert numbers != sorted(numbers)
    assert [raw.splits["test"].content(index) for index in range(40)] == [scene(number) for number in numbers]
    assert raw.splits["test"].labels.tolist() == [number % 8 for number in numbers]
