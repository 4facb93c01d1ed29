"""Reports and provenance tell what ran, not what an overlay only inherits of the default study."""

import copy
from types import SimpleNamespace

import jinja2
import pytest
import yaml
from configurations import DEFAULT, ROOT, checked
from docutils.core import publish_string
from snakemake.utils import update_config

from lipdescent.study import published

STUDIES = sorted(path.stem for path in ROOT.glob("config/studies/*.yaml"))


def written(study):
    return yaml.safe_load((ROOT / f"config/studies/{study}.yaml").read_text())


def prepared(study):
    """The whole configuration, as Snakemake is given it."""
    config = copy.deepcopy(DEFAULT)
    update_config(config, written(study))
    return checked(config)


def report(config):
    """The first page of the study's report, rendered as Snakemake does."""
    text = (ROOT / "workflow/report/study.rst").read_text()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=False)
    page = environment.from_string(text).render(snakemake=SimpleNamespace(config=config))
    publish_string(page, settings_overrides={"halt_level": 2, "report_level": 5})  # warnings raise
    return page


@pytest.mark.parametrize("study", STUDIES)
def test_the_report_and_the_provenance_name_nothing_that_never_ran(study):
    config = prepared(study)
    kept, page = published.ran(config), report(config)
    assert f"**{config['study']}**" in page
    if config["experiments"]:
        assert set(kept) == {"study", "experiments", "figure", "execution"}
        assert kept["experiments"] == written(study)["experiments"]
        for word in ("mlp", "mnist1d", "seeds 0, 1, 2, 3", "Bounds:", "Findings", "table.csv"):
            assert word not in page
        for name, options in config["experiments"].items():
            assert f"* {name}: " in page
            assert f"results/{study}/experiments/{name}.csv" in page
            assert all(f"{key} = {value}" in page for key, value in options.items())
        return
    grid = config["grid"]
    assert set(kept["architectures"]) == set(grid["architecture"])
    assert set(kept["datasets"]) <= set(grid["dataset"])
    assert kept["grid"] == grid
    assert kept["bounds"] == config["bounds"]
    assert "experiments" not in kept
    assert f"widths {', '.join(map(str, grid['width']))};" in page
    assert ("Figures" in page) is bool(config["figures"] or config["comparisons"])
    for name in set(DEFAULT["bounds"]) - set(config["bounds"]):
        assert name not in page


def test_what_ran_is_all_of_the_default_study():
    config = prepared(STUDIES[0]) | {"experiments": {}}
    config |= {key: DEFAULT[key] for key in ("grid", "datasets", "architectures")}
    assert published.ran(config) == {k: v for k, v in config.items() if k != "experiments"}


def test_the_report_tells_that_networks_were_trained_elsewhere(tmp_path):
    config = copy.deepcopy(DEFAULT) | {"checkpoints": {"files": f"{tmp_path}/{{width}}.pt"}}
    config["grid"] |= {"width": [4], "label_noise": [0], "seed": [0], "epoch": [3]}
    (tmp_path / "4.pt").touch()
    told = f"trained elsewhere and read from the files\n``{tmp_path}/{{width}}.pt``"
    assert told in report(checked(config))
    assert "elsewhere" not in report(prepared("ks_depth_small"))
