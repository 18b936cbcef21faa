# What a stage's job asks for: the configuration's, else by the model's size.

from day0.cluster import resources as formulas
from day0.records.source import Source
from day0.serving.multinode import serving_gpus, serving_nodes


@functools.cache
def read_weights_bytes(record, changed):
    """Bytes of a source model's weights by its record; read once for each of its states, of a large model for many jobs."""
    try:
        return Source.read(record).payload_bytes
    except UnusableInput:
        return 0


def get_weights_bytes(model):
    """Bytes of a source model's weights: by its record, its files or the rule that makes it; 0 where none is there yet."""
    record = Path(f"results/{model}/source.json")
    if record.exists():
        return read_weights_bytes(record, record.stat().st_mtime_ns)
    path = PLAN.config.models[model].path
    if path is None:
        return 0
    found = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    return found or WEIGHTS_OF_RULES.get(os.path.normpath(path), 0)


def get_mem_mb(stage):
    """Host memory of a stage's job: the configuration's, else by the model's size; never more than a node has."""
    formula = {"quantize": formulas.quantize_memory_mb, "evaluate": formulas.evaluate_memory_mb}[stage]

    def mem_mb(wildcards):
        given = PLAN.resource(wildcards.model, stage, "mem_mb")
        memory = given or formula(get_weights_bytes(wildcards.model), on_cpu=VARIANT == "cpu")
        return min(memory, PLAN.config.cluster.max_mem_mb or memory)

    return mem_mb


def get_server_nodes(wildcards):
    """Nodes of an evaluate job, one for each part of its server."""
    return serving_nodes(PLAN.serving(wildcards.model, wildcards.candidate))


def get_gpu(stage):
    """GPUs on each node of a stage's job: the configuration's, else what its serving settings or the model's size need."""

    def gpu(wildcards):
        given = PLAN.resource(wildcards.model, stage, "gpu")
        if given is not None or VARIANT == "cpu":
            return given or 0
        if stage == "evaluate":
            serving = PLAN.serving(wildcards.model, wildcards.candidate)
            return serving_gpus(serving) // serving_nodes(serving)
        site, device = PLAN.config.cluster, PLAN.config.quantization.device
        weights = get_weights_bytes(wildcards.model)
        return min(formulas.quantize_gpus(weights, device, site.gpu_memory_gb), site.gpus_per_node)

    return gpu


def get_cpus(stage):
    """CPU cores of a stage's Slurm job: the configuration's, else a site's share for each GPU."""
    gpu = get_gpu(stage)

    def cpus_per_task(wildcards, threads):
        given = PLAN.resource(wildcards.model, stage, "cpus")
        return given or max(threads, gpu(wildcards) * PLAN.config.cluster.cpus_per_gpu)

    return cpus_per_task


def get_runtime(stage, minutes):
    """Time limit of a stage's job in minutes: the configuration's, else a default and the time to read the model."""

    def runtime(wildcards):
        given = PLAN.resource(wildcards.model, stage, "runtime")
        wanted = given or formulas.reading_minutes(get_weights_bytes(wildcards.model), minutes)
        return min(wanted, PLAN.config.cluster.max_runtime or wanted)

    return runtime


def get_reading_runtime(wildcards):
    """Time limit in minutes of a job that reads and writes the whole model."""
    wanted = formulas.reading_minutes(2 * get_weights_bytes(wildcards.model), 60)
    return min(wanted, PLAN.config.cluster.max_runtime or wanted)
