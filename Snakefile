"""Double descent and certified Lipschitz bounds: train, measure, publish."""

from snakemake.utils import min_version

min_version("9.13")


configfile: f"{workflow.basedir}/config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/data.smk"
include: f"workflow/rules/{CHECKPOINTS}"
include: "workflow/rules/measure.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/publish.smk"
include: "workflow/rules/verify.smk"


report: "workflow/report/study.rst"


rule all:
    default_target: True
    input:
        [f"{RESULTS}/{file}" for file in published.files(config)],
        # Asked for by name, or one that was lost would not be taken anew.
        [] if config["experiments"] else MEASUREMENTS,


WATCHED = []  # what shows the run in the terminal
FAILED = failures.Failures()
COMMAND = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


onstart:
    check_cluster()
    claim_study()
    terminal.outlive(workflow.logger_manager.logger.handlers)
    if jobs_run_here():
        lifeline.let_out()
    start_fork_server()
    try_bounds()
    allow_continuations()
    if jobs_run_here():
        long_jobs_first()
    record_plan(config, command=COMMAND)
    print(f"study {STUDY}: {what_runs()}")
    WATCHED.append(watched())
    workflow.logger_manager.logger.addFilter(FAILED)


onsuccess:
    for one in WATCHED:
        one.stop()
    made = {str(file) for job in workflow.dag.jobs for file in job.output}
    found = f"{RESULTS}/findings.json" in made
    for line in ending.in_short(RESULTS) if found else []:
        print(line)
    print(f"study {STUDY}: {ending.where(RESULTS, made)}")
    for line in ending.failed_bounds(RESULTS) if found else []:
        print(line, file=sys.stderr)


onerror:
    for one in WATCHED:
        one.stop()
    if any(one.interrupted for one in WATCHED):
        print(
            f"study {STUDY}: stopped; what is done stays, the same command goes on."
        )
    else:
        entries = {file: entry for file, (entry, _) in RECIPES.data_files.items()}
        print(*FAILED.lines(STUDY, COMMAND, entries), sep="\n")
    if slurm_nodes():
        print(
            f"A job without a log in {RESULTS}/logs/ never started. Do the nodes see {Path.cwd()}?"
        )
