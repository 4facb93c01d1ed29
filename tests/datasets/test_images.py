"""Image datasets read from small files in the published formats, which the tests write."""

from __future__ import annotations

import gzip
import pickle
import struct

import numpy as np
import pytest
from image_files import md5, records, write_archive, write_cifar, write_mnist

from lipdescent.datasets import Dataset, _cifar, cifar10, cifar100, digits, fashion_mnist, mnist

COUNTS = (12, 5)


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """A folder of four idx files; the modules are told their md5s."""
    arrays = write_mnist(tmp_path, monkeypatch, counts=COUNTS, modules=(mnist, fashion_mnist))
    return tmp_path, arrays


@pytest.mark.parametrize("module", [mnist, fashion_mnist])
def test_idx_files_are_read(grey, module):
    folder, arrays = grey
    data = module.load(data_dir=folder, download=False, normalise="none")
    np.testing.assert_array_equal(data.train_inputs[:, 0], arrays[0] / np.float32(255))
    np.testing.assert_array_equal(data.train_labels, arrays[1])
    np.testing.assert_array_equal(data.test_inputs[:, 0], arrays[2] / np.float32(255))
    np.testing.assert_array_equal(data.test_labels, arrays[3])
    assert data.train_inputs.dtype == np.float32
    assert data.train_labels.dtype == np.int64
    assert (data.input_shape, data.num_classes) == (module.INPUT_SHAPE, 10)


def test_torchvision_s_folder_is_found(grey, tmp_path_factory):
    folder, _ = grey
    root = tmp_path_factory.mktemp("root")
    raw = root / "FashionMNIST" / "raw"
    raw.parent.mkdir()
    folder.rename(raw)
    assert len(fashion_mnist.load(data_dir=root, download=False).train_labels) == COUNTS[0]


def test_debian_s_folder_is_found(grey, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", grey[0])
    assert len(fashion_mnist.load(download=False).train_labels) == COUNTS[0]


@pytest.mark.skipif(
    not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not here"
)
def test_debian_s_package_works_as_it_is():
    data = fashion_mnist.load(num_train=500, num_test=100, download=False, image_size=14)
    assert data.train_inputs.shape == (500, 1, 14, 14)
    assert abs(float(data.train_inputs.std()) - 1) < 0.1
    assert set(data.test_labels.tolist()) == set(range(10))


def test_channels_are_normalised_by_the_whole_training_set(grey):
    folder, _ = grey
    whole = mnist.load(data_dir=folder, download=False)
    assert abs(float(whole.train_inputs.mean())) < 1e-6
    assert abs(float(whole.train_inputs.std()) - 1) < 1e-6
    part = mnist.load(data_dir=folder, download=False, num_train=5, num_test=2, seed=3)
    rows = {image.tobytes() for image in whole.train_inputs}
    assert len(part.train_inputs) == 5
    assert all(image.tobytes() in rows for image in part.train_inputs)
    again = mnist.load(data_dir=folder, download=False, num_train=5, num_test=2, seed=3)
    assert part.checksum() == again.checksum()
    other = mnist.load(data_dir=folder, download=False, num_train=5, num_test=2, seed=4)
    assert part.checksum() != other.checksum()


def test_images_are_shrunk_by_averages(grey):
    folder, arrays = grey
    data = mnist.load(data_dir=folder, download=False, normalise="none", image_size=7)
    expected = arrays[0][2, 4:8, 8:12].mean() / 255
    assert data.train_inputs.shape == (COUNTS[0], 1, 7, 7)
    assert abs(float(data.train_inputs[2, 0, 1, 2]) - expected) < 1e-6


def test_a_corrupt_file_is_named(grey):
    folder, _ = grey
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: corrupt, its md5 is"):
        mnist.load(data_dir=folder, download=False)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"no gzip", "not a complete gzip file"),
        (gzip.compress(b"\0\0\x0d\x01abcd"), "not an idx file"),
        (gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 9) + b"abc"), "3 bytes of data"),
    ],
    ids=["no gzip", "no idx", "too short"],  # compressed bytes hold the time
)
def test_a_foreign_file_is_named(grey, monkeypatch, contents, message):
    folder, _ = grey
    name = "train-labels-idx1-ubyte.gz"
    (folder / name).write_bytes(contents)
    monkeypatch.setitem(mnist.FILES, name, [md5(contents)])
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        mnist.load(data_dir=folder, download=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "pixel"}, "normalise = 'pixel': allowed are channel, none"),
        ({"image_size": 13}, "image_size = 13: allowed are the divisors of 28"),
        ({"num_train": 13}, "num_train = 13: allowed are 1 to 12"),
    ],
)
def test_wrong_options_are_named(grey, options, message):
    with pytest.raises(ValueError, match=message):
        mnist.load(data_dir=grey[0], download=False, **options)


