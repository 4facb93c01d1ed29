rule figure:
    input:
        table="results/{study}/table.parquet",
    output:
        pdf="results/{study}/figures/{dataset}/{architecture}/{figure}.pdf",
        png=report(
            "results/{study}/figures/{dataset}/{architecture}/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={
                "dataset": "{dataset}",
                "architecture": "{architecture}",
                "figure": "{figure}",
            },
        ),
    log:
        "results/{study}/logs/figure/{dataset}/{architecture}/{figure}.log",
    benchmark:
        "results/{study}/benchmarks/figure/{dataset}/{architecture}/{figure}.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        statistics=config["statistics"],
        loss=lambda w: study_config.training_options(config, w.architecture)["loss"],
        caption=lambda w: caption(f"plot_{w.figure}.py"),
        code=lambda w: code(f"plot_{w.figure}.py"),
    script:
        "../../scripts/plot_{wildcards.figure}.py"


rule comparison:
    input:
        table="results/{study}/table.parquet",
    output:
        pdf="results/{study}/figures/{dataset}/{comparison}.pdf",
        png=report(
            "results/{study}/figures/{dataset}/{comparison}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={
                "dataset": "{dataset}",
                "architecture": "all",
                "figure": "{comparison}",
            },
        ),
    log:
        "results/{study}/logs/comparison/{dataset}/{comparison}.log",
    benchmark:
        "results/{study}/benchmarks/comparison/{dataset}/{comparison}.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        statistics=config["statistics"],
        losses={
            name: study_config.training_options(config, name)["loss"]
            for name in GRID["architecture"]
        },
        caption=lambda w: caption(f"compare_{w.comparison}.py"),
        code=lambda w: code(f"compare_{w.comparison}.py"),
    script:
        "../../scripts/compare_{wildcards.comparison}.py"


rule findings:
    input:
        table="results/{study}/table.parquet",
    output:
        json="results/{study}/findings.json",
        markdown="results/{study}/findings.md",
        html=report(
            "results/{study}/findings.html",
            caption="../report/findings.rst",
            category="Findings",
        ),
    log:
        "results/{study}/logs/findings.log",
    benchmark:
        "results/{study}/benchmarks/findings.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        statistics=config["statistics"],
        code=code("findings.py"),
    script:
        "../../scripts/findings.py"


rule provenance:
    input:
        [f"{RESULTS}/{file}" for file in published.results(config)],
    output:
        "results/{study}/provenance.json",
    log:
        "results/{study}/logs/provenance.log",
    benchmark:
        "results/{study}/benchmarks/provenance.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        config=published.ran(config),
        device="cpu" if config["experiments"] else config["device"],
        code=code("record_provenance.py"),
    script:
        "../../scripts/record_provenance.py"
