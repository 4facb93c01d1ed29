import sys

import pytest

from lipdescent.plugins import lookup, signatures
from lipdescent.study.checks import ALWAYS


def test_known_lists_public_modules():
    assert "mnist1d" in lookup.known("datasets")
    assert not any(name.startswith("_") for name in lookup.known("bounds"))
    assert "cross_entropy" in lookup.known("losses")


def test_resolve():
    assert lookup.resolve("architectures", "mlp") is sys.modules["lipdescent.architectures.mlp"]
    assert lookup.resolve("losses", "cross_entropy").loss.__doc__


@pytest.mark.parametrize(
    ("package", "one"),
    [("datasets", "dataset"), ("losses", "loss"), ("schedules", "schedule"),
     ("label_noise", "label noise")],
)  # fmt: skip
def test_unknown_names_list_the_known_ones(package, one):
    known = lookup.known(package)[0]
    with pytest.raises(ValueError, match=rf"unknown {one} 'nonsense'.*known: .*{known}"):
        lookup.resolve(package, "nonsense")


def test_options_are_what_a_plug_in_takes():
    allowed, needed = signatures.options("architectures", "lipschitz_mlp")
    assert {"depth", "constraint", "group_size"} <= set(allowed)
    assert "input_shape" not in allowed
    assert needed == []
    assert signatures.options("losses", "cross_entropy_temperature") == (["tau"], ["tau"])


def test_architectures_with_a_forward_of_their_own():
    own = [name for name in lookup.known("architectures") if signatures.has_forward(name)]
    assert own == ["densenet", "functional_mlp", "unet", "vit"]


@pytest.mark.parametrize("package", sorted(signatures.FUNCTIONS))
def test_every_plug_in_tells_its_options(package):
    for name in lookup.known(package):
        if package == "measurements" and name in ALWAYS:
            continue  # asked for in sections of their own
        allowed, _ = signatures.options(package, name)
        assert set(signatures.types(package, name)) <= set(allowed)


def test_types_and_constants_are_read_without_an_import():
    types = signatures.types("bounds", "lower_jacobian")
    assert types["num_points"] == {"type": ["integer", "null"]}
    assert types["quantiles"] == {"type": ["array"], "items": {"type": ["number"]}}
    types = signatures.types("experiments", "distance_preservation")
    assert types["constants"] == {"type": ["array"], "items": {"type": ["number", "null"]}}


def test_constants_in_every_way_that_a_plug_in_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(signatures, "LIBRARY", tmp_path)
    file = tmp_path / "bounds/mine.py"
    file.parent.mkdir()
    text = 'DIRECTION, (NORMS, A) = "upper", (("l2",), 1)\nB: int = 2\nC = D = 3\nE, F = 4, *[5]\n'
    file.write_text(text)
    exec(text, truth := {})
    for name in ("DIRECTION", "NORMS", "A", "B", "C", "D"):
        assert signatures.constant("bounds", "mine", name) == truth[name]
    assert signatures.constant("bounds", "mine", "F") is None


@pytest.mark.parametrize("name", lookup.known("bounds"))
@pytest.mark.parametrize("constant", ["NORMS", "DIRECTION"])
def test_constants_of_a_bound(name, constant):
    there = getattr(lookup.resolve("bounds", name), constant)
    assert signatures.constant("bounds", name, constant) == there
