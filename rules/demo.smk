# The embedded model: trained on the spot from a fixed seed, so that the default release needs no download of a model.
DEMO_DATA = "results/demo/data"


rule make_demo_data:
    """Make the embedded tasks' held-out samples and the calibration data from a fixed seed."""
    output:
        multiext(f"{DEMO_DATA}/", "addition.jsonl", "reversal.jsonl", "sorting.jsonl", "calibration.jsonl"),
    log:
        "results/demo/logs/make_demo_data.log",
    benchmark:
        "results/demo/benchmarks/make_demo_data.tsv"
    localrule: True
    params:
        code=get_code("make_demo_data.py"),
    message:
        "Making the embedded tasks"
    shell:
        f"python {OWN_SCRIPTS}/make_demo_data.py --output-dir {DEMO_DATA} > {{log:q}} 2>&1"


rule train_demo_model:
    """Train the embedded model, a Llama of half a million parameters, from a fixed seed."""
    input:
        data=rules.make_demo_data.output,
        environment=get_environment("quantize"),
    output:
        multiext(
            f"{DEMO_MODEL}/",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ),
    log:
        "results/demo/logs/train_demo_model.log",
    benchmark:
        "results/demo/benchmarks/train_demo_model.tsv"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        code=get_code("make_demo_model.py"),
        python=get_python("quantize"),
    message:
        "Training the embedded model (about two minutes on two cores)"
    shell:
        f"{{params.python:q}} {OWN_SCRIPTS}/make_demo_model.py --data {DEMO_DATA} --output {DEMO_MODEL} 2>&1 | tee {{log:q}} > /dev/null"
