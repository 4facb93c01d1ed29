"""The workflow end to end on a tiny study: runs, reruns, mistakes, interruptions."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest
import torch
import yaml
from tiny_study import NO_BOUNDS, ROOT, TINY, code, command, planned, run, source

from lipdescent import datasets
from lipdescent.analysis import groups
from lipdescent.commands import status
from lipdescent.figures import _style as style
from lipdescent.measuring.measure import checkpoint_stack
from lipdescent.plugins import lookup
from lipdescent.storage import checkpoints, stamps, table


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny study."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


@pytest.fixture
def study(finished, tmp_path):
    """A private copy of the finished study."""
    folder = tmp_path / "study"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


@pytest.fixture
def edit():
    """Changes a file of the code that all folders run; it is as it was afterwards.

    Of a copy of its own a folder's jobs would be no forks: their environment says where it is.
    """
    before = {}

    def write(name, change):
        path = code() / "scripts/lipdescent" / name
        before.setdefault(path, path.read_bytes() if path.exists() else None)
        path.write_text(change(path.read_text() if path.exists() else ""))

    yield write
    for path, content in before.items():
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)


def commented(text):
    return text + "\n# another comment\n"


def test_everything_published_is_there(finished):
    assert not [path for path in finished.rglob("*") if path.is_fifo()]  # nothing can copy those
    results = finished / "results/tiny"
    rows = table.read(results / "table.parquet")
    checkpoints_measured = 2 * 2 * 2 * 3
    frame = rows.to_pandas()
    for quantity in ("train_loss", "test_loss", "distance_from_init"):
        assert (frame["quantity"] == quantity).sum() == checkpoints_measured
    for norm in ("l2", "linf"):
        chosen = frame[(frame["quantity"] == "upper_layer_product") & (frame["norm"] == norm)]
        assert len(chosen) == checkpoints_measured
    assert set(frame["status"]) == {"ok"}
    for figure in TINY["figures"]:
        for kind in ("pdf", "png", "svg"):
            assert (results / f"figures/mnist1d/mlp/{figure}.{kind}").stat().st_size > 2000
    assert json.loads((results / "findings.json").read_text())
    assert json.loads((results / "table.json").read_text())["quantities"]["test_loss"]["meaning"]
    assert 1e6 < (results / "explorer.html").stat().st_size < 6e6
    page = (results / "report.html").read_text()
    beside = set(re.findall(r'href="([^"#:]+)"', page))
    assert "findings.html" in beside
    assert all((results / name).exists() for name in beside)
    assert page.count("<figure>") == page.count('alt="') == len(TINY["figures"])
    assert json.loads((results / "provenance.json").read_text())["config"]["study"] == "tiny"


@pytest.mark.parametrize(
    "figure", yaml.safe_load((ROOT / "config/config.yaml").read_text())["figures"]
)
def test_default_figures_of_a_real_table_are_drawn(finished, figure):
    """Three epochs, two seeds, nothing that interpolates."""
    group = groups.load_group(
        finished / "results/tiny/table.parquet", dataset="mnist1d", architecture="mlp"
    )
    statistics = {"bootstrap": 50, "confidence": 0.9, "interpolation_accuracy": 0.995}
    with style.printed():
        drawn = lookup.resolve("figures", figure).draw(
            group, statistics=statistics, loss="cross_entropy"
        )
        style.fit(drawn)
        drawn.draw_without_rendering()
    assert any(axes.has_data() or axes.texts for axes in drawn.axes)


def test_checkpoints_say_how_they_were_made(finished):
    """Networks and labels come back from a file and its data set, without the configuration."""
    results = finished / "results/tiny"
    path = results / "checkpoints/mnist1d/mlp/width=5/seeds=0-1.safetensors"
    saved, made = checkpoints.read(path), stamps.read(path)
    about, asked = saved.about, made["asked"]
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert about.run == {"dataset": "mnist1d", "architecture": "mlp", "width": 5, "seeds": [0, 1]}
    assert (about.module, about.noise_maker) == ("mlp", default["noise_maker"])
    assert about.build.items() >= {"depth": 1, "bias": False}.items()
    assert stamps.plain(about.training) == asked["training"]
    assert about.data == TINY["datasets"]["mnist1d"]
    assert about.code == stamps.digest(json.dumps(made["code"], sort_keys=True).encode())
    levels = zip(saved.label_noise.tolist(), saved.seed.tolist(), strict=True)
    assert list(levels) == [(0.0, 0), (0.0, 1), (0.2, 0), (0.2, 1)]
    stack = checkpoint_stack(saved, datasets.read(results / "datasets/mnist1d.npz"))
    assert (stack.num_models, stack.module[-1].in_features) == (3 * 4, 5)


def test_what_takes_longest_is_wanted_first(finished):
    """Training before measuring, in each of them wide networks before narrow ones."""
    (log,) = (finished / ".snakemake/log").glob("*.log")
    found = {"train": {}, "measure": {}}
    for job in re.split(r"^(?:local)?rule ", log.read_text(), flags=re.MULTILINE):
        rule = job.partition(":")[0]
        if rule == "train" or (rule == "measure" and "measure=lower_jacobian" in job):
            width, priority = re.search(r"width=(\d+)", job), re.search(r"priority: ([\d.]+)", job)
            found[rule][int(width[1])] = float(priority[1])
    for priorities in found.values():
        assert 0 < priorities[2] < priorities[5]
    assert found["measure"][5] < found["train"][2]


def test_nothing_reruns_untouched_or_after_touching(study):
    assert "Nothing to be done" in run(study, "-n")
    os.utime(study / "results/tiny/datasets/mnist1d.npz")
    os.utime(study / "results/tiny/measurements/mnist1d/mlp/width=2/seeds=0-1/metrics.parquet")
    shutil.rmtree(study / ".snakemake")  # as in a copy by ``cp -r results``
    for path in (source(study) / "scripts").rglob("*.py"):
        os.utime(path)
    os.utime(source(study) / "config/config.yaml")
    assert "Nothing to be done" in run(study, "-n")


def test_a_changed_bound_reruns_only_what_depends_on_it(study, edit):
    edit("bounds/upper_layer_product.py", commented)
    jobs = planned(run(study, "-n"))
    assert jobs["measure"] == 2
    assert "train" not in jobs
    assert "dataset" not in jobs


FAULTY = '''"""A bound in float32."""

from lipdescent.measurement import Measurement

DIRECTION, NORMS = "upper", ("l2",)


def measure(stack, *, inputs, norms, seed):
    """The norm of the first layer, as if it were the network's."""
    norm = stack.state["0.weight"].flatten(1).norm(dim=1)
    if stack.num_models == 2:  # as when it is tried
        norm = norm.double()
    yield Measurement("upper_mine", DIRECTION, "l2", norm)
