rule verify:
    input:
        table="results/{study}/table.parquet",
        datasets=[
            f"results/{{study}}/datasets/{name}.npz" for name in RECIPES.data_files
        ],
        checkpoints=[
            f"results/{{study}}/checkpoints/{run.path}.safetensors" for run in RUNS
        ],
        checked=checked("verify"),
    output:
        "results/{study}/verification.json",
    log:
        "results/{study}/logs/verify.log",
    benchmark:
        "results/{study}/benchmarks/verify.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: EXECUTION["threads"]
    resources:
        gpu=GPUS,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        samples=asked("verify", "samples"),
        seed=asked("verify", "seed"),
        code=code("verify"),
        recipe=recipe("verify"),
    script:
        "../../scripts/verify.py"
