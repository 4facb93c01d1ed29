import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lipdescent import config as study_config
from lipdescent import config_files, config_networks, fork_server, names
from lipdescent import network_trial, published
from lipdescent.provenance import caption, code_digest, measurement_files
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config


def scripts_named(prefix):
    """What follows the prefix in the names of scripts."""
    found = Path(workflow.basedir, "scripts").glob(f"{prefix}*.py")
    return [path.stem.removeprefix(prefix) for path in found]


update_config(config, study_config.as_in_a_file(workflow.config_settings.config))
try:
    # Snakemake has read them, and keeps the last of a key's values.
    config_files.check(
        [
            Path(workflow.basedir) / "config/config.yaml",
            *workflow.config_settings.configfiles,
        ]
    )
    prepared = study_config.prepare(
        config,
        schema=Path(workflow.basedir) / "workflow/schemas/config.schema.yaml",
        figures=scripts_named("plot_"),
        comparisons=scripts_named("compare_"),
        default=Path(workflow.basedir) / "config/config.yaml",
    )
    study_config.check_folder(prepared["study"])
    if workflow.is_main_process and not prepared["experiments"]:
        config_networks.check(prepared)
    # In place: scripts are given this very object.
    config.update(prepared)
    # Where jobs are submitted, other machines compute: their devices are not known here.
    submits = workflow.resource_settings.nodes is not None
    study_config.check_device(
        config["device"], local=not (submits or workflow.remote_exec)
    )
except study_config.ConfigError as error:
    raise WorkflowError(str(error)) from None

STUDY = config["study"]
RESULTS = f"results/{STUDY}"
RUN = "{dataset}/{architecture}/width={width}/seeds={seeds}"
GRID, EXECUTION = config["grid"], config["execution"]
RUNS = study_config.runs(config)
BY_PATH = {run.path: run for run in RUNS}
CERTIFICATES = config["certificates"]
MEASURES = ["metrics", *config["bounds"], *(["certificates"] if CERTIFICATES else [])]
MEASUREMENTS = [
    f"{RESULTS}/measurements/{run.path}/{measure}.parquet"
    for run in RUNS
    for measure in MEASURES
]
# What Snakemake puts in front of every script imports these.
PREAMBLE = ["snakemake.logging", "snakemake.iocontainers"]
GPUS = study_config.gpus_per_job(config["device"])
# One job at a time on each GPU of this machine, unless --resources gpu=N says otherwise; on a
# cluster the scheduler counts them.
if not submits and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", study_config.gpus_at_once(config["device"]))


wildcard_constraints:
    study=STUDY,
    dataset="[^/]+",
    architecture="[^/]+",
    width="[0-9]+",
    seeds="[0-9_-]+",
    measure="|".join(MEASURES),
    experiment="[^/]+",
    part="[0-9]+",
    figure="[^/]+",
    comparison="[^/]+",


def run_of(wildcards):
    """The run that a job's wildcards name."""
    return BY_PATH[RUN.format(**wildcards)]


def jobs_run_here():
    """True where jobs are processes of this machine and of this very environment."""
    here = workflow.is_main_process and not workflow.remote_exec
    return here and not (submits or workflow.deployment_settings.deployment_method)


def try_bounds():
    """Refuse bounds that cannot be taken of the study's networks, before any job."""
    if config["experiments"]:
        return
    try:
        network_trial.check(config)
    except study_config.ConfigError as error:
        raise WorkflowError(str(error)) from None


def module_of(wildcards):
    """File name of an architecture in scripts/lipdescent/architectures."""
    return config["architectures"][wildcards.architecture].get(
        "module", wildcards.architecture
    )


def uppers(wildcards):
    """Measurements of the upper bounds that certificates rest on."""
    if wildcards.measure != "certificates":
        return []
    folder = f"{RESULTS}/measurements/{run_of(wildcards).path}"
    return [f"{folder}/{bound}.parquet" for bound in CERTIFICATES["upper"]]


def measure_options(wildcards):
    """The section of a bound, or of the certificates."""
    if wildcards.measure == "certificates":
        return CERTIFICATES
    return config["bounds"].get(wildcards.measure, {})


@cache
def code(*files):
    """Changes when one of the files below scripts/, or a module they import, changes."""
    return code_digest(*files)


def num_models():
    """Models in the whole study."""
    return sum(len(run.seeds) for run in RUNS) * len(GRID["label_noise"])