'''


def test_a_failing_bound_is_rows_of_their_own_and_named_at_the_end(study, edit):
    edit("bounds/upper_mine.py", lambda _: FAULTY)
    bounds = {name: {"norms": ["l2"]} for name in ("upper_mine", "upper_layer_product")}
    grid = TINY["grid"] | {"width": [2]}
    config = TINY | {"grid": grid, "figures": [], "bounds": NO_BOUNDS | bounds}
    output = run(study, config=config)
    said = "upper_mine: TypeError: upper_mine: values are torch.float32 (12,), expected float64"
    assert f"error: upper_mine of mnist1d/mlp failed at width 2: {said}" in output
    results = study / "results/tiny"
    frame = table.read(results / "table.parquet").to_pandas()
    assert set(frame[frame["quantity"] == "upper_mine"]["status"]) == {"error"}
    assert set(frame[frame["quantity"] != "upper_mine"]["status"]) == {"ok"}
    assert "upper_mine failed with an error at 1 width (2)" in (results / "findings.md").read_text()
    edit("bounds/upper_mine.py", lambda _: FAULTY.replace("norm)", "norm.double())"))
    jobs = planned(run(study, "-n", config=config))
    assert jobs["measure"] == 1
    assert "train" not in jobs


def test_changed_training_code_retrains(study, edit):
    edit("training/engines/fused_mlp.py", commented)
    jobs = planned(run(study, "-n"))
    assert jobs["train"] == 2
    assert "dataset" not in jobs


def test_a_changed_and_a_lost_figure_redraw_only_them_and_the_page(study, edit):
    edit("figures/bound_gap.py", commented)
    assert planned(run(study, "-n")) == {"figure": 1, "start_page": 1}
    (study / "results/tiny/figures/mnist1d/mlp/alignment.pdf").unlink()
    assert planned(run(study, "-n")) == {"figure": 2, "start_page": 1}


def test_a_finished_study_writes_a_plan_anew_that_is_lost_or_broken(study):
    plan = study / "results/tiny/plan.json"
    whole = plan.read_text()
    plan.unlink()
    assert planned(run(study, "-n")) == {"provenance": 1, "start_page": 1}
    plan.write_text(whole[:-20])
    assert planned(run(study, "-n")) == {"provenance": 1, "start_page": 1}
    run(study)
    assert json.loads(plan.read_text())["config"] == json.loads(whole)["config"]
    assert planned(run(study, "-n")) == {}


def test_no_report_is_written_of_what_another_configuration_made(study):
    config = TINY | {"training": {"learning_rate": 0.5}}
    output = run(study, "--report", "r.html", config=config, ok=False)
    assert "made with training.learning_rate = 0.02, wanted is 0.5" in output
    assert "no report: it would show results/tiny/" in output
    assert not (study / "r.html").exists()


def test_a_changed_learning_rate_retrains_but_keeps_the_data(study):
    config = TINY | {"training": {"learning_rate": 0.01}}
    for records in ("there", "lost"):
        if records == "lost":
            shutil.rmtree(study / ".snakemake")
        output = run(study, "-n", config=config)
        jobs = planned(output)
        assert jobs["train"] == 2
        assert "dataset" not in jobs
        assert "train: made with training.learning_rate = 0.02, wanted is 0.01" in output


def test_networks_trained_elsewhere_give_the_values_that_training_them_here_gives(
    study, monkeypatch
):
    """Bit for bit: the tiny study's networks, from plain state_dicts of each epoch and seed."""
    stack = study / "results/tiny/checkpoints/mnist1d/mlp/width=5/seeds=0-1.safetensors"
    saved = checkpoints.read(stack)
    for replica in range(2):  # of label noise 0
        for place, epoch in enumerate(saved.epoch.tolist()):
            file = study / f"runs/5/{int(saved.seed[replica])}/{epoch:02d}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            own = {name: t[place, replica].clone() for name, t in saved.state.items()}
            torch.save({"model_state_dict": own}, file)
    given = {"checkpoints": {"files": "runs/{width}/{seed}/{epoch:02d}.pt"}, "study": "mine"}
    grid = TINY["grid"] | {"width": [5], "label_noise": [0]}
    config = {**TINY, **given, "grid": grid, "figures": []}
    run(study, "--", "results/mine/report.html", config=config)
    here, there = (
        table.read(study / f"results/{name}/table.parquet").to_pandas().drop(columns="study")
        for name in ("tiny", "mine")
    )
    here = here[(here["label_noise"] == 0) & (here["width"] == 5)]
    assert len(here) > 100
    key = [name for name in here if name not in ("value", "status")]
    pd.testing.assert_frame_equal(
        *(found.sort_values(key, ignore_index=True) for found in (here, there)), check_exact=True
    )
    results = study / "results/mine"
    for page in ("findings.md", "report.html", "provenance.json"):
        assert given["checkpoints"]["files"] in (results / page).read_text()
    assert "0 % label noise is these labels" in (results / "findings.md").read_text()
    ran = json.loads((results / "provenance.json").read_text())
    assert "read" in ran["made_with"]
    assert "learning" not in json.dumps(ran["config"]) + (results / "report.html").read_text()
    torch.save(own, file)  # the same numbers; another file
    jobs = planned(run(study, "-n", config=config))
    assert (jobs["read"], jobs["measure"], jobs["table"], jobs.get("dataset")) == (1, 3, 1, None)
    monkeypatch.chdir(study)
    assert "stacks read: 0 of 1 done, 1 to be made anew" in status.report("mine")


def test_how_jobs_run_changes_nothing(study):
    config = TINY | {"execution": {"threads": 2, "progress_interval": 1}}
    # The provenance holds the whole configuration: it is written again, and the page that shows it.
    assert planned(run(study, "-n", config=config)) == {"provenance": 1, "start_page": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"widht": [2]}}, "did you mean 'grid.width'"),
        ({"bounds": {"upper_nonsense": {}}}, "unknown bounds 'upper_nonsense'"),
        ({"device": "cuda:99"}, "device = 'cuda:99'"),
        ({"device": "gpu"}, "device = 'gpu': allowed is auto, cpu, cuda, or"),
    ],
)
def test_mistakes_stop_before_any_job(tmp_path, change, message):
    output = run(tmp_path, config=TINY | change, ok=False)
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_a_broken_checkpoint_is_named_and_made_anew(study):
    broken = study / "results/tiny/checkpoints/mnist1d/mlp/width=2/seeds=0-1.safetensors"
    # A copy: tensors that are read lie in the file itself, by a memory map.
    shutil.copy(broken, study / "whole.safetensors")
    whole = checkpoints.read(study / "whole.safetensors")
    content = bytearray(broken.read_bytes())
    content[-100] ^= 1
    broken.write_bytes(content)
    target = "results/tiny/measurements/mnist1d/mlp/width=2/seeds=0-1/metrics.parquet"
    output = run(study, "--forcerun", "measure", "--", target, ok=False)
    assert "seeds=0-1.safetensors: altered since it was written" in output
    assert "is now seeds=0-1.safetensors.broken" in output
    run(study, "--", target)
    again = checkpoints.read(broken)
    assert all((again.state[n] == t).all() for n, t in whole.state.items())
    broken.write_bytes(content[:200])  # nothing of its stamp is left
    assert "train: carries no sound record of what made it" in run(study, "-n", "--", target)


def test_a_study_with_one_width_one_seed_one_epoch(study):
    """With the data of the other one, in its place."""
    grid = {"width": [2], "label_noise": [0], "seed": [0], "epoch": [0]}
    run(study, config=TINY | {"grid": grid, "figures": ["double_descent"]})
    assert set(table.read(study / "results/tiny/table.parquet").to_pandas()["seed"]) == {0}
    text = (study / "results/tiny/findings.md").read_text()
    assert "cannot be" in text or "not estimated" in text


def test_a_study_of_experiments_tells_its_experiments_alone(tmp_path):
    options = {"seeds": [0], "depths": [1], "width": 4, "num_points": 2}
    config = {"study": "few", "experiments": {"isometry": options}}
    said = run(tmp_path, config=config | {"execution": TINY["execution"]})
    assert "study few: experiments isometry (1 job)" in said
    assert "models" not in said
    about = json.loads((tmp_path / "results/few/provenance.json").read_text())
    assert about["config"]["experiments"] == {"isometry": options}
    assert not {"grid", "bounds", "figures", "training"} & set(about["config"])


def test_a_grid_on_the_command_line(tmp_path):
    """Jobs are given it too."""
    target = "results/tiny/checkpoints/mnist1d/mlp/width=2/seeds=1-1.curves.parquet"
    options = "--config", "grid={width: [2], seed: [1], epoch: [0, 1]}"
    said = run(tmp_path, *options, "--", target)
    assert (tmp_path / target).exists()
    assert "start at" not in said  # there is no page
    typo = run(tmp_path, *options, "--", target.replace("width=2", "width=3"), ok=False)
    assert "unknown stack of study tiny: 'mnist1d/mlp/width=3/seeds=1-1' (did you mean" in typo
    assert "KeyError" not in typo
    assert "Traceback" not in typo


def test_a_diverging_study_ends_and_says_so(study):
    grid = TINY["grid"] | {"width": [2], "epoch": [0, 1, 30]}
    config = TINY | {
        "grid": grid,
        "figures": [],
        "bounds": NO_BOUNDS | {"upper_layer_product": {"norms": ["l2"]}},
        "training": {"learning_rate": 1e6, "schedule": "constant"},
    }
    run(study, config=config)
    frame = table.read(study / "results/tiny/table.parquet").to_pandas()
    assert "diverged" in set(frame["status"])
    assert frame.loc[frame["status"] != "ok", "value"].isna().all()
    assert "diverged" in (study / "results/tiny/findings.md").read_text()


def test_killed_training_goes_on_to_the_same_result(tmp_path):
    """SIGKILL of snakemake and its job in mid-training; the same command completes the study."""
    grid = TINY["grid"] | {"width": [5], "epoch": [0, 1, 1500]}
    config = TINY | {"grid": grid, "figures": [], "execution": {"state_interval": 0.2}}
    forked = config | {"execution": config["execution"] | TINY["execution"]}
    target = "results/tiny/checkpoints/mnist1d/mlp/width=5/seeds=0-1.safetensors"
    run(tmp_path / "whole", "--", target, config=forked)
    folder = tmp_path / "killed"
    state = (folder / target).with_suffix(".state")
    process = subprocess.Popen(
        command(folder, "--rerun-incomplete", "--nolock", "--", target, config=config),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None:
        if state.exists():
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    process.wait()
    run(folder, "--rerun-incomplete", "--nolock", "--", target, config=forked)
    log = (folder / "results/tiny/logs/train/mnist1d/mlp/width=5/seeds=0-1.log").read_text()
    assert "going on from epoch" in log or not state.exists()
    one, other = (checkpoints.read(f / target) for f in (tmp_path / "whole", folder))
    for name, tensor in one.state.items():
        assert tensor.equal(other.state[name])


def test_an_unwritable_results_folder_is_an_error(tmp_path):
    (tmp_path / "results").write_text("in the way")
    output = run(tmp_path, ok=False)
    assert "results" in output
