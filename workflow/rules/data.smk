rule dataset:
    output:
        "results/{study}/datasets/{dataset}.npz",
    log:
        "results/{study}/logs/dataset/{dataset}.log",
    benchmark:
        "results/{study}/benchmarks/dataset/{dataset}.tsv"
    params:
        options=lambda w: config["datasets"].get(w.dataset, {}),
        code=lambda w: code("prepare_dataset.py", f"lipdescent/datasets/{w.dataset}.py"),
    threads: 1
    resources:
        gpu=0,
    conda:
        "../../envs/lipdescent.yaml"
    script:
        "../../scripts/prepare_dataset.py"
