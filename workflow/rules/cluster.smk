import math
import os
from functools import cache

from lipdescent.jobs import folder_lock, resources, slurm

# The time limit that the submitting process found, for Snakemake inside of the jobs.
LONGEST = "LIPDESCENT_LONGEST_JOB"

if workflow.is_main_process:
    workflow.logger_manager.logger.addFilter(failures.Advice(STUDY))
    if "--unlock" in sys.argv:
        folder_lock.forget(STUDY)
    if folder_lock.clear_stale(STUDY):
        print(
            f"the Snakemake that computed study {STUDY} here is dead: its lock is removed",
            file=sys.stderr,
        )
    computing = folder_lock.owner(STUDY)
    if computing and computing.alive is not False:
        print(folder_lock.what_to_do(computing), file=sys.stderr)


def claim_study():
    """No two Snakemakes compute one study."""
    try:
        folder_lock.claim(STUDY, submits=submits)
    except folder_lock.BusyError as error:
        raise WorkflowError(str(error)) from None


@cache
def slurm_nodes():
    """Nodes of the cluster; none where jobs are not submitted to Slurm from here."""
    plugin = workflow.executor_plugin
    return slurm.nodes() if plugin is not None and plugin.name == "slurm" else []


@cache
def longest_job():
    """Minutes that the default partition of this run allows a job."""
    if LONGEST in os.environ:
        return float(os.environ[LONGEST])
    if not slurm_nodes():
        return float("inf")
    partition = workflow.resource_settings._parsed_default_resources.get(
        "slurm_partition"
    )
    name = str(partition.raw).strip("'\"") if partition else None
    limit = slurm.longest(name, slurm_nodes())
    os.environ[LONGEST] = str(limit)
    return limit


def gpu_of(stage):
    """Function for `resources:`: GPUs of a job on a cluster, shares of one on this machine."""

    def wanted(wildcards):
        run = run_of(wildcards)
        if stage == "train":
            wants_one = GPUS and resources.trains_on_gpu(config, run)
        else:
            name = wildcards.measure
            wants_one = GPUS and resources.measures_on_gpu(config, run, name)
        if not wants_one:
            return 0
        if submits:
            return GPUS
        limit = workflow.global_resources["gpu"].value
        if stage == "train":
            shares = gpus.shares_of_training(resources.train_gpu_mb(config, run))
        else:
            shares = gpus.shares_of_job(resources.measure_gpu_mb(config, run))
        return min(limit, shares)

    return wanted


def cores_of(run, measure):
    """Cores of a measuring job: on this machine several processes may share one."""
    on_gpu = GPUS and resources.measures_on_gpu(config, run, measure)
    if not jobs_run_here() or not workflow.cores or on_gpu:
        return EXECUTION["threads"]
    return EXECUTION["threads"] * resources.measure_workers(
        config, run, name=measure, cores=workflow.cores
    )


def measuring_threads(wildcards):
    return cores_of(run_of(wildcards), wildcards.measure)


def training_threads(wildcards):
    """Cores of a training job. On a GPU it holds those that the stack's longest measurement is
    going to take: cores become free one by one, and shorter jobs would take them."""
    if not gpu_of("train")(wildcards):
        return EXECUTION["threads"]
    return max(cores_of(run_of(wildcards), measure) for measure in MEASURES)


def long_jobs_first():
    """Of what can run, what usually takes longest begins, or the end waits for it. The oldest
    Snakemake allowed, 9.13, has one priority for all jobs alike."""

    def seconds(job):
        run = run_of(job.wildcards)
        if job.rule.name == "train":
            return resources.train_seconds(config, run)
        return resources.usual_seconds(config, run, name=job.wildcards.measure)

    for stage in ("train", "measure"):
        jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name == stage]
        expected = {job: seconds(job) for job in jobs}
        longest = max(expected.values(), default=0) or 1  # of no epoch: no time
        for job in jobs:
            share = expected[job] / longest
            workflow.dag._priority[job] = job.rule.priority + share


def needs(stage, key):
    """Function for `resources:`, of a stage in lipdescent/jobs/resources.py and one of its keys."""

    def wanted(wildcards, attempt):
        if stage == "train":
            found = resources.train(config, [run_of(wildcards)], attempt, gpus=GPUS)[
                key
            ]
        elif stage == "measure":
            found = resources.measure(
                config,
                run_of(wildcards),
                attempt,
                gpus=GPUS,
                name=wildcards.get("measure", "metrics"),
            )[key]
        else:
            found = resources.publish(config, RUNS, attempt)[key]
        return int(min(found, longest_job())) if key == "runtime" else found

    return wanted


def check_cluster():
    """Refuse what the cluster can never run, before anything is submitted."""
    try:
        slurm.check_shared(".", slurm_nodes())
        if slurm_nodes():
            slurm.check(slurm.requests(workflow.dag.needrun_jobs()), slurm_nodes())
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def allow_continuations():
    """Training that takes longer than a job may last goes on in as many jobs as it needs."""
    if longest_job() < float("inf") and not config["checkpoints"]:
        jobs = math.ceil(
            resources.train(config, RUNS, gpus=GPUS)["runtime"] / longest_job()
        )
        workflow.get_rule("train").restart_times += jobs - 1
