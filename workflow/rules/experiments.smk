rule experiment:
    output:
        parquet="results/{study}/experiments/{experiment}.parquet",
        csv="results/{study}/experiments/{experiment}.csv",
    log:
        "results/{study}/logs/experiment/{experiment}.log",
    benchmark:
        "results/{study}/benchmarks/experiment/{experiment}.tsv"
    params:
        options=lambda w: config["experiments"][w.experiment],
        code=lambda w: code("experiment.py", f"lipdescent/experiments/{w.experiment}.py"),
    threads: EXECUTION["threads"]
    resources:
        gpu=0,
    conda:
        "../../envs/lipdescent.yaml"
    script:
        "../../scripts/experiment.py"


rule experiment_figure:
    input:
        "results/{study}/experiments/{experiment}.parquet",
    output:
        pdf="results/{study}/figures/{experiment}.pdf",
        png=report(
            "results/{study}/figures/{experiment}.png",
            caption="../report/figure.rst",
            category="Experiments",
            labels={"experiment": "{experiment}"},
        ),
    log:
        "results/{study}/logs/experiment_figure/{experiment}.log",
    benchmark:
        "results/{study}/benchmarks/experiment_figure/{experiment}.tsv"
    params:
        caption=lambda w: caption(f"lipdescent/experiments/{w.experiment}.py"),
        code=lambda w: code("draw_experiment.py", f"lipdescent/experiments/{w.experiment}.py"),
    threads: 1
    resources:
        gpu=0,
    conda:
        "../../envs/lipdescent.yaml"
    script:
        "../../scripts/draw_experiment.py"


def experiment_files():
    """Tables and figures of the configured experiments."""
    return [
        f"{RESULTS}/{place}"
        for name in config["experiments"]
        for place in (
            f"experiments/{name}.parquet",
            f"figures/{name}.pdf",
            f"figures/{name}.png",
        )
    ]
