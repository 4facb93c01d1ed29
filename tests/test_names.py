import sys

import pytest

from lipdescent import names


def test_known_lists_public_modules_and_functions():
    assert "mnist1d" in names.known("datasets")
    assert not any(name.startswith("_") for name in names.known("bounds"))
    assert "cross_entropy" in names.known("losses")


def test_resolve():
    assert names.resolve("architectures", "mlp") is sys.modules["lipdescent.architectures.mlp"]
    assert names.resolve_function("losses", "cross_entropy").__name__ == "cross_entropy"


@pytest.mark.parametrize("resolve", [names.resolve, names.resolve_function])
def test_unknown_names_list_the_known_ones(resolve):
    package = "datasets" if resolve is names.resolve else "losses"
    known = names.known(package)[0]
    with pytest.raises(ValueError, match=rf"'nonsense'.*known: .*{known}"):
        resolve(package, "nonsense")


def test_options_are_what_a_plug_in_takes():
    allowed, needed = names.options("architectures", "lipschitz_mlp")
    assert {"depth", "constraint", "group_size"} <= set(allowed)
    assert "input_shape" not in allowed
    assert needed == []
    assert names.options("losses", "cross_entropy_temperature") == (["tau"], ["tau"])


@pytest.mark.parametrize("package", sorted(names.FUNCTIONS))
def test_every_plug_in_tells_its_options(package):
    for name in names.known(package):
        names.options(package, name)