@pytest.mark.parametrize(
    ("module", "file"),
    [
        (mnist, "t10k-images-idx3-ubyte.gz"),
        (cifar10, "cifar-10-binary.tar.gz"),
        (cifar100, "cifar-100-binary.tar.gz"),
    ],
)
def test_what_is_missing_says_what_to_put_where(tmp_path, module, file):
    with pytest.raises(
        FileNotFoundError, match=rf"put .*{file}.* into {tmp_path}(,| or) .*data_dir"
    ):
        module.load(data_dir=tmp_path, download=False)


@pytest.mark.parametrize(("module", "what"), [(mnist, "MNIST"), (cifar10, "CIFAR10")])
def test_a_failed_download_says_so(tmp_path, monkeypatch, module, what):
    import torchvision

    def fail(**_):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, what, fail)
    with pytest.raises(FileNotFoundError, match=r"download failed: no route to host"):
        module.load(data_dir=tmp_path)


@pytest.fixture
def colour(tmp_path, monkeypatch):
    tables = write_cifar(tmp_path, monkeypatch)
    return tmp_path, tables


def test_cifar10_binary_archive_is_read(colour):
    folder, tables = colour
    data = cifar10.load(data_dir=folder, download=False, normalise="none")
    members = tables[cifar10]
    train = np.concatenate([members[name] for name in cifar10.ARCHIVE.train_members])
    assert data.train_inputs.shape == (15, 3, 32, 32)
    np.testing.assert_array_equal(data.train_labels, train[:, 0])
    # A record's first 1024 pixels are red, by rows.
    assert data.train_inputs[4, 0, 1, 2] == np.float32(train[4, 1 + 32 + 2]) / np.float32(255)
    assert data.test_inputs[1, 2, 0, 5] == np.float32(
        members["test_batch.bin"][1, 1 + 2 * 1024 + 5]
    ) / np.float32(255)


