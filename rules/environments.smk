rule build_environment:
    """Build the virtual environment of a stage from its lock file."""
    input:
        lock="envs/{environment}.lock",
        script=get_script("build_environment.py"),
    output:
        marker=".envs/{environment}.json",
    log:
        "results/logs/environments/{environment}.log",
    benchmark:
        "results/benchmarks/environments/{environment}.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    message:
        "Building the {wildcards.environment} environment (progress in {log})"
    shell:
        "python scripts/build_environment.py --lock {input.lock} --output {output.marker} > {log} 2>&1"
