"""The data types of the configuration: config/config.yaml with the files that --configfile adds.

The JSON Schema for editors, ``config/schemas/config.schema.json``, is generated from these types.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from day0.base.mistakes import LocalPath, Name, PositiveInteger, Strict, or_bare_text
from day0.base.secret_texts import is_secret_name
from day0.recipe.recipes import Calibration, Recipe
from day0.records.card import CardSettings
from day0.records.policy import (
    Criterion,
    EarlyStopping,
    Fraction,
    Growth,
    PolicySettings,
    PositiveShare,
    Requirement,
    Speedup,
    StrictBool,
    Thresholds,
    Tier,
)
from day0.records.search import Objective
from day0.records.speed import Load
from day0.serving.server_options import NotRead, read_arguments

OWN_ARGUMENT = "the evaluate stage sets this itself; remove it"
ANOTHER_MODEL = "it would serve something else than the checkpoint that is decided on; remove it"
ANOTHER_DOOR = "the server listens on loopback alone, behind a key; remove it"
NO_SECRET = "a secret does not belong in a file, and the server needs none: it reads a folder; remove it"
OTHER_CODE = "it runs code that changes what the model answers; remove it"
ONE_PROCESS = "set serving.data_parallel_size instead; its ranks run on one node"
# What may not stand among a server's further arguments, by the first name that vLLM's parser has for it, and why.
REFUSED_ARGUMENTS = {
    **dict.fromkeys(
        (
            "--api-key",
            "--host",
            "--port",
            "--model",
            "--served-model-name",
            "--seed",
            "--nnodes",
            "--node-rank",
            "--master-addr",
            "--master-port",
            "--headless",
            "--generation-config",
            "--override-generation-config",
            "--uvicorn-log-level",
            "--disable-log-stats",
            "--logging-config",
            "--log-config-file",
            "-h",
        ),
        OWN_ARGUMENT,
    ),
    **{
        f"--{name.replace('_', '-')}": f"set serving.{name} instead"
        for name in (
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "data_parallel_size",
            "max_model_len",
            "dtype",
            "kv_cache_dtype",
        )
    },
    "--trust-remote-code": "the model's own trust_remote_code says it; set that instead",
    **dict.fromkeys(
        (
            "--tokenizer",
            "--revision",
            "--code-revision",
            "--tokenizer-revision",
            "--hf-config-path",
            "--lora-modules",
            "--enable-lora",
            "--default-mm-loras",
            "--quantization",
            "--quantization-config",
            "--model-class-overrides",
            "--runner",
            "--convert",
            "--skip-tokenizer-init",
            "--weight-transfer-config",
        ),
        ANOTHER_MODEL,
    ),
    **dict.fromkeys(
        (
            "--uds",
            "--grpc",
            "--grpc-port",
            "--middleware",
            "--root-path",
            "--ssl-keyfile",
            "--ssl-certfile",
            "--ssl-ca-certs",
            "--kv-transfer-config",
            "--kv-events-config",
            "--ec-transfer-config",
        ),
        ANOTHER_DOOR,
    ),
    **dict.fromkeys(
        (
            "--data-parallel-rank",
            "--data-parallel-start-rank",
            "--data-parallel-size-local",
            "--data-parallel-address",
            "--data-parallel-rpc-port",
            "--data-parallel-backend",
            "--data-parallel-hybrid-lb",
            "--data-parallel-external-lb",
            "--data-parallel-multi-port-external-lb",
            "--data-parallel-supervisor-port",
        ),
        ONE_PROCESS,
    ),
    "--hf-token": NO_SECRET,
    "--config": "its file would bring arguments that nobody checks; write them here",
    **dict.fromkeys(
        ("--logits-processors", "--worker-cls", "--worker-extension-cls", "--scheduler-cls", "--io-processor-plugin"),
        OTHER_CODE,
    ),
}
# What may not stand among a server's environment variables, and why.
REFUSED_VARIABLES = {
    **dict.fromkeys(("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION"), OTHER_CODE),
    **dict.fromkeys(("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_USE_MODELSCOPE"), ANOTHER_MODEL),
    **dict.fromkeys(("VLLM_LOOPBACK_IP", "VLLM_PORT"), ANOTHER_DOOR),
    **dict.fromkeys(
        ("VLLM_CONFIGURE_LOGGING", "VLLM_LOGGING_CONFIG_PATH"), "the gate reads the server's log as it is; remove it"
    ),
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LOAD_FORMATS = ("auto", "safetensors")

KvCacheDtype = Literal[
    "auto",
    "bfloat16",
    "float16",
    "fp8",
    "fp8_ds_mla",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_inc",
    "fp8_per_token_head",
    "int4_per_token_head",
    "int8_per_token_head",
    "nvfp4",
    "nvfp4_4over6",
    "nvfp4_ds_mla",
    "turboquant_3bit_nc",
    "turboquant_4bit_nc",
    "turboquant_k3v4_nc",
    "turboquant_k8v4",
    "ultraquant_4bit",
]


# What the executor sets by itself, and where a site says it instead.
MANAGED_FLAGS = {
    **dict.fromkeys(("-A", "--account"), "set 'account' instead"),
    **dict.fromkeys(("-p", "--partition"), "set 'partition' and 'gpu_partition' instead"),
    **dict.fromkeys(("-q", "--qos"), "set 'qos' and 'gpu_qos' instead"),
    **dict.fromkeys(("-C", "--constraint"), "set 'constraint' instead"),
    **dict.fromkeys(("-G", "--gpus", "--gres"), "a model's resources.gpu and the site's gpu_type say it"),
    **dict.fromkeys(("-t", "--time"), "a model's resources.runtime and the site's max_runtime say it"),
    **dict.fromkeys(("--mem", "--mem-per-cpu", "--mem-per-gpu"), "a model's resources.mem_mb says it"),
    **dict.fromkeys(("-c", "--cpus-per-task", "--cpus-per-gpu"), "a model's resources.cpus says it"),
    **dict.fromkeys(("-N", "--nodes", "-n", "--ntasks"), "a model's serving.nodes says it; a job is one task"),
    **dict.fromkeys(
        ("-J", "--job-name", "--comment", "-o", "--output", "-e", "--error", "-D", "--chdir", "--export", "--parsable"),
        "the executor sets it for every job; remove it",
    ),
    **dict.fromkeys(("--wrap", "-a", "--array", "-W", "--wait", "--test-only"), "a job is one command; remove it"),
}
# What the stage sets for Podman and Docker itself, or what would open another port.
MANAGED_OF_CONTAINER = frozenset(
    {
        "--name",
        "--network",
        "--net",
        "--rm",
        "--init",
        "--entrypoint",
        "--detach",
        "--publish",
        "--publish-all",
        "--ipc",
    }
)
_MANAGED_LETTER = re.compile(r"-[itq]*[dpP]")
_VARIABLE_WITH_VALUE = re.compile(r"(?:--env=|-e)?([A-Za-z_]\w*)=.+", re.DOTALL)


def check_repository(name: str) -> None:
    """Refuse what the hub would: its client has the rules.

    Raises:
        ValueError: with the reason.
    """
    from huggingface_hub.errors import HFValidationError  # imported late, since most models are local
    from huggingface_hub.utils import validate_repo_id

    problem = ""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        problem = f": {error}"
    if problem or "/" not in name:
        raise ValueError(f"hub: {name!r:.200} is no repository id; expected organisation/name{problem:.200}")


class ServerContainer(Strict):
    """A container image with vLLM, and how it is run."""

    image: LocalPath = Field(description="as the runtime takes it: a reference, a .sif or a .sqsh file")
    runtime: Literal["apptainer", "podman", "docker"] = Field(
        "apptainer", description="on the host's network; podman needs the package catatonit for its --init"
    )
    python: LocalPath = Field("python3", description="the image's interpreter that has vLLM")
    arguments: list[str] = Field([], description="further arguments of the runtime, such as binds and devices")

    @field_validator("image", "python")
    @classmethod
    def _no_option(cls, text: str) -> str:
        if text.startswith("-"):
            raise ValueError("the runtime would take it for an option; options stand under 'arguments'")
        return text

    @model_validator(mode="after")
    def _not_managed(self) -> ServerContainer:
        words = self.arguments
        if words and (not words[0].startswith("-") or "--" in words):
            raise ValueError(f"arguments: found {' '.join(words)!r:.200}; expected options of {self.runtime}")
        for word in words:
            name = word.partition("=")[0]
            is_managed = name in ("--net", "--network")
            if self.runtime != "apptainer":
                is_managed = name in MANAGED_OF_CONTAINER or _MANAGED_LETTER.match(word) is not None
            if is_managed:
                raise ValueError(f"arguments: {name}: {OWN_ARGUMENT}")
            variable = _VARIABLE_WITH_VALUE.fullmatch(word)
            if variable and is_secret_name(variable[1]):
                raise ValueError(f"arguments: {variable[1]}: {NO_SECRET}")
        return self


class Serving(Strict):
    """How vLLM serves a model; a recipe's values take precedence over its model's."""

    tensor_parallel_size: PositiveInteger = 1
    pipeline_parallel_size: PositiveInteger = 1
    data_parallel_size: PositiveInteger = 1
    gpus: PositiveInteger | None = Field(None, description="GPUs of the server; null: the product of the three sizes")
    nodes: PositiveInteger = Field(
        1, description="nodes of a Slurm cluster that the server is spread over, by tensor or pipeline parallelism"
    )
    max_model_len: PositiveInteger | None = Field(None, description="tokens; null: what the suite needs")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_dtype: KvCacheDtype = Field("auto", description="vLLM's --kv-cache-dtype")
    extra_arguments: list[str] = Field([], description="further arguments of vLLM's server")
    environment: dict[str, str] = Field({}, description="environment variables of the server; no secrets")
    container: ServerContainer | None = Field(
        None, description="run the server in a container instead of its environment"
    )
    startup_timeout_seconds: PositiveInteger = 1800

    @field_validator("extra_arguments")
    @classmethod
    def _allowed(cls, arguments: list[str]) -> list[str]:
        try:
            given = read_arguments(arguments)
        except NotRead as error:
            raise ValueError(f"vLLM's server would refuse {' '.join(arguments)!r:.200}: {error}") from None
        wrong = [f"{entry.spelt}: {why}" for entry in given if (why := REFUSED_ARGUMENTS.get(entry.option))]
        for entry in given:
            if entry.option == "--load-format" and entry.value not in LOAD_FORMATS:
                wrong.append(
                    f"{entry.spelt} {entry.value}: expected {' or '.join(LOAD_FORMATS)}; pickles are not loaded"
                )
        if wrong:
            raise ValueError("; ".join(dict.fromkeys(wrong)))
        return arguments

    @field_validator("environment")
    @classmethod
    def _allowed_variables(cls, environment: dict[str, str]) -> dict[str, str]:
        wrong = []
        for name, value in environment.items():
            if value and is_secret_name(name):
                wrong.append(f"{name}: {NO_SECRET}")
            elif not _VARIABLE.fullmatch(name):
                wrong.append(f"{name!r:.80} is no name of a variable; expected letters, digits and '_'")
            elif name in REFUSED_VARIABLES:
                wrong.append(f"{name}: {REFUSED_VARIABLES[name]}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return environment


class ImportedRun(Strict):
    """A run that was made elsewhere and stands in for one of the graph's; a bare text is its path."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), json_schema_extra=or_bare_text("path"))

    path: LocalPath = Field(description="a results.yml, a run's folder, or a folder of several runs' folders")
    model_id: str | None = Field(
        None, description="name under which the run served the model; null: the model's name, hub id or path"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class StageResources(Strict):
    """What one stage's job asks for; null: as the formulas of day0/cluster/resources.py say."""

    mem_mb: PositiveInteger | None = Field(None, description="host memory in MB")
    gpu: Annotated[int, Field(ge=0, strict=True)] | None = Field(None, description="GPUs, all on one node")
    cpus: PositiveInteger | None = Field(None, description="CPU cores")
    runtime: PositiveInteger | None = Field(None, description="time limit in minutes")


class Resources(StageResources):
    """What a model's heavy jobs ask for: of both stages, or of one stage, which takes precedence."""

    quantize: StageResources = StageResources()
    evaluate: StageResources = StageResources()


class Model(Strict):
    """Where the source model is: a local folder, or a hub repository at a pinned commit."""

    path: LocalPath | None = Field(None, description="local folder of config.json, tokenizer and *.safetensors")
    hub: str | None = Field(None, description="repository id on the model hub, organisation/name")
    revision: str | None = Field(None, description="commit of the hub repository: 40 hexadecimal digits")
    trust_remote_code: bool = Field(False, description="run Python files that the model's repository brings along")
    calibration: Calibration | None = None
    serving: Serving = Serving()
    speed: Load | None = Field(
        None,
        description="measure both sides' servers under this load once their questions are answered; null: do not",
    )
    baseline: dict[str, ImportedRun] = Field({}, description="by suite: a run that stands in for the baseline's")
    card: CardSettings = Field(CardSettings(), description="values in place of the general ones; tags are added")
    resources: Resources = Field(Resources(), description="what the model's heavy jobs ask for on a cluster")

    @model_validator(mode="after")
    def _one_location(self) -> Model:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of 'path' (a local folder) and 'hub' (a repository id)")
        if self.hub is not None:
            check_repository(self.hub)
            if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
                raise ValueError(
                    "revision: a hub model needs the commit it is pinned to, 40 hexadecimal digits; "
                    f"found {self.revision!r}"
                )
        elif self.revision is not None:
            raise ValueError("revision: only a hub model has one; remove it")
        return self


class Defaults(PolicySettings):
    """What a release must hold to, and on which suite, where it says nothing else itself."""

    suite: str | None = Field(None, description="file of config/suites, without .yaml")


class Publish(Strict):
    """Where an accepted bundle goes: a hub repository or a folder; a release's values take precedence."""

    hub: str | None = Field(None, description="repository id, organisation/name; may hold {model} and {release}")
    private: bool = Field(True, description="whether a repository that has to be made is private")
    branch: str = Field("main", pattern=r"^[\w][\w./-]*$", description="branch of the repository")
    token_variable: str = Field(
        "HF_TOKEN", pattern=r"^[A-Za-z_]\w*$", description="name of the environment variable that holds the token"
    )
    folder: LocalPath | None = Field(None, description="folder to copy the bundle to; may hold {model} and {release}")
    dry_run: bool = Field(True, description="only show what would be uploaded or copied")
    sign_off: Literal["required", "optional"] = Field(
        "optional", description="required: only a bundle that scripts/sign_off.py has a person's word for is published"
    )

    @model_validator(mode="after")
    def _one_destination(self) -> Publish:
        if self.hub is not None and self.folder is not None:
            raise ValueError("give one of 'hub' (a repository id) and 'folder', not both")
        destination = self.hub or self.folder or ""
        for field in re.findall(r"\{([^{}]*)\}", destination):
            if field not in ("model", "release"):
                raise ValueError(f"{{{field}}} cannot be filled in; there are {{model}} and {{release}}")
        if re.search(r"[{}]", re.sub(r"\{(model|release)\}", "", destination)):
            raise ValueError(f"{destination!r} holds a brace alone; braces stand around model and release only")
        if self.hub is not None:
            # With its fields filled in it is checked again, for each release.
            check_repository(re.sub(r"\{(model|release)\}", "x", self.hub))
        return self


class Mlflow(Strict):
    """Where runs are logged with MLflow; credentials only by MLflow's own environment variables."""

    tracking_uri: LocalPath = Field(description="MLflow's address: http(s)://…, sqlite:///…, a folder, databricks")
    experiment: str = Field("day0", min_length=1)

    @model_validator(mode="after")
    def _no_credentials(self) -> Mlflow:
        if re.search(r"://[^/@]+@", self.tracking_uri):
            raise ValueError(
                "tracking_uri holds credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        return self


class Screen(Strict):
    """A first look at the candidates of a search, on samples of its own."""

    suite: str = Field(description="file of config/suites, without .yaml; must share no document with the deciding one")
    margin: PositiveShare = Field(
        0.5, description="fraction of the release's limits that a candidate may use up and still become a finalist"
    )


class SearchBudget(Strict):
    """What a search may spend."""

    candidates: PositiveInteger = Field(8, description="recipes that may be quantized")
    decisions: PositiveInteger = Field(
        3, description="finalists that may be decided on; each proof has its share of the 5 % that one alone would have"
    )
    parallel: PositiveInteger = Field(2, description="candidates of a rung after the first, side by side")
    rungs: PositiveInteger = Field(5, description="rounds of choosing by what was found so far")


class Search(Strict):
    """A search for the cheapest recipe that passes, in place of a release's recipe."""

    objective: Objective = Field(description="what the winner has least of")
    space: str | list[str | dict[str, Any]] = Field(
        description="file of config/spaces, without .yaml; or its moves in place, each also just a recipe's name"
    )
    screen: Screen | None = Field(
        None, description="choose finalists by a cheaper suite; null: every one is decided on"
    )
    budget: SearchBudget = SearchBudget()


class Release(Strict):
    """One candidate to decide on, or a search for one."""

    model: str
    recipe: str | None = Field(None, description="of a checkpoint made elsewhere: the name to show, or unknown")
    search: Search | None = Field(None, description="in place of a recipe: choose one")
    checkpoint: LocalPath | None = Field(
        None, description="folder of a checkpoint made elsewhere; nothing is quantized here"
    )
    name: Name | None = Field(None, description="folder of the decision; the recipe's name unless given")
    suite: str | None = None
    threshold: Fraction | None = None
    thresholds: Thresholds = Field(
        Thresholds(), description="in addition to those of defaults, and in place of the same ones"
    )
    relative: StrictBool | None = None
    require_fingerprints: StrictBool | None = None
    candidate_run: ImportedRun | None = Field(None, description="a run that stands in for the candidate's")
    max_relative_drop: Fraction | None = None
    relative_guard_below: PositiveShare | None = None
    max_token_growth: Growth | None = None
    min_speedup: Speedup | None = None
    tiers: dict[str, Tier] = Field({}, description="added to those of defaults; the same ones replaced")
    criterion: Criterion | None = None
    require: dict[str, Requirement] = Field({}, description="added to those of defaults")
    early_stopping: EarlyStopping | None = None
    expected_disagreement_rate: PositiveShare | None = None
    publish: Publish | None = None
    card: CardSettings = Field(CardSettings(), description="values in place of the model's; tags are added")

    @model_validator(mode="after")
    def _recipe_or_search(self) -> Release:
        if (self.recipe is None) == (self.search is None):
            raise ValueError("give exactly one of 'recipe' and 'search' (which chooses one)")
        if self.search is not None:
            for key in ("checkpoint", "candidate_run"):
                if getattr(self, key) is not None:
                    raise ValueError(f"a search makes and evaluates its candidates itself; remove {key!r}")
            if self.name is None:
                raise ValueError("a search has no recipe to be named after; give a 'name'")
        return self


class Quantization(Strict):
    """Settings of the quantize stage that no recipe has to repeat."""

    device: Literal["auto", "cpu", "cuda", "device_map"] = "auto"
    seed: int = 1234
    calibration: Calibration = Calibration()


class Cluster(Strict):
    """A site's Slurm cluster, for ``--profile slurm``; see config/site.example.yaml."""

    account: str | None = Field(None, description="account that the jobs are charged to; null: the user's default")
    partition: str | None = Field(None, description="partition of jobs without a GPU; null: the cluster's default")
    gpu_partition: str | None = Field(None, description="partition of jobs with GPUs; null: the one without")
    gpu_type: str | None = Field(None, description="Slurm's name of the GPU type, as sinfo -o %G shows it: h100")
    qos: str | None = Field(None, description="quality of service of jobs without a GPU")
    gpu_qos: str | None = Field(None, description="quality of service of jobs with GPUs; null: the one without")
    constraint: str | None = Field(None, description="node features that GPU jobs need, as sbatch --constraint")
    extra: list[str] = Field([], description="further sbatch flags of every job: [--reservation=release]")
    gpu_extra: list[str] = Field([], description="further sbatch flags of GPU jobs only")
    gpus_per_node: PositiveInteger = Field(8, description="GPUs of one node")
    gpu_memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(80, description="memory of one GPU in GB")
    cpus_per_gpu: PositiveInteger = Field(8, description="CPU cores for each GPU of a job")
    max_mem_mb: PositiveInteger | None = Field(None, description="most host memory that a job may ask for, in MB")
    max_runtime: PositiveInteger | None = Field(None, description="longest time limit of the partitions, in minutes")
    jobs_have_internet: bool = Field(
        False, description="compute nodes reach the hub and the package index; false: the submitting host fetches"
    )

    @field_validator("extra", "gpu_extra")
    @classmethod
    def _not_managed(cls, flags: list[str]) -> list[str]:
        for flag in flags:
            name = re.split(r"[=\s]", flag.strip(), maxsplit=1)[0]
            if not name.startswith("-") or name.strip("-") == "":
                raise ValueError(f"{flag!r} is no flag of sbatch; write name and value as one entry, --name=value")
            # sbatch takes the beginning of a name for the name.
            named = (managed for managed in MANAGED_FLAGS if managed.startswith(name) and name.startswith("--"))
            managed = next(named, name[:2])
            if managed in MANAGED_FLAGS:
                raise ValueError(f"{flag!r}: {MANAGED_FLAGS[managed]}")
        return flags


class Container(Strict):
    """An image that stands in for a stage's environment."""

    image: LocalPath = Field(description="squashfs file (pyxis, enroot) or .sif file (apptainer)")
    python: str = Field("python3", description="interpreter within the image that has the stage's packages")


class Containers(Strict):
    """Container images in place of the locked environments, by stage."""

    runtime: Literal["pyxis", "enroot", "apptainer"] = Field(
        "enroot", description="pyxis: a job step with srun --container-image; enroot, apptainer: started directly"
    )
    mounts: list[LocalPath] = Field(
        [], description="further folders to mount, HOST or HOST:INSIDE; the project's is always"
    )
    quantize: Container | None = None
    serve: Container | None = None

    @property
    def images(self) -> list[str]:
        """The images that stand in for an environment."""
        return [stage.image for stage in (self.quantize, self.serve) if stage]


class Config(Strict):
    """The whole configuration; see config/config.yaml."""

    cluster: Cluster = Cluster()
    containers: Containers = Containers()

    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="variant of the stage environments; auto: cuda where an NVIDIA GPU is found"
    )
    parallel_evaluation: bool = Field(
        False, description="evaluate candidates before the baseline has passed its gate; nothing is then stopped early"
    )
    shards: PositiveInteger | Literal["per-task"] = Field(
        1, description="jobs, each with a server of its own, that share a run: by documents, or one per task"
    )
    verify: Literal["quick", "full"] = Field(
        "quick",
        description="how accepted releases are looked at for damage as a run ends: quick hashes what changed its size, "
        "inode or times since it was hashed; full hashes everything",
    )
    allow_generated_code: bool = Field(
        False, description="let tasks that are marked runs_generated_code run what the model wrote, on this machine"
    )
    imported_counts: Literal["require", "trust"] = Field(
        "require",
        description="counts of samples that an imported run does not tell: require: it fails; trust: the framework's "
        "own count, or the suite's, is taken, and the assessment says so",
    )
    builder: str = Field(
        "urn:day0:builder",
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$",
        description="URI of who runs the graph, for provenance",
    )
    quantization: Quantization = Quantization()
    models: dict[Name, Model] = Field(min_length=1)
    recipes: dict[Name, Recipe] = Field({}, description="recipes defined here instead of in config/recipes")
    defaults: Defaults = Defaults()
    external_scores: LocalPath | list[LocalPath] | None = Field(
        "config/external_scores.yaml",
        description="files of published scores that baselines are held against, the last one first; null: none",
    )
    publish: Publish | None = Field(None, description="where accepted bundles go, for the target publish")
    card: CardSettings = Field(CardSettings(), description="what the model cards of bundles say besides the evidence")
    mlflow: Mlflow | None = Field(None, description="log every release with MLflow")
    releases: list[Release] = Field(min_length=1)
