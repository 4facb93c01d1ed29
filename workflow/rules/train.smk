rule train:
    input:
        dataset="results/{study}/datasets/{dataset}.npz",
    output:
        checkpoints=f"results/{{study}}/checkpoints/{RUN}.safetensors",
        curves=f"results/{{study}}/checkpoints/{RUN}.curves.parquet",
    log:
        f"results/{{study}}/logs/train/{RUN}.log",
    benchmark:
        f"results/{{study}}/benchmarks/train/{RUN}.tsv"
    priority: 10
    conda:
        "../../envs/lipdescent.yaml"
    threads: EXECUTION["threads"]
    resources:
        gpu=GPUS,
        mem_mb=needs("train", "mem_mb"),
        runtime=needs("train", "runtime"),
    params:
        run=lambda w: vars(run_of(w)),
        label_noise=GRID["label_noise"],
        epochs=GRID["epoch"],
        module=module_of,
        build_options=lambda w: study_config.build_options(config, w.architecture),
        training=lambda w: study_config.training_options(config, w.architecture),
        noise_maker=config["noise_maker"],
        code=lambda w: code("train.py", f"lipdescent/architectures/{module_of(w)}.py"),
    script:
        "../../scripts/train.py"