def test_colours_are_normalised_one_by_one(colour):
    inputs = cifar10.load(data_dir=colour[0], download=False).train_inputs
    np.testing.assert_allclose(inputs.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(inputs.std(axis=(0, 2, 3)), 1, atol=1e-5)


def test_cifar100_fine_and_coarse_labels(colour):
    folder, tables = colour
    train = tables[cifar100]["train.bin"]
    fine = cifar100.load(data_dir=folder, download=False)
    coarse = cifar100.load(data_dir=folder, download=False, labels="coarse")
    np.testing.assert_array_equal(fine.train_labels, train[:, 1])
    np.testing.assert_array_equal(coarse.train_labels, cifar100.SUPERCLASS[train[:, 1]])
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    with pytest.raises(ValueError, match="labels = 'super': allowed are fine, coarse"):
        cifar100.load(data_dir=folder, download=False, labels="super")


def test_superclasses_hold_five_classes_each():
    assert np.bincount(cifar100.SUPERCLASS).tolist() == [5] * 20
    # aquatic mammals: beaver 4, dolphin 30, otter 55, seal 72, whale 95; trees: 47 52 56 59 96
    assert np.flatnonzero(cifar100.SUPERCLASS == 0).tolist() == [4, 30, 55, 72, 95]
    assert np.flatnonzero(cifar100.SUPERCLASS == 17).tolist() == [47, 52, 56, 59, 96]


def test_a_corrupt_archive_is_named(colour):
    path = colour[0] / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz: corrupt, its md5 is"):
        cifar10.load(data_dir=colour[0], download=False)


def test_an_archive_without_a_member_or_with_half_a_record_is_named(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    tables = {"train.bin": records(2, 2, rng)}
    monkeypatch.setattr(cifar100, "ARCHIVE", write_archive(tmp_path, cifar100.ARCHIVE, tables))
    with pytest.raises(ValueError, match="not the archive cifar-100-binary"):
        cifar100.load(data_dir=tmp_path, download=False)
    tables["test.bin"] = records(2, 2, rng).ravel()[:-1]
    monkeypatch.setattr(cifar100, "ARCHIVE", write_archive(tmp_path, cifar100.ARCHIVE, tables))
    with pytest.raises(ValueError, match="6147 bytes, not a multiple of 3074"):
        cifar100.load(data_dir=tmp_path, download=False)


def test_torchvision_s_python_version_is_read(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    rng = np.random.default_rng(3)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    entries, tables = {}, {}
    for name, n in (("train", 4), ("test", 3)):
        tables[name] = {
            "data": rng.integers(0, 256, (n, _cifar.PIXELS), np.uint8),
            "fine_labels": rng.integers(0, 100, n).tolist(),
        }
    tables["meta"] = {"fine_label_names": [str(i) for i in range(100)]}
    for name, table in tables.items():
        contents = pickle.dumps(table)
        (folder / name).write_bytes(contents)
        entries[name] = md5(contents)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", entries["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", entries["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": entries["meta"]})
    data = cifar100.load(data_dir=tmp_path, download=False, normalise="none", labels="coarse")
    expected = cifar100.SUPERCLASS[tables["train"]["fine_labels"]]
    np.testing.assert_array_equal(data.train_labels, expected)
    pixels = tables["train"]["data"].reshape(4, 3, 32, 32)
    np.testing.assert_array_equal(data.train_inputs, pixels / np.float32(255))
    (folder / "train").write_bytes(b"other")
    with pytest.raises(ValueError, match="cifar-100-python: incomplete or corrupt"):
        cifar100.load(data_dir=tmp_path)


def test_digits_are_divided_once_and_for_all():
    data = digits.load(normalise="none")
    assert data.input_shape == digits.INPUT_SHAPE
    assert data.train_inputs.shape == (1400, 1, 8, 8)
    assert data.test_inputs.shape == (397, 1, 8, 8)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0, 1)
    assert np.bincount(data.train_labels).min() > 120
    other = digits.load(num_train=100, num_test=50, seed=1, normalise="none")
    assert {x.tobytes() for x in other.train_inputs} <= {x.tobytes() for x in data.train_inputs}
    assert len(digits.load(num_train=100).train_labels) == 100


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_outside_the_classes_are_named(split):
    arrays = {
        f"{s}_{what}": np.zeros((5, 2), np.float32) if what == "inputs" else np.arange(5) % 3
        for s in ("train", "test")
        for what in ("inputs", "labels")
    }
    assert Dataset(**arrays, num_classes=3).input_shape == (2,)
    arrays[f"{split}_labels"] = np.array([0, 3, 1, -1, 2])
    message = rf"{split}_labels: 3, and 2 in all; allowed are 0 to 2 \(num_classes = 3\)"
    with pytest.raises(ValueError, match=message):
        Dataset(**arrays, num_classes=3)
    arrays[f"{split}_labels"] = np.arange(5) % 3 / 1
    with pytest.raises(TypeError, match=rf"{split}_labels: float64; allowed are integers"):
        Dataset(**arrays, num_classes=3)
    arrays[f"{split}_labels"] = np.array([0, 1])
    with pytest.raises(ValueError, match=rf"{split}: 5 points, labels of shape \(2,\)"):
        Dataset(**arrays, num_classes=3)
