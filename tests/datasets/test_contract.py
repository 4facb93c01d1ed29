"""Every data set keeps the contract of datasets/_contract.py; images are read from small files."""

import contracts
import numpy as np
import pytest
from image_files import write_cifar, write_mnist

from lipdescent.datasets import cifar10, cifar100, fashion_mnist, fashion_mnist_balanced, mnist
from lipdescent.datasets._contract import DatasetPlugin
from lipdescent.plugins import signatures

DATASETS = contracts.plugins("datasets")
# Those that are read from files, of which small ones are written here.
OF_FILES = (mnist, fashion_mnist, fashion_mnist_balanced, cifar10, cifar100)
# test_mnist1d.py has it made twice, and compares.
pytestmark = pytest.mark.usefixtures("mnist1d_made_once")
every_dataset = pytest.mark.parametrize("name", DATASETS)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Load a data set, with the written files where it takes a folder."""
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        write_mnist(folder, patch, counts=(20, 20), modules=(mnist, fashion_mnist))
        write_cifar(folder, patch, per_file=20)

        def load(name, **counts):
            own = {"data_dir": folder, "download": False}
            options = own if "data_dir" in signatures.options("datasets", name)[0] else {}
            with contracts.no_global_draws():
                return DATASETS[name].load(**options, **counts)

        yield load


@every_dataset
def test_signature(name):
    contracts.check(DATASETS[name], DatasetPlugin)
    assert not contracts.needed(DATASETS[name].load), "options have defaults"


@every_dataset
def test_types_shapes_and_what_the_file_says_of_itself(name, load):
    data, said = load(name), lambda constant: signatures.constant("datasets", name, constant)
    inputs, labels = (data.train_inputs, data.test_inputs), (data.train_labels, data.test_labels)
    assert {x.dtype for x in inputs} == {np.dtype(np.float32)}
    assert {y.dtype for y in labels} == {np.dtype(np.int64)}
    assert all(np.isfinite(x).all() for x in inputs)
    assert {x.shape[1:] for x in inputs} == {data.input_shape}
    if said("INPUT_SHAPE"):
        assert said("INPUT_SHAPE") == data.input_shape
    if said("NUM_CLASSES"):
        classes = said("NUM_CLASSES")
        assert data.num_classes in (classes.values() if isinstance(classes, dict) else (classes,))
    if DATASETS[name] not in OF_FILES:
        for constant, found in zip(("NUM_TRAIN", "NUM_TEST"), labels, strict=True):
            assert said(constant) in (None, len(found))


@every_dataset
def test_the_seed_chooses_among_the_points(name, load):
    train, test = (
        min(few, signatures.constant("datasets", name, constant) or few)
        for few, constant in ((9, "NUM_TRAIN"), (8, "NUM_TEST"))
    )
    part, again, other = (load(name, num_train=train, num_test=test, seed=s) for s in (1, 1, 2))
    assert part.checksum() == again.checksum()
    # A handful of points may be chosen, or taken whole, by both seeds alike.
    assert train < 9 or not np.array_equal(part.train_inputs, other.train_inputs)
    assert test < 8 or not np.array_equal(part.test_inputs, other.test_inputs)
    assert (len(part.train_labels), len(part.test_labels)) == (train, test)


@every_dataset
@pytest.mark.parametrize(("count", "wrong"), [("num_train", 0), ("num_test", 10**9)])
def test_a_count_that_cannot_be_is_named(name, count, wrong, load):
    with pytest.raises(ValueError, match=rf"{count} = {wrong}: allowed are 1 to \d+"):
        load(name, **{count: wrong})
