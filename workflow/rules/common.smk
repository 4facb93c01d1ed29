import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from lipdescent.jobs import (
    console,
    failures,
    fork_server,
    gpus,
    job_environment,
    lifeline,
    network_trial,
    terminal,
)
from lipdescent.jobs.words import counted
from lipdescent.study.config import as_in_a_file, prepare
from lipdescent.study import ending, published
from lipdescent.study import network_checks
from lipdescent.study.runs import (
    check_folder,
    experiment_parts,
    plan_file,
    plan_is_whole,
    record_plan,
)
from lipdescent.study.schema import ConfigError
from lipdescent.study.sections import exported
from lipdescent.study import repeated_keys
from lipdescent.study.freshness import Freshness
from lipdescent.study.recipes import NotInStudy, Recipes
from lipdescent.plugins import lookup
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

# Here and inside of the jobs of a cluster.
job_environment.fix(Path(workflow.basedir).resolve() / "scripts")


# Where jobs are submitted, other machines compute: their devices are not known here.
submits = workflow.resource_settings.nodes is not None
# What Snakemake puts in front of every script imports these.
PREAMBLE = ["snakemake.logging", "snakemake.iocontainers"]
# What torch.export imports at its first call, for longer than most measurements take.
EXPORT = "torch.export._trace"


def jobs_run_here():
    """True where jobs are processes of this machine."""
    return workflow.is_main_process and not (workflow.remote_exec or submits)


def jobs_run_in_this_environment():
    """True where they are of this very Python environment too."""
    return jobs_run_here() and not workflow.deployment_settings.deployment_method


def start_fork_server():
    """The process that jobs are forks of, where they can be and if there is none yet.

    The configuration need not have been checked.
    """
    execution = as_in_a_file(config).get("execution")
    if not isinstance(execution, dict) or not jobs_run_in_this_environment():
        return
    threads = execution.get("threads")
    modules = [*PREAMBLE, *([EXPORT] if exported(as_in_a_file(config)) else [])]
    if execution.get("fork_server") is True and isinstance(threads, int):
        fork_server.start(threads=threads, modules=modules)


def runs_nothing(arguments):
    """True for a dry run and for other ways to look at a workflow, as far as they are known."""
    return any(
        re.match(
            "-[a-zA-Z]*n|--(dry|lint|list|report|summary|detail|unlock|touch|delete|clean)",
            one,
        )
        for one in arguments[1:]
    )


update_config(config, as_in_a_file(workflow.config_settings.config))
# A new study's jobs are sure to run: while they are planned, what they need is imported, and its
# bounds are tried.
is_new = not (plan_file(str(config.get("study"))).exists() or runs_nothing(sys.argv))
if is_new:
    start_fork_server()
    if config.get("device") != "cpu" and jobs_run_here():
        gpus.ask_ahead()
try:
    # Snakemake has read them, and keeps the last of a key's values.
    repeated_keys.check(
        [
            Path(workflow.basedir) / "config/config.yaml",
            *workflow.config_settings.configfiles,
        ]
    )
    prepared = prepare(
        config,
        schema=Path(workflow.basedir) / "workflow/schemas/config.schema.yaml",
        figures=lookup.known("figures"),
        comparisons=lookup.known("comparisons"),
        default=Path(workflow.basedir) / "config/config.yaml",
    )
    check_folder(prepared["study"])
    if workflow.is_main_process and not prepared["experiments"]:
        network_checks.check(prepared)
        if is_new and jobs_run_here():
            network_trial.begin(prepared)
    # In place: scripts are given this very object.
    config.update(prepared)
    gpus.check_device(config["device"], local=not (submits or workflow.remote_exec))
except ConfigError as error:
    raise WorkflowError(str(error)) from None

STUDY = config["study"]
RESULTS = f"results/{STUDY}"
# What makes them: their training, or files of networks trained elsewhere.
CHECKPOINTS = "read.smk" if config["checkpoints"] else "train.smk"
RUN = "{dataset}/{architecture}/width={width}/seeds={seeds}"
GRID, EXECUTION = config["grid"], config["execution"]
RECIPES, FRESHNESS = Recipes(config), Freshness()
RUNS, MEASURES = RECIPES.runs, RECIPES.measures
MEASUREMENTS = [
    f"{RESULTS}/measurements/{run.path}/{measure}.parquet"
    for run in RUNS
    for measure in MEASURES
]
GPUS = gpus.gpus_per_job(config["device"])
# On this machine a GPU is shared by as many small jobs as its memory holds, unless --resources
# gpu=N says otherwise; on a cluster the scheduler counts whole ones.
if not submits and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", gpus.shares_of_machine(config["device"]))


