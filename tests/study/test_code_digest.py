"""Which files a job's code digest covers."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lipdescent.plugins import lookup
from lipdescent.study import code_digest as digests
from lipdescent.study.code_digest import caption, code_files, code_versions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    files = {
        "job.py": "from lipdescent import alpha\nfrom lipdescent.sub import beta\n",
        "lipdescent/__init__.py": "",
        "lipdescent/alpha.py": "import lipdescent.gamma\n",
        "lipdescent/gamma.py": "x = 1\n",
        "lipdescent/unused.py": "x = 1\n",
        "lipdescent/sub/__init__.py": "",
        "lipdescent/sub/beta.py": "x = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(digests, "SCRIPTS", tmp_path)
    forget()
    return tmp_path


def forget():
    """Files are read once in a process."""
    digests._followed.cache_clear()
    digests._files.cache_clear()
    digests._digest.cache_clear()


@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ("job.py", True),
        ("lipdescent/alpha.py", True),
        ("lipdescent/gamma.py", True),
        ("lipdescent/sub/__init__.py", True),
        ("lipdescent/sub/beta.py", True),
        ("lipdescent/unused.py", False),
    ],
)
def test_a_change_matters_where_it_is_imported(scripts, changed, matters):
    before = code_versions("job.py")
    path = scripts / changed
    path.write_text(path.read_text() + "y = 2\n")
    forget()
    after = code_versions("job.py")
    assert before.keys() == after.keys()
    differing = [name for name, version in after.items() if before[name] != version]
    assert differing == ([changed] if matters else [])


def test_touching_changes_nothing(scripts):
    before = code_versions("job.py")
    os.utime(scripts / "lipdescent/alpha.py", (0, 0))
    forget()
    assert code_versions("job.py") == before


def test_imports_over_several_lines_are_followed_and_texts_are_not(scripts):
    (scripts / "job.py").write_text(
        '"""A text\nfrom which nothing is imported.\n"""\n'
        "from lipdescent import (  # a comment\n    alpha,\n)\n"
        "def f():\n    from lipdescent import unused\n"
    )
    forget()
    assert list(code_versions("job.py")) == [
        "job.py", "lipdescent/__init__.py", "lipdescent/alpha.py", "lipdescent/gamma.py"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    ["from .gamma import x", "from . import gamma", "from ..lipdescent.gamma import x",
     "from .sub.beta import (\n    x,\n)", "from .sub import beta"],
)  # fmt: skip
def test_relative_imports_are_followed(scripts, statement):
    (scripts / "lipdescent/alpha.py").write_text(f"{statement}\n")
    (scripts / "job.py").write_text("from lipdescent import alpha\n")
    forget()
    wanted = "lipdescent/sub/beta.py" if "beta" in statement else "lipdescent/gamma.py"
    assert wanted in code_versions("job.py")
    assert "lipdescent/unused.py" not in code_versions("job.py")


def test_training_does_not_depend_on_bounds_nor_figures_on_training():
    """What each script imports, found here by another way than the digest's."""

    def closure(script):
        seen, todo = set(), [ROOT / "scripts" / script]
        while todo:
            path = todo.pop()
            if path in seen:
                continue
            seen.add(path)
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                    "lipdescent"
                ):
                    base = ROOT / "scripts" / node.module.replace(".", "/")
                    names = [base / a.name for a in node.names] + [base]
                    todo += [p.with_suffix(".py") for p in names if p.with_suffix(".py").exists()]
        return {str(p.relative_to(ROOT / "scripts")).removeprefix("lipdescent/") for p in seen}

    assert "training/stack_training.py" in closure("train.py")
    assert not {"measuring/measure.py", "measuring/kinds/metrics.py", "storage/table.py"} & closure(
        "train.py"
    )
    for plot in lookup.known("figures"):
        assert not {"training/stack_training.py", "measuring/measure.py"} & closure(
            f"lipdescent/figures/{plot}.py"
        )


def covered(*files):
    names = (str(path.relative_to(ROOT / "scripts")) for path in code_files(*files))
    return {name.removeprefix("lipdescent/") for name in names}


def test_a_plug_in_that_is_looked_up_by_a_written_name_is_covered(scripts):
    (scripts / "job.py").write_text("def f():\n    return names.resolve('sub', 'beta')\n")
    forget()
    assert scripts / "lipdescent/sub/beta.py" in code_files("job.py")


