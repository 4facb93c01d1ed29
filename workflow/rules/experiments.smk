rule experiment_part:
    input:
        checked=checked("experiment_part"),
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
        options=asked("experiment_part", "options"),
        code=code("experiment_part"),
        recipe=recipe("experiment_part"),
    script:
        "../../scripts/experiment.py"


rule experiment:
    input:
        lambda w: [one.path for one in recipe_of("experiment", w).inputs],
        checked=checked("experiment"),
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
        code=code("experiment"),
        recipe=recipe("experiment"),
    script:
        "../../scripts/join_experiment.py"


rule experiment_figure:
    input:
        "results/{study}/experiments/{experiment}.parquet",
        checked=checked("experiment_figure"),
    output:
        pdf="results/{study}/figures/{experiment}.pdf",
        svg="results/{study}/figures/{experiment}.svg",
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
        caption=asked("experiment_figure", "caption"),
        figure=asked("experiment_figure", "figure"),
        code=code("experiment_figure"),
        recipe=recipe("experiment_figure"),
    script:
        "../../scripts/plot.py"
