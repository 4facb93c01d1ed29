rule dataset:
    input:
        checked=checked("dataset"),
    output:
        "results/{study}/datasets/{dataset}.npz",
    log:
        "results/{study}/logs/dataset/{dataset}.log",
    benchmark:
        "results/{study}/benchmarks/dataset/{dataset}.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
    params:
        options=asked("dataset", "options"),
        code=code("dataset"),
        recipe=recipe("dataset"),
    script:
        "../../scripts/prepare_dataset.py"
