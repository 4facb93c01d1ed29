rule measure:
    input:
        dataset=dataset_of("measure"),
        checkpoints=f"results/{{study}}/checkpoints/{RUN}.safetensors",
        earlier=earlier,
        other_seeds=other_seeds,
        checked=checked("measure"),
    output:
        f"results/{{study}}/measurements/{RUN}/{{measure}}.parquet",
    log:
        f"results/{{study}}/logs/measure/{RUN}/{{measure}}.log",
    benchmark:
        f"results/{{study}}/benchmarks/measure/{RUN}/{{measure}}.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: measuring_threads
    resources:
        gpu=gpu_of("measure"),
        mem_mb=needs("measure", "mem_mb"),
        runtime=needs("measure", "runtime"),
    params:
        study=asked("measure", "study"),
        options=asked("measure", "options"),
        code=code("measure"),
        recipe=recipe("measure"),
    script:
        "../../scripts/measure.py"


rule table:
    input:
        MEASUREMENTS,
        checked=checked("table"),
    output:
        parquet="results/{study}/table.parquet",
        csv="results/{study}/table.csv",
        words="results/{study}/table.json",
    log:
        "results/{study}/logs/table.log",
    benchmark:
        "results/{study}/benchmarks/table.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        axes=asked("table", "axes"),
        code=code("table"),
        recipe=recipe("table"),
    script:
        "../../scripts/aggregate.py"
