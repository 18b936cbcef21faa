# The candidate's checkpoint: made by ModelOpt, assessed, and its gate.
include: "lookups/quantize.smk"


rule measure_sensitivity:
    """Measure once for a model what each group of its layers loses in each format."""
    input:
        source="results/{model}/source.json",
        calibration=lambda wildcards: get_files_of_calibration(PLAN.sensitivity_calibration(wildcards.model)),
        environment=get_environment("quantize"),
    output:
        record="results/{model}/sensitivity.json",
    log:
        "results/{model}/logs/measure_sensitivity.log",
    benchmark:
        "results/{model}/benchmarks/measure_sensitivity.tsv"
    resources:
        mem_mb=get_mem_mb("quantize"),
        gpu=get_gpu("quantize"),
        cpus_per_task=get_cpus("quantize"),
        nodes=1,
        runtime=get_runtime("quantize", 240),
    params:
        code=get_code("measure_sensitivity.py"),
        python=get_python("quantize"),
        formats=lambda wildcards: PLAN.sensitivity_formats(wildcards.model),
        calibration=lambda wildcards: get_text(PLAN.sensitivity_calibration(wildcards.model)),
        device=PLAN.config.quantization.device,
        seed=PLAN.config.quantization.seed,
    message:
        "Measuring the sensitivity of {wildcards.model}"
    shell:
        "{params.python:q}"
        f" {OWN_SCRIPTS}/measure_sensitivity.py"
        " --source {input.source:q} --formats {params.formats:q}"
        " --calibration {params.calibration:q} --device {params.device:q} --seed {params.seed:q}"
        " --output {output.record:q} 2>&1 | tee {log:q} > /dev/null"


rule quantize_candidate:
    """Quantize the source model by a recipe with ModelOpt and export the checkpoint."""
    input:
        source="results/{model}/source.json",
        gate=ancient("results/{model}/{recipe}/preflight.ok"),
        calibration=lambda wildcards: get_calibration_files(wildcards.model, wildcards.recipe),
        sensitivity=lambda wildcards: get_sensitivity(wildcards.model, wildcards.recipe),
        environment=get_environment("quantize"),
    output:
        checkpoint=directory("results/{model}/{recipe}/checkpoint"),
        record="results/{model}/{recipe}/quantization.json",
    log:
        "results/{model}/{recipe}/logs/quantize.log",
    benchmark:
        "results/{model}/{recipe}/benchmarks/quantize.tsv"
    wildcard_constraints:
        model=f"(?!(?:{IMPORTED_CHECKPOINTS})/)[A-Za-z0-9][A-Za-z0-9._-]*",
    resources:
        mem_mb=get_mem_mb("quantize"),
        gpu=get_gpu("quantize"),
        cpus_per_task=get_cpus("quantize"),
        nodes=1,
        runtime=get_runtime("quantize", 240),
    params:
        code=get_code("quantize.py"),
        python=get_python("quantize"),
        recipe=lambda wildcards: get_text(PLAN.recipe(wildcards.model, wildcards.recipe).of_the_weights().as_plain()),
        calibration=lambda wildcards: get_text(PLAN.calibration(wildcards.model, wildcards.recipe)),
        sensitivity=lambda wildcards, input: [f"--sensitivity={file}" for file in input.sensitivity],
        device=PLAN.config.quantization.device,
        seed=PLAN.config.quantization.seed,
    message:
        "Quantizing {wildcards.model} by {wildcards.recipe}"
    shell:
        "{params.python:q}"
        f" {OWN_SCRIPTS}/quantize.py"
        " --source {input.source:q} --recipe-json {params.recipe:q}"
        " --calibration {params.calibration:q} --device {params.device:q} --seed {params.seed:q} {params.sensitivity:q}"
        " --output {output.checkpoint:q} --record {output.record:q} 2>&1 | tee {log:q} > /dev/null"


rule import_checkpoint:
    """Take a checkpoint that was made elsewhere in place of the one that would be made here."""
    input:
        source="results/{model}/source.json",
        gate=ancient("results/{model}/{recipe}/preflight.ok"),
        files=lambda wildcards: get_imported_files(wildcards.model, wildcards.recipe),
    output:
        checkpoint=directory("results/{model}/{recipe}/checkpoint"),
        record="results/{model}/{recipe}/quantization.json",
    log:
        "results/{model}/{recipe}/logs/import_checkpoint.log",
    benchmark:
        "results/{model}/{recipe}/benchmarks/import_checkpoint.tsv"
    wildcard_constraints:
        model=f"(?=(?:{IMPORTED_CHECKPOINTS})/)[A-Za-z0-9][A-Za-z0-9._-]*",
    threads: 2
    resources:
        mem_mb=2000,
        runtime=get_reading_runtime,
    params:
        code=get_code("import_checkpoint.py"),
        recipe=lambda wildcards: get_text(PLAN.recipe(wildcards.model, wildcards.recipe).as_plain()),
        # By these a file that is replaced with its time kept shows; not by `input`, or Snakemake would not compare them.
        states=lambda wildcards: get_text(file_states(get_imported_files(wildcards.model, wildcards.recipe))),
    message:
        "Importing the checkpoint {wildcards.recipe} of {wildcards.model}"
    shell:
        f"python {OWN_SCRIPTS}/import_checkpoint.py"
        " --source {input.source:q} --recipe-json {params.recipe:q}"
        " --output {output.checkpoint:q} --record {output.record:q} 2>&1 | tee {log:q} > /dev/null"


checkpoint assess_checkpoint:
    """Assess the checkpoint: coverage, formats, scales, size, metadata, engine; reads headers and scalars only."""
    input:
        record="results/{model}/{recipe}/quantization.json",
        checkpoint="results/{model}/{recipe}/checkpoint",
        source="results/{model}/source.json",
        catalogue=get_own("envs/modelopt_catalogue.json"),
        engine_table=get_own("envs/engine_table.json"),
        sensitivity=lambda wildcards: get_sensitivity(wildcards.model, wildcards.recipe),
    output:
        assessment="results/{model}/{recipe}/validation.json",
    log:
        "results/{model}/{recipe}/logs/assess_checkpoint.log",
    benchmark:
        "results/{model}/{recipe}/benchmarks/assess_checkpoint.tsv"
    localrule: True
    params:
        code=get_code("gate_ptq.py"),
        definition=lambda wildcards: get_definition(wildcards.model, recipe=wildcards.recipe),
        engine=get_engine(),
        sensitivity=lambda wildcards, input: [f"--sensitivity={file}" for file in input.sensitivity],
    message:
        "Assessing the checkpoint of {wildcards.recipe}"
    shell:
        f"python {OWN_SCRIPTS}/gate_ptq.py"
        " --checkpoint {input.checkpoint:q} --record {input.record:q} --source-record {input.source:q}"
        " --definition-digest {params.definition:q} --engine {params.engine:q} {params.sensitivity:q} --assess --output {output.assessment:q} > {log:q} 2>&1"


use rule gate_preflight as gate_ptq with:
    input:
        assessment="results/{model}/{recipe}/validation.json",
    output:
        token="results/{model}/{recipe}/validation.ok",
    log:
        "results/{model}/{recipe}/logs/gate_ptq.log",
    localrule: True  # not taken over by `use rule`