@pytest.mark.parametrize(
    ("architecture", "measure", "yes", "no"),
    [
        (
            "mlp",
            "metrics",
            {
                "measuring/kinds/metrics.py",
                "training/losses/hinge.py",
                "training/label_noise/pair_swap.py",
                "training/replicas.py",
            },
            {
                "robustness/certificates.py",
                "robustness/attacks.py",
                "structure/materialise.py",
                "constrained/constraints.py",
                "structure/trace.py",
                "measuring/kinds/bound.py",
            },
        ),
        (
            "mlp",
            "lower_jacobian",
            {"bounds/lower_jacobian.py", "arithmetic/certified_norms.py"},
            {
                "robustness/certificates.py",
                "measuring/kinds/metrics.py",
                "training/losses/hinge.py",
                "structure/materialise.py",
            },
        ),
        (
            "lipschitz_mlp",
            "lower_jacobian",
            {"structure/materialise.py", "layers/table.py"},
            {"robustness/certificates.py", "training/losses/hinge.py"},
        ),
        (
            "mlp",
            "certificates",
            {"robustness/certificates.py", "robustness/attacks.py"},
            {"structure/materialise.py"},
        ),
    ],
)
def test_a_measurement_depends_on_what_it_uses_alone(architecture, measure, yes, no):
    plug_ins = digests.measurement_files(measure, architecture, "hinge", "pair_swap")
    files = covered("measure.py", *plug_ins)
    assert (
        yes | {"measuring/measure.py", "storage/checkpoints.py", f"architectures/{architecture}.py"}
        <= files
    )
    assert not no & files


OPTIONS = {"loss": "hinge", "schedule": "warmup"}


def trained_by(architecture, **options):
    files = digests.training_files(architecture, OPTIONS | options, "pair_swap")
    return covered("train.py", *files)


def test_training_depends_on_the_loss_schedule_and_noise_that_it_uses_alone():
    plain, limited = map(trained_by, ("mlp", "lipschitz_mlp"))
    used = {
        "training/losses/hinge.py",
        "training/schedules/warmup.py",
        "training/label_noise/pair_swap.py",
        "training/stack_training.py",
    }
    assert used <= plain & limited
    for package in ("losses", "schedules", "label_noise"):
        others = {f"{package}/{name}.py" for name in lookup.known(package)} - used
        assert others
        assert not others & plain
    assert "training/losses/kr.py" in trained_by("mlp", loss="hkr")  # which is made of it
    assert "constrained/constraints.py" in limited - plain
    unread = {"jobs/fork_server.py", "jobs/forking.py", "storage/stamps.py", "storage/table.py"}
    assert not unread & (plain | limited)


def test_every_figure_has_a_caption():
    plots = [f"lipdescent/figures/{name}.py" for name in lookup.known("figures")]
    assert plots
    for plot in plots:
        assert len(caption(plot)) > 40, f"{plot}: the docstring is the caption"


IMPORTING = """
import builtins, collections, importlib.util, json, sys
asked = collections.defaultdict(set)  # module -> modules that it imports

def note(names):
    frame = sys._getframe(2)
    while frame.f_code.co_name != "<module>":  # the module that is being imported
        frame = frame.f_back
    for name in names:
        parts = name.split(".")
        around = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        asked[frame.f_globals["__name__"]] |= around & set(sys.modules)

def imported(name, globals=None, locals=None, fromlist=(), level=0):
    found = plain(name, globals, locals, fromlist, level)
    if level:
        name = importlib.util.resolve_name("." * level + name, globals["__package__"])
    if name.split(".")[0] == "lipdescent":
        note([name, *(f"{name}.{one}" for one in fromlist or ())])
    return found

def imported_by_name(name, package=None):
    found = by_name(name, package)
    if name.split(".")[0] == "lipdescent":
        note([name])
    return found

plain, builtins.__import__ = builtins.__import__, imported
by_name, importlib.import_module = importlib.import_module, imported_by_name
told = {}
for name in sys.argv[1:]:
    by_name(name)
for name in sys.argv[1:]:
    parts = name.split(".")
    todo, all = [".".join(parts[:n]) for n in range(1, len(parts) + 1)], set()
    while todo:
        one = todo.pop()
        if one.split(".")[0] == "lipdescent" and one not in all:
            all.add(one)
            todo += asked[one]
    told[name] = [sys.modules[one].__file__ for one in all]
print(json.dumps(told))
"""


def test_what_python_imports_is_covered():
    """Whatever a plug-in imports, relatively or not, is among the files of its digest."""
    packages = ("bounds", "architectures", "losses", "experiments", "measurements")
    modules = [
        f"{lookup.module_of(package)}.{name}"
        for package in packages
        for name in lookup.known(package)
    ]
    environ = os.environ | {"PYTHONPATH": str(digests.SCRIPTS)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, *modules], capture_output=True, text=True, env=environ
    )
    assert done.returncode == 0, done.stderr
    ignored = {str(digests.SCRIPTS / file) for file in digests.NOT_COVERED}
    for module, imported in json.loads(done.stdout).items():
        covered = {str(path) for path in code_files(f"{module.replace('.', '/')}.py")}
        assert sorted(set(imported) - covered - ignored) == [], module
