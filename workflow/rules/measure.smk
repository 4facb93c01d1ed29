rule measure:
    input:
        dataset="results/{study}/datasets/{dataset}.npz",
        checkpoints=f"results/{{study}}/checkpoints/{RUN}.safetensors",
        uppers=uppers,
    output:
        f"results/{{study}}/measurements/{RUN}/{{measure}}.parquet",
    log:
        f"results/{{study}}/logs/measure/{RUN}/{{measure}}.log",
    benchmark:
        f"results/{{study}}/benchmarks/measure/{RUN}/{{measure}}.tsv"
    params:
        options=measure_options,
        module=module_of,
        noise_maker=config["noise_maker"],
        code=lambda w: code("measure.py", *measure_files(w)),
    threads: EXECUTION["threads"]
    resources:
        gpu=GPUS,
        mem_mb=needs("measure", "mem_mb"),
        runtime=needs("measure", "runtime"),
    conda:
        "../../envs/lipdescent.yaml"
    script:
        "../../scripts/measure.py"


def measure_files(wildcards):
    """Plug-ins behind a measurement, beside what measure.py imports itself."""
    files = [f"lipdescent/architectures/{module_of(wildcards)}.py"]
    if wildcards.measure not in ("metrics", "certificates"):
        files.append(f"lipdescent/bounds/{wildcards.measure}.py")
    return files


rule table:
    input:
        [
            f"results/{{study}}/measurements/{run.path}/{measure}.parquet"
            for run in RUNS
            for measure in MEASURES
        ],
    output:
        parquet="results/{study}/table.parquet",
        csv="results/{study}/table.csv",
    log:
        "results/{study}/logs/table.log",
    benchmark:
        "results/{study}/benchmarks/table.tsv"
    params:
        code=code("aggregate.py"),
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    conda:
        "../../envs/lipdescent.yaml"
    script:
        "../../scripts/aggregate.py"
