rule experiment_part:
    output:
        "results/{study}/experiments/{experiment}/{part}.parquet",
    log:
        "results/{study}/logs/experiment/{experiment}/{part}.log",
    benchmark:
        "results/{study}/benchmarks/experiment/{experiment}/{part}.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: EXECUTION["threads"]
    resources:
        gpu=0,
    params:
        options=lambda w: study_config.experiment_parts(config, w.experiment)[
            int(w.part)
        ],
        code=lambda w: code(
            "experiment.py", f"lipdescent/experiments/{w.experiment}.py"
        ),
    script:
        "../../scripts/experiment.py"


rule experiment:
    input:
        lambda w: [
            f"results/{w.study}/experiments/{w.experiment}/{part}.parquet"
            for part, _ in enumerate(
                study_config.experiment_parts(config, w.experiment)
            )
        ],
    output:
        parquet="results/{study}/experiments/{experiment}.parquet",
        csv="results/{study}/experiments/{experiment}.csv",
    log:
        "results/{study}/logs/experiment/{experiment}.log",
    benchmark:
        "results/{study}/benchmarks/experiment/{experiment}.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        code=code("join_experiment.py"),
    script:
        "../../scripts/join_experiment.py"


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
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        caption=lambda w: caption(f"lipdescent/experiments/{w.experiment}.py"),
        code=lambda w: code(
            "draw_experiment.py", f"lipdescent/experiments/{w.experiment}.py"
        ),
    script:
        "../../scripts/draw_experiment.py"
