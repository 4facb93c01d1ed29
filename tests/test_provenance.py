"""Which files a job's code digest covers."""

import ast
import os
from pathlib import Path

import pytest

from lipdescent import provenance
from lipdescent.provenance import caption, code_digest, code_files

ROOT = Path(__file__).parent.parent


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
    monkeypatch.setattr(provenance, "SCRIPTS", tmp_path)
    provenance._followed.cache_clear()
    return tmp_path


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
    before = code_digest("job.py")
    path = scripts / changed
    path.write_text(path.read_text() + "y = 2\n")
    assert (code_digest("job.py") != before) is matters


def test_touching_changes_nothing(scripts):
    before = code_digest("job.py")
    os.utime(scripts / "lipdescent/alpha.py", (0, 0))
    assert code_digest("job.py") == before


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
        return {p.name for p in seen}

    assert "training.py" in closure("train.py")
    assert not {"measuring.py", "metrics.py", "table.py"} & closure("train.py")
    for plot in (ROOT / "scripts").glob("plot_*.py"):
        assert not {"training.py", "measuring.py"} & closure(plot.name)


def covered(*files):
    names = (str(path.relative_to(ROOT / "scripts")) for path in code_files(*files))
    return {name.removeprefix("lipdescent/") for name in names}


def test_a_function_that_is_looked_up_by_name_is_covered(scripts):
    (scripts / "lipdescent/alpha.py").write_text(
        "def f(name):\n    return names.resolve_function('unused', name)\n"
    )
    provenance._followed.cache_clear()
    assert scripts / "lipdescent/unused.py" in code_files("job.py")


@pytest.mark.parametrize(
    ("architecture", "measure", "yes", "no"),
    [
        ("mlp", "metrics", {"metrics.py", "losses.py", "label_noise.py", "replicas.py"},
         {"certificates.py", "attacks.py", "constrained/plain.py", "constrained/constraints.py",
          "layers/walker.py", "measurements/bound.py"}),
        ("mlp", "lower_jacobian", {"bounds/lower_jacobian.py", "bounds/_rounding.py"},
         {"certificates.py", "metrics.py", "losses.py", "constrained/plain.py"}),
        ("lipschitz_mlp", "lower_jacobian", {"constrained/plain.py", "layers/table.py"},
         {"certificates.py", "losses.py"}),
        ("mlp", "certificates", {"certificates.py", "attacks.py"}, {"constrained/plain.py"}),
    ],
)  # fmt: skip
def test_a_measurement_depends_on_what_it_uses_alone(architecture, measure, yes, no):
    files = covered("measure.py", *provenance.measurement_files(measure, architecture))
    assert yes | {"measuring.py", "checkpoints.py", f"architectures/{architecture}.py"} <= files
    assert not no & files


def test_training_depends_on_losses_schedules_noise_and_constraints_that_it_uses():
    plain, limited = (
        covered("train.py", f"lipdescent/architectures/{name}.py")
        for name in ("mlp", "lipschitz_mlp")
    )
    assert {"losses.py", "schedules.py", "label_noise.py", "training.py"} <= plain & limited
    assert "constrained/constraints.py" in limited - plain
    assert "fork_server.py" not in plain | limited


def test_every_figure_has_a_caption():
    plots = [p.name for p in (ROOT / "scripts").glob("plot_*.py")]
    assert plots
    for plot in plots:
        assert len(caption(plot)) > 40, f"{plot}: the docstring is the caption"


def test_describe_names_versions_and_revision():
    about = provenance.describe("cpu")
    assert about["versions"]["torch"].startswith("2.")
    assert set(about) == {
        "python", "machine", "device", "versions", "revision", "uncommitted_changes"
    }  # fmt: skip
