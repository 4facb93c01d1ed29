rule figure:
    input:
        table="results/{study}/table.parquet",
        checked=checked("figure"),
    output:
        pdf="results/{study}/figures/{dataset}/{architecture}/{figure}.pdf",
        svg="results/{study}/figures/{dataset}/{architecture}/{figure}.svg",
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
        statistics=asked("figure", "statistics"),
        loss=asked("figure", "loss"),
        caption=asked("figure", "caption"),
        figure=asked("figure", "figure"),
        width_unit=asked("figure", "width_unit"),
        module=asked("figure", "module"),
        options=asked("figure", "options"),
        code=code("figure"),
        recipe=recipe("figure"),
    script:
        "../../scripts/plot.py"


rule comparison:
    input:
        table="results/{study}/table.parquet",
        checked=checked("comparison"),
    output:
        pdf="results/{study}/figures/{dataset}/{comparison}.pdf",
        svg="results/{study}/figures/{dataset}/{comparison}.svg",
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
        statistics=asked("comparison", "statistics"),
        losses=asked("comparison", "losses"),
        caption=asked("comparison", "caption"),
        figure=asked("comparison", "figure"),
        width_units=asked("comparison", "width_units"),
        module=asked("comparison", "module"),
        options=asked("comparison", "options"),
        code=code("comparison"),
        recipe=recipe("comparison"),
    script:
        "../../scripts/plot.py"


rule findings:
    input:
        table="results/{study}/table.parquet",
        checked=checked("findings"),
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
        statistics=asked("findings", "statistics"),
        read_from=asked("findings", "read_from"),
        code=code("findings"),
        recipe=recipe("findings"),
    script:
        "../../scripts/findings.py"


rule explorer:
    input:
        table="results/{study}/table.parquet",
        checked=checked("explorer"),
    output:
        "results/{study}/explorer.html",
    log:
        "results/{study}/logs/explorer.log",
    benchmark:
        "results/{study}/benchmarks/explorer.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        statistics=asked("explorer", "statistics"),
        code=code("explorer"),
        recipe=recipe("explorer"),
    script:
        "../../scripts/explorer.py"


rule provenance:
    input:
        [f"{RESULTS}/{file}" for file in published.results(config)],
        checked=checked("provenance"),
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
        config=asked("provenance", "config"),
        device=asked("provenance", "device"),
        code=code("provenance"),
        recipe=recipe("provenance"),
    script:
        "../../scripts/record_provenance.py"


rule start_page:
    input:
        lambda w: [one.path for one in recipe_of("start_page", w).inputs],
        checked=checked("start_page"),
    output:
        "results/{study}/report.html",
    log:
        "results/{study}/logs/start_page.log",
    benchmark:
        "results/{study}/benchmarks/start_page.tsv"
    conda:
        "../../envs/lipdescent.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=needs("publish", "mem_mb"),
        runtime=needs("publish", "runtime"),
    params:
        figures=asked("start_page", "figures"),
        links=asked("start_page", "links"),
        code=code("start_page"),
        recipe=recipe("start_page"),
    script:
        "../../scripts/start_page.py"
