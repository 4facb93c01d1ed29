"""The start page and the header of a run."""

import re

from lipdescent.findings.page import Points
from lipdescent.report import header, page

PROVENANCE = {
    "config": {
        "study": "some",
        "grid": {
            "dataset": ["mnist1d"],
            "architecture": ["mlp"],
            "width": [8, 4],
            "label_noise": [0, 0.2],
            "seed": [0, 1, 2],
            "epoch": [0, 10],
        },
        "training": {
            "loss": "cross_entropy",
            "learning_rate": 0.05,
            "penalty": None,
            "optimizer": "sgd",
            "momentum": 0.9,
            "betas": [0.9, 0.999],
        },
        "datasets": {"mnist1d": {"num_train": 60}},
        "architectures": {"mlp": {"bias": False, "depth": 2}},
        "bounds": {"upper_lipsdp": {"norms": ["l2"]}, "lower_pairs": None},
    },
    "revision": "0123456789abcdef",
    "uncommitted_changes": True,
    "python": "3.11.7",
    "versions": {"torch": "2.15.0", "snakemake": "9.27.1"},
    "device": "cpu (1 thread)",
    "cpu": {"model": "fast", "cores": 2},
    "started": "2026-01-02T03:04:05+00:00",
    "finished": "2026-01-02T03:06:05+00:00",
    "job_seconds": {"train": 3000.0, "measure": 4200.0},
}


def test_the_header_says_what_was_trained_and_how_long():
    told = header.header(PROVENANCE)
    assert told["trained"] == (
        "mlp on mnist1d: 2 widths (4 to 8), 2 levels of label noise (0 % to 20 %), 3 seeds; "
        "2 checkpoints each, the last at epoch 10"
    )
    said = "loss cross_entropy, learning rate 0.05, optimizer "
    assert told["training"] == said + "sgd, momentum 0.9"
    assert told["device"] == "cpu (1 thread); fast, 2 cores"
    assert told["data"] == "mnist1d (num train 60)"
    assert told["bounds"] == "upper_lipsdp (norms l2); lower_pairs"
    assert told["revision"] == "0123456789ab, with uncommitted changes"
    assert told["versions"] == "Python 3.11.7, torch 2.15.0, snakemake 9.27.1"
    assert told["duration"].startswith("2 min of the last run")
    assert told["duration"].endswith("2.0 h of jobs in all")
    assert "snakemake --report results/some/workflow.html" in told["jobs"]


def test_adam_has_its_own_options():
    config = PROVENANCE["config"]
    training = config["training"] | {"optimizer": "adamw"}
    told = header.header(PROVENANCE | {"config": config | {"training": training}})
    assert told["training"].endswith("optimizer adamw, betas 0.9 0.999")


def test_experiments_have_their_options():
    config = {"study": "few", "experiments": {"wasserstein": {"count": 3}, "geolip": {}}}
    told = header.header(PROVENANCE | {"config": config})
    assert told["experiments"] == "wasserstein (count 3); geolip (defaults)"


def test_the_page_shows_answers_first_and_every_picture_has_a_text():
    shown = [
        page.Shown(f"figure {n}", f"What {n} shows <all>.\n\nMore of it.", b"picture") for n in "ab"
    ]
    text = page.html(
        "some",
        answers={"mnist1d, mlp": Points(["It peaks & falls."])},
        figures=shown,
        links={"explorer.html": "Explore"},
        header={"device": "cpu"},
    )
    order = ["It peaks &amp; falls.", "<h3>figure a", 'href="explorer.html"', "<h3>figure b", "cpu"]
    places = [text.index(one) for one in order]
    assert places == sorted(places)
    assert re.findall(r'alt="([^"]*)"', text) == [
        f"figure {n}: What {n} shows &lt;all&gt;." for n in "ab"
    ]
    assert "<title>Study some: report</title>" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
