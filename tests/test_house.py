"""The house: every module in a room, rooms in their order, no circle, nothing running up."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import rooms

ROOT = Path(__file__).parents[1]
ORDER = list(rooms.described())


def test_every_module_lies_in_a_room():
    assert {rooms.room(module) for module in rooms.modules()} <= set(ORDER)


def test_every_room_is_there():
    assert set(ORDER) == {rooms.room(module) for module in rooms.modules()}


def test_nothing_imports_from_a_room_further_up():
    up = {
        pair: modules
        for pair, modules in rooms.arrows().items()
        if ORDER.index(pair[0]) < ORDER.index(pair[1])
    }
    assert not up


def test_no_circle_among_modules():
    order = TopologicalSorter(rooms.imports()).static_order()  # raises CycleError with the circle
    assert set(order) == rooms.modules().keys()


def test_a_package_imports_nothing_of_its_own_room():
    """What a room's __init__ imports, every job that uses any file of the room depends on."""
    imports = rooms.imports()
    for module, path in rooms.modules().items():
        if path.name == "__init__.py":
            own = {other for other in imports[module] if other.startswith(f"{module}.")}
            assert not own, f"{path} imports {own}"


def test_the_drawing_is_that_of_the_code():
    assert (ROOT / "docs/rooms.md").read_text() == rooms.drawing(), "say: make rooms"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from lipdescent.bounds import upper_lipsdp", "layers"),
        ("from lipdescent.training.engines import fused_mlp", "layers"),
    ],
)
def test_an_import_upwards_is_seen(line, message, tmp_path, monkeypatch):
    path = tmp_path / "linear.py"
    path.write_text(line)
    known = rooms.modules() | {"lipdescent.layers.linear": path}
    monkeypatch.setattr(rooms, "modules", lambda: known)
    with pytest.raises(AssertionError, match=message):
        test_nothing_imports_from_a_room_further_up()


# Kernels of a GPU: a part that is called there costs registers, a structure of arguments a copy.
KERNELS = "lipdescent.training.fused_steps."
# What a plug-in's entry takes is its options, one each; as bracket's, which users call.
OPTIONS = ("build", "measure", "run", "bracket", "network")


def functions():
    for module, path in rooms.modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not module.startswith(KERNELS):
                yield f"{module}.{node.name}", node


def test_no_function_has_more_than_60_lines():
    lines = {name: node.end_lineno - node.lineno + 1 for name, node in functions()}
    assert {name: count for name, count in lines.items() if count > 60} == {}


def test_no_function_takes_more_than_8_arguments():
    taken = {
        name: len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
        for name, node in functions()
        if node.name not in OPTIONS
    }
    assert {name: count for name, count in taken.items() if count > 8} == {}


def described(doc):
    """Names under Parameters, as numpydoc writes them."""
    text = doc.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    heads = re.findall(r"^(\S.*?) : ", text, flags=re.MULTILINE)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def test_parameters_that_docstrings_describe_are_taken():
    wrong = {}
    for name, node in functions():
        taken = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
        if more := described(ast.get_docstring(node) or "") - taken:
            wrong[name] = more
    assert not wrong


def test_every_room_says_what_it_is_for():
    """In its __init__, for those who open the folder; ROOMS has a line of each."""
    silent = [
        module
        for module, path in rooms.modules().items()
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_files_that_docstrings_name_are_there():
    """``proofs/prover.py`` is some file with this end; contracts say ``NAME.py``."""
    files = [f"/{path.as_posix()}" for path in (ROOT / "scripts").rglob("*.py")]
    gone = {
        (module, name)
        for module, path in rooms.modules().items()
        for name in re.findall(r"``([\w/]+\.py)``", path.read_text())
        if not name.endswith("NAME.py") and not any(file.endswith(f"/{name}") for file in files)
    }
    assert not gone


def test_no_circle_among_benchmarks():
    paths = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
    graph = {}
    for name, path in paths.items():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        found = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
        found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        graph[name] = found & paths.keys()
    assert set(TopologicalSorter(graph).static_order()) == paths.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_a_benchmark_takes_the_library_of_its_checkout(path):
    """Run by its path, it finds `lipdescent` only where `checkout` was imported before."""
    lines = [
        line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))
    ]
    own = [i for i, line in enumerate(lines) if line.split()[1].split(".")[0] == "lipdescent"]
    found = [i for i, line in enumerate(lines) if line.split()[1] == "checkout"]
    assert not own or (found and found[0] < own[0])