wildcard_constraints:
    study=STUDY,
    dataset="[^/]+",
    architecture="[^/]+",
    width="[0-9]+",
    seeds="[0-9_-]+",
    measure="|".join(map(re.escape, MEASURES)),
    experiment="[^/]+",
    part="[0-9]+",
    figure="[^/]+",
    comparison="[^/]+",


def run_of(wildcards):
    """The run that a job's wildcards name."""
    try:
        return RECIPES.run(dict(wildcards.items()))
    except NotInStudy as error:  # a target that the study does not have
        raise WorkflowError(str(error)) from None


def try_bounds():
    """Refuse bounds that cannot be taken of the study's networks, before any job."""
    if config["experiments"]:
        return
    try:
        network_trial.check(config)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def recipe_of(rule, wildcards):
    """How the output of a job is to be made; see lipdescent/study/recipes.py."""
    try:
        return RECIPES.recipe(rule, **dict(wildcards.items()))
    except NotInStudy as error:
        raise WorkflowError(str(error)) from None


def asked(rule, key):
    """Function for `params:`, of one option of a rule's recipe."""
    return lambda wildcards: recipe_of(rule, wildcards).asked[key]


def code(rule):
    """Function for `params:`: file -> digest, of the code behind a job."""
    return lambda wildcards: recipe_of(rule, wildcards).code


def recipe(rule):
    """Function for `params:`: the digest that the stamps of a job's outputs have to have."""
    return lambda wildcards: recipe_of(rule, wildcards).recipe


def checked(rule):
    """Function for `input:` that names no file, but has the job run if its outputs are stale.

    Snakemake asks for the inputs of every job that the targets may need, before it decides which of
    them run.
    """

    writes_plan = rule == "provenance"

    def check(wildcards):
        if workflow.is_main_process:
            stale = FRESHNESS.stale(recipe_of(rule, wildcards))
            if stale and report_is_asked_for(sys.argv):
                raise WorkflowError(
                    f"no report: it would show {stale[0]}, which is not what the configuration "
                    "asks for (the lines above say why); run the study first"
                )
            workflow.dag.forcefiles.update(stale)
            if writes_plan and not plan_is_whole(STUDY):
                # Written when jobs start, so where nothing else is to be done one has to.
                workflow.dag.forcefiles.update(recipe_of(rule, wildcards).outputs)
        return []

    return check


def report_is_asked_for(arguments):
    """True for `snakemake --report`, which runs nothing and shows what is there."""
    options = {argument.split("=")[0] for argument in arguments}
    return "--report" in options and "--report-after-run" not in options


def dataset_of(rule):
    """Function for `input:`, of the data set that a stack is trained on and measured with."""
    return lambda wildcards: recipe_of(rule, wildcards).inputs[0].path


def earlier(wildcards):
    """Measurements of the same stack that one rests on."""
    found = recipe_of("measure", wildcards).inputs
    return [one.path for one in found if one.rule == "measure"]


def other_seeds(wildcards):
    """Checkpoints of the study's other seeds, for measurements that need all of a width."""
    own, *rest = [
        one.path
        for one in recipe_of("measure", wildcards).inputs
        if one.rule in ("train", "read")
    ]
    return rest


def watched():
    """What stands between Snakemake's log and the terminal."""
    settings, handlers = (
        workflow.logger_manager.settings,
        workflow.logger_manager.logger.handlers,
    )
    found = console.Console(
        STUDY,
        console.plan(job.rule.name for job in workflow.dag.needrun_jobs()),
        sys.stderr,
        at_once=workflow.cores if jobs_run_here() and workflow.cores else 1,
        live=sys.stderr.isatty()
        and not settings.quiet
        and os.environ.get("TERM") != "dumb",
    )
    if not (settings.verbose or settings.quiet):
        for handler in handlers:
            if handler.name == "DefaultStreamHandler":
                handler.addFilter(found)
        found.start()
    return found


def what_runs():
    """The study's size in a line."""
    if config["experiments"]:
        parts = {
            name: len(experiment_parts(config, name)) for name in config["experiments"]
        }
        told = (f"{name} ({counted(count, 'job')})" for name, count in parts.items())
        return f"experiments {', '.join(told)}"
    told = f"{counted(len(RUNS), 'stack')}, {counted(num_models(), 'model')}"
    return f"{told}, device {config['device']}"


def num_models():
    """Models in the whole study."""
    return sum(len(run.seeds) for run in RUNS) * len(GRID["label_noise"])
