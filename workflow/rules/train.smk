rule train:
    input:
        dataset=dataset_of("train"),
        checked=checked("train"),
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
    threads: training_threads
    resources:
        gpu=gpu_of("train"),
        mem_mb=needs("train", "mem_mb"),
        runtime=needs("train", "runtime"),
    params:
        run=asked("train", "run"),
        label_noise=asked("train", "label_noise"),
        epochs=asked("train", "epochs"),
        module=asked("train", "module"),
        build_options=asked("train", "build_options"),
        training=asked("train", "training"),
        noise_maker=asked("train", "noise_maker"),
        noise_seed=asked("train", "noise_seed"),
        code=code("train"),
        recipe=recipe("train"),
    script:
        "../../scripts/train.py"
