rule dataset:
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
        options=lambda w: config["datasets"].get(w.dataset, {}),
        code=lambda w: code("prepare_dataset.py", f"lipdescent/datasets/{w.dataset}.py"),
    script:
        "../../scripts/prepare_dataset.py"
