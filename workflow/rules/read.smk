rule read:
    input:
        dataset=dataset_of("read"),
        files=lambda wildcards: recipe_of("read", wildcards).files,
        checked=checked("read"),
    output:
        f"results/{{study}}/checkpoints/{RUN}.safetensors",
    log:
        f"results/{{study}}/logs/read/{RUN}.log",
    benchmark:
        f"results/{{study}}/benchmarks/read/{RUN}.tsv"
    priority: 10
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("measure", "mem_mb"),
        runtime=needs("measure", "runtime"),
    params:
        run=asked("read", "run"),
        epochs=asked("read", "epochs"),
        module=asked("read", "module"),
        build_options=asked("read", "build_options"),
        training=asked("read", "training"),
        noise_maker=asked("read", "noise_maker"),
        prefix=asked("read", "prefix"),
        files=asked("read", "files"),
        code=code("read"),
        recipe=recipe("read"),
    script:
        "../../scripts/read_checkpoints.py"
