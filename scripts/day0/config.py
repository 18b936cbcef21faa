"""The configuration of a release: its data types, and the check of a whole configuration before any job starts.

Every mistake is collected and reported at once, each with its place in the configuration, what was found and what is
allowed. The JSON Schema for editors, ``config/schemas/config.schema.json``, is generated from these types.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from day0.artefacts import UnusableInput, digest_of, read_json, read_yaml
from day0.cluster import serving_gpus, serving_nodes
from day0.harness import HARNESSES
from day0.recipes import Calibration, Recipe, ResolvedRecipe, resolve_recipe
from day0.suite_needs import context_limit_of, context_problems, missing_endpoints, unallowed_code, unknown_scores

BASELINE = "baseline"
RESERVED_MODEL_NAMES = ("benchmarks", "demo", "figures", "logs")
RECIPES_FOLDER = Path("config/recipes")
SUITES_FOLDER = Path("config/suites")
CATALOGUE = Path("envs/modelopt_catalogue.json")
SECRET_NAME = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|CREDENTIALS?)(_|$)", re.I)
OWN_ARGUMENTS = frozenset(
    {"--api-key", "--host", "--port", "--model", "--served-model-name", "--seed"}
    | {"--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless"}
)
# The harness adds these to each request itself: another seed per repeat, one answer, whole.
OWN_GENERATION = frozenset({"seed", "n", "stream"})
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _safe_name(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} becomes a folder's name; it must start with a letter or digit and hold only letters, digits, "
            "'.', '_' and '-'"
        )
    return name


Name = Annotated[str, AfterValidator(_safe_name)]


def _known_harness(name: str) -> str:
    if name not in HARNESSES:
        raise ValueError(f"unknown harness; there are {', '.join(HARNESSES)}{_nearest(name, HARNESSES)}")
    return name


def _variable_name(name: str) -> str:
    if name == "OPENAI_API_KEY":
        raise ValueError("OPENAI_API_KEY holds the key of the run's own server; copy yours to another variable")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name of an environment variable; give the name, never the value")
    return name


def _generation(settings: dict[str, Any]) -> dict[str, Any]:
    own = sorted(OWN_GENERATION & settings.keys())
    if own:
        raise ValueError(f"{', '.join(own)}: the harness sets this itself (the seed is the suite's); remove it")
    return settings


Generation = Annotated[dict[str, Any], AfterValidator(_generation)]
HarnessName = Annotated[str, AfterValidator(_known_harness)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
UpToOne = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Tier = Literal["critical", "supporting", "advisory"]
Criterion = Literal["point", "confident"]
PositiveInteger = Annotated[int, Field(gt=0, strict=True)]


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
}


class Strict(BaseModel):
    """Refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ServerContainer(Strict):
    """A container image with vLLM, and how it is run."""

    image: str = Field(min_length=1, description="as the runtime takes it: a reference, a .sif or a .sqsh file")
    runtime: Literal["apptainer", "podman", "docker"] = Field(
        "apptainer", description="on the host's network; podman needs the package catatonit for its --init"
    )
    python: str = Field("python3", description="the image's interpreter that has vLLM")
    arguments: list[str] = Field([], description="further arguments of the runtime, such as binds and devices")


class Serving(Strict):
    """How vLLM serves a model; a recipe's values stand above its model's."""

    tensor_parallel_size: PositiveInteger = 1
    pipeline_parallel_size: PositiveInteger = 1
    data_parallel_size: PositiveInteger = 1
    gpus: PositiveInteger | None = Field(None, description="GPUs of the server; null: the product of the three sizes")
    nodes: PositiveInteger = Field(
        1, description="nodes of a Slurm cluster that the server is spread over, by tensor or pipeline parallelism"
    )
    max_model_len: PositiveInteger | None = Field(None, description="tokens; null: what the suite needs")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_dtype: str = Field("auto", description="vLLM's --kv-cache-dtype")
    extra_arguments: list[str] = Field([], description="further arguments of vLLM's server")
    environment: dict[str, str] = Field({}, description="environment variables of the server; no secrets")
    container: ServerContainer | None = Field(
        None, description="run the server in a container instead of its environment"
    )
    startup_timeout_seconds: PositiveInteger = 1800

    @field_validator("extra_arguments")
    @classmethod
    def _not_the_stages_own(cls, arguments: list[str]) -> list[str]:
        own = [argument for argument in arguments if argument.partition("=")[0] in OWN_ARGUMENTS]
        if own:
            raise ValueError(f"{', '.join(own)}: the evaluate stage sets this itself; remove it")
        return arguments

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        secret = [name for name, value in environment.items() if value and SECRET_NAME.search(name)]
        if secret:
            raise ValueError(
                f"{', '.join(secret)}: a secret does not belong in a file; set it in the shell, the server inherits it"
            )
        return environment


def _or_bare_path(schema: dict[str, Any]) -> None:
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "description": whole["properties"]["path"]["description"]}, whole]


class ImportedRun(Strict):
    """A run that was made elsewhere and stands in for one of the graph's; a bare text is its path."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), json_schema_extra=_or_bare_path)

    path: str = Field(description="a results.yml, a run's folder, or a folder of several runs' folders")
    model_id: str | None = Field(
        None, description="name under which the run served the model; null: the model's name, hub id or path"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class StageResources(Strict):
    """What one stage's job asks for; null: as the formulas of day0/cluster.py say."""

    mem_mb: PositiveInteger | None = Field(None, description="host memory in MB")
    gpu: Annotated[int, Field(ge=0, strict=True)] | None = Field(None, description="GPUs, all on one node")
    cpus: PositiveInteger | None = Field(None, description="CPU cores")
    runtime: PositiveInteger | None = Field(None, description="time limit in minutes")


class Resources(StageResources):
    """What a model's heavy jobs ask for: of both stages, or of one, which stands above."""

    quantize: StageResources = StageResources()
    evaluate: StageResources = StageResources()


class Model(Strict):
    """Where the source model is: a local folder, or a hub repository at a pinned commit."""

    path: str | None = Field(None, description="local folder of config.json, tokenizer and *.safetensors")
    hub: str | None = Field(None, description="repository id on the model hub, organisation/name")
    revision: str | None = Field(None, description="commit of the hub repository: 40 hexadecimal digits")
    trust_remote_code: bool = Field(False, description="run Python files that the model's repository brings along")
    calibration: Calibration | None = None
    serving: Serving = Serving()
    baseline: dict[str, ImportedRun] = Field({}, description="by suite: a run that stands in for the baseline's")
    resources: Resources = Field(Resources(), description="what the model's heavy jobs ask for on a cluster")

    @model_validator(mode="after")
    def _one_location(self) -> Model:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of 'path' (a local folder) and 'hub' (a repository id)")
        if self.hub is not None:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub):
                raise ValueError(f"hub: {self.hub!r} is no repository id; expected organisation/name")
            if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
                raise ValueError(
                    "revision: a hub model needs the commit it is pinned to, 40 hexadecimal digits; "
                    f"found {self.revision!r}"
                )
        elif self.revision is not None:
            raise ValueError("revision: only a hub model has one; remove it")
        return self


class Scale(Strict):
    """The range of a task's score and which end is the better one."""

    min: float = Field(0, allow_inf_nan=False)
    max: float = Field(1, allow_inf_nan=False)
    direction: Literal["higher", "lower"] = "higher"

    @model_validator(mode="after")
    def _not_empty(self) -> Scale:
        if self.min >= self.max:
            raise ValueError(f"min must be below max; found min {self.min} and max {self.max}")
        return self


class Reasoning(Strict):
    """What becomes of a reasoning model's thoughts before its answer is scored."""

    strip: bool = Field(True, description="score only what follows the last end mark")
    end: str = Field("</think>", min_length=1, description="text that ends the thoughts")


class Limits(Strict):
    """Fractions of a task's answers above which its score does not count."""

    cut: UpToOne = Field(0.1, description="answers that ended at the largest length instead of by themselves")
    unparsed: UpToOne = Field(0.1, description="answers in which the task's filter found nothing to score")
    empty: UpToOne = Field(0.1, description="answers without text")


class Judge(Strict):
    """The endpoint of a model that judges answers or plays the user; its key is in no file, log or command line."""

    model: str = Field(min_length=1, description="name of the model at the endpoint")
    url_variable: VariableName = Field(description="environment variable that holds the endpoint's address")
    key_variable: VariableName | None = Field(None, description="environment variable that holds the endpoint's key")


class Task(Strict):
    """One task of a suite."""

    harness: HarnessName = Field("lm-eval", description=f"one of {', '.join(HARNESSES)}")
    task: str = Field(min_length=1, description="the harness's name of the task; nemo-evaluator: FRAMEWORK.TASK")
    metric: str = Field(
        min_length=1,
        description="the canonical score: lm-eval's key, 'metric,filter'; nemo-evaluator: 'metric.score', or one name",
    )
    scale: Scale = Scale()
    tier: Tier = "critical"
    samples: PositiveInteger | None = Field(None, description="documents that the task must have; null: what it has")
    num_fewshot: Annotated[int, Field(ge=0, strict=True)] = 0
    limit: PositiveInteger | None = Field(None, description="ask only the first documents")
    repeats: PositiveInteger = Field(1, description="times that each document is asked, each with a seed of its own")
    context_length: PositiveInteger | None = Field(
        None, description="tokens that this task needs, at most the suite's; null: the suite's"
    )
    generation: Generation = Field({}, description="generation settings of this task, above the suite's")
    system_prompt: str | None = Field(None, description="instead of the suite's")
    apply_chat_template: bool | None = Field(None, description="instead of the suite's")
    reasoning: Reasoning | None = Field(None, description="instead of the suite's")
    limits: Limits | None = Field(None, description="instead of the suite's")
    judge: str | None = Field(None, description="of the suite's judges, the one that scores the answers")
    simulator: str | None = Field(None, description="of the suite's judges, the one that plays the user")
    parameters: dict[str, Any] = Field({}, description="nemo-evaluator: config.params.extra of the task's framework")
    runs_generated_code: bool = Field(False, description="scoring runs what the model wrote, on this machine")

    @model_validator(mode="after")
    def _fits_its_harness(self) -> Task:
        wrong = HARNESSES[self.harness].problems_of(self.model_dump(include=set(Task.model_fields)))
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class Passage(Strict):
    """A text that a sound model finds likely."""

    context: str = Field("", description="what stands before it; its own likelihood does not count")
    text: str = Field(min_length=1)


class Canary(Strict):
    """The first requests to a server: what it answers decides whether the tasks are asked at all."""

    prompt: str = Field(min_length=1)
    max_tokens: PositiveInteger = 16
    passages: list[Passage] = Field([], description="texts whose perplexity is measured, of all their tokens together")
    max_perplexity_ratio: float = Field(2.0, gt=1, description="candidate's perplexity over the baseline's")


class Suite(Strict):
    """A suite file, config/suites/NAME.yaml."""

    description: str
    context_length: PositiveInteger = Field(description="tokens of the longest prompt and answer together")
    concurrency: PositiveInteger = Field(64, description="prompts in flight at the server, shared by its tasks")
    tasks_side_by_side: PositiveInteger = Field(8, description="tasks that are asked at the same time, at most")
    max_attempts: PositiveInteger = Field(4, description="attempts of a request before it counts as failed")
    request_timeout_seconds: PositiveInteger = 1800
    seed: int = 1234
    include_path: str | None = Field(None, description="folder of the harness's task files")
    data_files: list[str] = Field([], description="local files that the tasks read")
    system_prompt: str | None = None
    apply_chat_template: bool = False
    reasoning: Reasoning | None = Field(None, description="null: answers are scored as they are")
    generation: Generation = {}
    limits: Limits = Limits()
    judges: dict[Name, Judge] = Field({}, description="endpoints that tasks name as their judge or simulator")
    canary: Canary
    tasks: dict[Name, Task] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Suite:
        wrong = []
        for name, task in self.tasks.items():
            for role in ("judge", "simulator"):
                judge = getattr(task, role)
                if judge is not None and judge not in self.judges:
                    known = ", ".join(sorted(self.judges)) or "none"
                    wrong.append(f"tasks.{name}.{role}: unknown judge {judge!r}; 'judges' has {known}")
            if (task.context_length or 0) > self.context_length:
                wrong.append(
                    f"tasks.{name}.context_length: {task.context_length} is above the suite's {self.context_length}, "
                    "with which the server starts"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def judges_in_use(self) -> dict[str, Judge]:
        """The judges and simulators that some task names."""
        named = {name for task in self.tasks.values() for name in (task.judge, task.simulator) if name}
        return {name: self.judges[name] for name in sorted(named)}

    def context_needs(self) -> dict[str, int]:
        """Tokens that each task needs, by name."""
        return {name: task.context_length or self.context_length for name, task in self.tasks.items()}


class Thresholds(Strict):
    """Thresholds that stand above ``threshold``; a task's stands above its tier's."""

    tiers: dict[Tier, Fraction] = Field({}, description="tier to threshold")
    tasks: dict[str, Fraction] = Field({}, description="task of the suite to threshold")


class Policy(Strict):
    """What a release must hold to; ``defaults`` gives what a release leaves out."""

    suite: str = Field("demo", description="file of config/suites, without .yaml")
    threshold: Fraction = Field(0.01, description="largest drop allowed on a blocking task, as a fraction of its scale")
    thresholds: Thresholds = Field(Thresholds(), description="thresholds of single tiers and tasks")
    relative: bool = Field(False, description="the threshold is a fraction of the baseline's score instead")
    require_fingerprints: bool = Field(
        True, description="refuse to compare with an imported run that does not tell how it was made"
    )
    max_relative_drop: Fraction | None = Field(
        None,
        description="guard for low scores, besides the threshold: largest drop allowed as a fraction of the baseline's "
        "distance from the worse end of the scale",
    )
    relative_guard_below: Share | None = Field(
        None, description="the guard holds where the baseline is below this fraction of the scale; null: everywhere"
    )
    tiers: dict[str, Tier] = Field({}, description="task to tier, above the suite's; advisory tasks do not block")
    criterion: Criterion = Field(
        "point",
        description="point: the scores must be within the limits; confident: the intervals of the paired drops must",
    )
    expected_disagreement_rate: Share = Field(
        0.05,
        description="share of samples that a candidate is expected to score differently; by it a plan tells whether "
        "the suite can resolve its thresholds",
    )


class Publish(Strict):
    """Where an accepted bundle goes: a hub repository or a folder; a release's values stand above these."""

    hub: str | None = Field(None, description="repository id, organisation/name; may hold {model} and {release}")
    private: bool = Field(True, description="whether a repository that has to be made is private")
    branch: str = Field("main", pattern=r"^[\w][\w./-]*$", description="branch of the repository")
    token_variable: str = Field(
        "HF_TOKEN", pattern=r"^[A-Za-z_]\w*$", description="name of the environment variable that holds the token"
    )
    folder: str | None = Field(None, description="folder to copy the bundle to; may hold {model} and {release}")
    dry_run: bool = Field(True, description="only show what would be uploaded or copied")

    @model_validator(mode="after")
    def _one_destination(self) -> Publish:
        if self.hub is not None and self.folder is not None:
            raise ValueError("give one of 'hub' (a repository id) and 'folder', not both")
        if self.hub is not None and not re.fullmatch(r"[\w.{}-]+/[\w.{}-]+", self.hub):
            raise ValueError(f"hub: {self.hub!r} is no repository id; expected organisation/name")
        for field in re.findall(r"\{([^}]*)\}", f"{self.hub or ''}{self.folder or ''}"):
            if field not in ("model", "release"):
                raise ValueError(f"{{{field}}} cannot be filled in; there are {{model}} and {{release}}")
        return self


class Mlflow(Strict):
    """Where runs are logged with MLflow; credentials only by MLflow's own environment variables."""

    tracking_uri: str = Field(description="MLflow's address: http(s)://…, sqlite:///…, a folder, databricks")
    experiment: str = Field("day0", min_length=1)

    @model_validator(mode="after")
    def _no_credentials(self) -> Mlflow:
        if re.search(r"://[^/@]+@", self.tracking_uri):
            raise ValueError(
                "tracking_uri holds credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        return self


class Release(Strict):
    """One candidate to decide on."""

    model: str
    recipe: str
    name: Name | None = Field(None, description="folder of the decision; the recipe's name unless given")
    suite: str | None = None
    threshold: Fraction | None = None
    thresholds: Thresholds = Field(Thresholds(), description="laid over those of defaults")
    relative: bool | None = None
    require_fingerprints: bool | None = None
    candidate_run: ImportedRun | None = Field(None, description="a run that stands in for the candidate's")
    max_relative_drop: Fraction | None = None
    relative_guard_below: Share | None = None
    tiers: dict[str, Tier] = Field({}, description="laid over those of defaults")
    criterion: Criterion | None = None
    expected_disagreement_rate: Share | None = None
    publish: Publish | None = None


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
            if not name.startswith("-"):
                raise ValueError(f"{flag!r} is no flag of sbatch; write name and value as one entry, --name=value")
            if name in MANAGED_FLAGS or name[:2] in MANAGED_FLAGS:
                raise ValueError(f"{flag!r}: {MANAGED_FLAGS.get(name) or MANAGED_FLAGS[name[:2]]}")
        return flags


class Container(Strict):
    """An image that stands in for a stage's environment."""

    image: str = Field(min_length=1, description="squashfs file (pyxis, enroot) or .sif file (apptainer)")
    python: str = Field("python3", description="interpreter within the image that has the stage's packages")


class Containers(Strict):
    """Container images in place of the locked environments, by stage."""

    runtime: Literal["pyxis", "enroot", "apptainer"] = Field(
        "enroot", description="pyxis: a job step with srun --container-image; enroot, apptainer: started directly"
    )
    mounts: list[str] = Field([], description="further folders to mount, HOST or HOST:INSIDE; the project's is always")
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
    parallel_evaluation: bool = Field(False, description="evaluate candidates before the baseline has passed its gate")
    shards: PositiveInteger | Literal["per-task"] = Field(
        1, description="jobs, each with a server of its own, that share a run: by documents, or one per task"
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
    defaults: Policy = Policy()
    external_scores: str | None = Field(
        "config/external_scores.yaml",
        description="file of published scores that baselines are held against; null: none",
    )
    publish: Publish | None = Field(None, description="where accepted bundles go, for the target publish")
    mlflow: Mlflow | None = Field(None, description="log every release with MLflow")
    releases: list[Release] = Field(min_length=1)


@dataclass(frozen=True)
class PlannedRelease:
    """A release with every default filled in and every name resolved."""

    name: str
    model: str
    recipe: ResolvedRecipe
    suite: str
    policy: dict[str, Any]
    candidate_run: ImportedRun | None = None
    publish: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """A checked configuration, ready for the graph."""

    config: Config
    releases: tuple[PlannedRelease, ...]
    suites: dict[str, Suite]

    def release(self, model: str, name: str) -> PlannedRelease:
        """The release of that model and name.

        Raises:
            KeyError: the configuration has none.
        """
        return next(r for r in self.releases if (r.model, r.name) == (model, name))

    def recipe(self, model: str, candidate: str) -> ResolvedRecipe:
        """The recipe behind a candidate's folder."""
        return next(r.recipe for r in self.releases if r.model == model and r.recipe.path_name == candidate)

    def imported(self, model: str, candidate: str, suite: str) -> ImportedRun | None:
        """The run that stands in for that of a candidate or baseline, or None."""
        if candidate == BASELINE:
            settings = self.config.models.get(model)
            return settings.baseline.get(suite) if settings else None
        named = (model, candidate, suite)
        runs = (r.candidate_run for r in self.releases if (r.model, r.recipe.path_name, r.suite) == named)
        return next(filter(None, runs), None)

    def imported_runs(self) -> list[tuple[str, str, str]]:
        """(model, candidate, suite) of every run that is imported."""
        runs = {(r.model, side, r.suite) for r in self.releases for side in (BASELINE, r.recipe.path_name)}
        return sorted(run for run in runs if self.imported(*run))

    def imported_pattern(self) -> str:
        """MODEL/CANDIDATE/SUITE of the imported runs, a regular expression; without any it matches nothing."""
        return "|".join(re.escape("/".join(run)) for run in self.imported_runs()) or "(?!)"

    def is_asked(self, model: str, suite: str) -> bool:
        """Whether some run of a model on a suite is made here; False where all are imported."""
        runs = {(r.model, side, r.suite) for r in self.releases for side in (BASELINE, r.recipe.path_name)}
        return any(run[::2] == (model, suite) and not self.imported(*run) for run in runs)

    def import_request(self, model: str, candidate: str, suite: str) -> dict[str, Any]:
        """What the import of a run needs to know of it."""
        run, location = self.imported(model, candidate, suite), self.config.models[model]
        assert run is not None
        known = [run.model_id] if run.model_id else [model, location.hub, location.path]
        return {
            "path": run.path,
            "counts": self.config.imported_counts,
            "model_ids": [name for name in known if name],
        }

    def serving(self, model: str, candidate: str) -> dict[str, Any]:
        """Serving settings of a candidate or of the baseline: the recipe's above the model's above the defaults.

        Whether the model's own code may run is the model's to say, for its candidates too.
        """
        source = self.config.models[model]
        settings = source.serving.model_dump(mode="json") | {"trust_remote_code": source.trust_remote_code}
        if candidate != BASELINE:
            settings |= self.recipe(model, candidate).definition.get("serving") or {}
        return settings

    def resource(self, model: str, stage: str, name: str) -> int | None:
        """What the configuration says of a stage's resource, None where it leaves it to the formulas."""
        resources = self.config.models[model].resources
        own = getattr(getattr(resources, stage), name)
        return getattr(resources, name) if own is None else own

    def calibration(self, model: str, candidate: str) -> dict[str, Any]:
        """Calibration settings of a candidate: the recipe's above the model's above ``quantization``'s."""
        layers = [
            self.config.quantization.calibration,
            self.config.models[model].calibration,
            self.recipe(model, candidate).definition.get("calibration"),
        ]
        merged: dict[str, Any] = {}
        for layer in layers:
            if isinstance(layer, Calibration):
                layer = layer.model_dump(mode="json", exclude_unset=True)
            merged |= layer or {}
        return Calibration(**merged).model_dump(mode="json")

    def definition_digest(self, model: str, candidate: str, suite: str | None = None) -> str:
        """Digest of what defines a candidate, and with ``suite`` its evaluation.

        An assessment carries it, so that a failure recorded for another definition counts as unknown.
        """
        location = self.config.models[model]
        definition: dict[str, Any] = {"path": location.path, "hub": location.hub, "revision": location.revision}
        if candidate != BASELINE:
            definition |= {
                "recipe": self.recipe(model, candidate).digest,
                "calibration": self.calibration(model, candidate),
            }
        if suite is not None:
            definition |= {
                "suite": self.suites[suite].model_dump(mode="json"),
                "serving": self.serving(model, candidate),
            }
            if self.imported(model, candidate, suite):
                definition["imported"] = self.import_request(model, candidate, suite)
        return digest_of(definition)


class _Mistakes:
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, place: str, sentence: str) -> None:
        if (whole := f"{place}: {sentence}" if place else sentence) not in self.sentences:
            self.sentences.append(whole)

    def add_validation(self, place: str, error: ValidationError, types: type[BaseModel]) -> None:
        for mistake in error.errors(include_url=False):
            location = _dotted((place, *mistake["loc"]) if place else mistake["loc"])
            message = mistake["msg"].removeprefix("Value error, ")
            if mistake["type"] == "extra_forbidden":
                allowed = _keys_at(types, mistake["loc"][:-1])
                message = f"unknown key; allowed here: {', '.join(allowed)}{_nearest(str(mistake['loc'][-1]), allowed)}"
            elif mistake["type"] == "missing":
                message = "missing"
            elif not isinstance(mistake["input"], dict | list):
                message = f"found {mistake['input']!r}; {message[0].lower()}{message[1:]}"
            self.add(location, message)


def _dotted(location: Iterable[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _keys_at(types: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    """Keys allowed at a place of a configuration, found by walking the annotations."""
    current: Any = types
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else current  # else a key or an index of what holds it
        current = _model_within(current)
    return sorted(current.model_fields) if current else []


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_within, getattr(annotation, "__args__", ()))), None)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_model_folder(path: str) -> str | None:
    """Say what keeps a local folder from being a source model, or None."""
    folder = Path(path)
    if not folder.is_dir():
        return f"found no folder {path}; expected one with config.json, a tokenizer and *.safetensors"
    if not (folder / "config.json").is_file():
        return f"{path} holds no config.json; expected a Hugging Face model folder"
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
        found = f" (found {', '.join(pickles[:3])})" if pickles else ""
        return (
            f"{path} holds no *.safetensors{found}; convert the weights with save_pretrained(safe_serialization=True)"
        )
    return None


def load_suite(name: str, folder: Path = SUITES_FOLDER) -> Suite:
    """Read a suite file.

    Raises:
        UnusableInput: there is none of that name, or it holds mistakes; all of them are in the message.
    """
    path = folder / f"{name}.yaml"
    if not SAFE_NAME.fullmatch(name) or not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise UnusableInput(f"unknown suite {name!r}; {folder} has {', '.join(known)}{_nearest(name, known)}")
    return Suite.model_validate(read_suite(path))


def read_suite(path: Path) -> dict[str, Any]:
    """A suite file with every default filled in.

    Raises:
        UnusableInput: it holds mistakes; all of them are in the message.
    """
    try:
        return Suite.model_validate(read_yaml(path)).model_dump(mode="json")
    except ValidationError as error:
        mistakes = _Mistakes()
        mistakes.add_validation("", error, Suite)
        raise UnusableInput("\n".join(f"{path}: {sentence}" for sentence in mistakes.sentences)) from None


def make_plan(
    raw: Mapping[str, Any], is_produced: Callable[[str], bool] = lambda path: False, root: Path = Path()
) -> Plan:
    """Check a whole configuration and resolve what its releases name.

    Args:
        raw: the merged configuration.
        is_produced: says whether a rule of the graph makes a path, so that it need not exist yet.
        root: the folder that holds config/ and envs/.

    Raises:
        UnusableInput: with every mistake, a line each.
    """
    mistakes = _Mistakes()
    indices = list(range(len(raw["releases"]))) if isinstance(raw.get("releases"), list) else []
    try:
        config = Config.model_validate(dict(raw))
    except ValidationError as error:
        mistakes.add_validation("", error, Config)
        try:
            sound, indices = _without_mistakes(raw, error)
            config = Config.model_validate(sound)
        except ValidationError:
            raise _unusable(mistakes) from None

    catalogue = read_json(root / CATALOGUE)
    definitions = {name: recipe.model_dump(mode="json", exclude_none=True) for name, recipe in config.recipes.items()}
    suites: dict[str, Suite] = {}
    planned: list[PlannedRelease] = []
    places: dict[tuple[str, str], str] = {}
    for model in sorted({r.model for r in config.releases} & config.models.keys()):
        location = config.models[model]
        if model in RESERVED_MODEL_NAMES:
            mistakes.add(f"models.{model}", f"the name is reserved: {', '.join(RESERVED_MODEL_NAMES)}; choose another")
        if location.path is not None and not is_produced(location.path):
            problem = check_model_folder(str(root / location.path))
            if problem:
                mistakes.add(f"models.{model}.path", problem)

    for index, release in zip(indices, config.releases, strict=True):
        place = f"releases[{index}]"
        if release.model not in raw["models"]:
            known = sorted(map(str, raw["models"]))
            mistakes.add(
                f"{place}.model",
                f"unknown model {release.model!r}; 'models' has {', '.join(known)}{_nearest(release.model, known)}",
            )
        recipe = None
        try:
            recipe = resolve_recipe(release.recipe, definitions, root / RECIPES_FOLDER, catalogue)
            try:
                Serving.model_validate(recipe.definition.get("serving") or {})
            except ValidationError as error:
                mistakes.add_validation(f"recipe {release.recipe}: serving", error, Serving)
        except UnusableInput as error:
            mistakes.add(f"{place}.recipe", str(error))
        suite = release.suite or config.defaults.suite
        if suite not in suites:
            try:
                suites[suite] = load_suite(suite, root / SUITES_FOLDER)
            except UnusableInput as error:
                mistakes.add(f"{place}.suite" if release.suite else "defaults.suite", str(error))
        if recipe is None:
            continue
        name = release.name or recipe.path_name
        if name == BASELINE or recipe.path_name == BASELINE:
            mistakes.add(f"{place}.name", f"{BASELINE!r} is the folder of the baseline; give another name")
        earlier = places.setdefault((release.model, name), place)
        if earlier != place:
            mistakes.add(
                f"{place}.name",
                f"model {release.model!r} has a release {name!r} already, at {earlier}; give one a 'name'",
            )
        policy: dict[str, Any] = {}
        if suite in suites:
            tasks = suites[suite].tasks
            for key, named in (("tiers", release.tiers), ("thresholds.tasks", release.thresholds.tasks)):
                for task in sorted(named.keys() - tasks.keys()):
                    mistakes.add(f"{place}.{key}.{task}", _unknown_task(task, suite, tasks))
            policy = _policy_of(config.defaults, release, tasks)
            if policy["relative_guard_below"] is not None and policy["max_relative_drop"] is None:
                sentence = "found without max_relative_drop, so that it would guard nothing; give both or none"
                mistakes.add(f"{place}.relative_guard_below", sentence)
            if all(tier == "advisory" for tier in policy["tiers"].values()):
                mistakes.add(f"{place}.tiers", "every task is advisory, so nothing would block; name one as critical")
        publish = None
        try:
            publish = _publication(config.publish, release.publish, release.model, name)
        except UnusableInput as error:
            mistakes.add(f"{place}.publish", str(error))
        planned.append(PlannedRelease(name, release.model, recipe, suite, policy, release.candidate_run, publish))
    for key, named in (("tiers", config.defaults.tiers), ("thresholds.tasks", config.defaults.thresholds.tasks)):
        known = {task for settings in suites.values() for task in settings.tasks}
        for task in sorted(named.keys() - known) if suites else ():
            mistakes.add(f"defaults.{key}.{task}", _unknown_task(task, " and ".join(suites), known))
    plan = Plan(config, tuple(planned), suites)
    for suite, settings in suites.items():
        for path in filter(None, [settings.include_path, *settings.data_files]):
            if not is_produced(path) and not (root / path).exists():
                file = SUITES_FOLDER / f"{suite}.yaml"
                mistakes.add(f"suite {suite}", f"found no {path}; mend include_path or data_files of {file}")
    _check_suites(plan, mistakes, root)
    _check_imports(plan, mistakes, root)
    for stage in ("quantize", "serve"):
        container = getattr(config.containers, stage)
        if container and not (root / container.image).is_file():
            how = "apptainer pull" if config.containers.runtime == "apptainer" else "enroot import --output"
            mistakes.add(
                f"containers.{stage}.image",
                f"found no file {container.image}; make it with {how} {container.image} docker://IMAGE",
            )
    per_node = config.cluster.gpus_per_node
    for model, candidate in sorted({(r.model, c) for r in planned for c in (BASELINE, r.recipe.path_name)}):
        if model in config.models and (mistake := _misplaced(plan.serving(model, candidate), per_node)):
            place = f"models.{model}.serving" if candidate == BASELINE else f"recipe of {model} {candidate}: serving"
            mistakes.add(place, mistake)
    for release in planned:
        if release.model in config.models:
            calibration = Calibration(**plan.calibration(release.model, release.recipe.path_name))
            file = calibration.local_file
            if file and not is_produced(str(file)) and not (root / file).is_file():
                mistakes.add(f"release {release.name!r}", f"found no calibration data {file}; mend calibration.dataset")
    folders = {(r.model, r.recipe.path_name) for r in planned}
    for release in planned:
        if release.name != release.recipe.path_name and (release.model, release.name) in folders:
            mistakes.add(
                f"release {release.name!r}",
                f"the name is the folder of another recipe of model {release.model!r}; give another name",
            )
    if mistakes.sentences:
        raise _unusable(mistakes)
    return plan


def _misplaced(serving: Mapping[str, Any], per_node: int) -> str | None:
    """Why a server cannot be laid over its nodes, or None."""
    gpus, nodes = serving_gpus(serving), serving_nodes(serving)
    if nodes > 1:
        if (serving.get("data_parallel_size") or 1) > 1:
            return "data_parallel_size: a server over several nodes is one; 'shards' runs several side by side"
        if serving.get("container"):
            return "container: a server over several nodes runs in its environment, or in the image of containers.serve"
        if gpus % nodes:
            return f"nodes: {gpus} GPUs cannot be laid evenly over {nodes} nodes; mend the parallel sizes or nodes"
    if gpus > nodes * per_node:
        return (
            f"its parallel sizes multiply to {gpus} GPUs; it runs on {nodes} node{'s' * (nodes > 1)} of {per_node} "
            f"(cluster.gpus_per_node); choose smaller sizes, or nodes: {-(-gpus // per_node)}"
        )
    return None


def _check_suites(plan: Plan, mistakes: _Mistakes, root: Path) -> None:
    """What a suite needs that the configuration, the environment or a model does not give."""
    runs: dict[str, set[str]] = {}
    limits: dict[str, int | None] = {}
    for release in plan.releases:
        if release.model in plan.config.models and release.suite in plan.suites:
            sides = (BASELINE, release.recipe.path_name)
            asked = [side for side in sides if not plan.imported(release.model, side, release.suite)]
            if asked:
                runs.setdefault(release.suite, set()).update(f"{release.model}/{side}" for side in asked)
    for name in sorted(runs):
        suite = plan.suites[name]
        settings = suite.model_dump(mode="json")
        for problem in (
            *missing_endpoints(settings),
            *unallowed_code(settings, plan.config.allow_generated_code),
            *unknown_scores(settings, root),
        ):
            mistakes.add(f"suite {name}", problem)
        for run in sorted(runs[name]):
            model, _, candidate = run.partition("/")
            location = plan.config.models[model].model_dump(include={"path", "hub", "revision"})
            if model not in limits:
                limits[model] = context_limit_of(location, root)
            served = plan.serving(model, candidate)["max_model_len"]
            for problem in context_problems(suite.context_needs(), limits[model], served):
                mistakes.add(f"suite {name}", f"{problem} (model {model})")


def _check_imports(plan: Plan, mistakes: _Mistakes, root: Path) -> None:
    """Imported runs that are not there, that nothing uses, or that contradict each other."""
    for model, settings in plan.config.models.items():
        used = {release.suite for release in plan.releases if release.model == model}
        for suite in settings.baseline:
            if suite not in used:
                known = ", ".join(sorted(used)) or "none"
                mistakes.add(
                    f"models.{model}.baseline",
                    f"no release of this model uses suite {suite!r}; its releases use {known}{_nearest(suite, used)}",
                )
    named: dict[tuple[str, str, str], ImportedRun] = {}
    for release in plan.releases:
        if release.candidate_run is not None:
            key = (release.model, release.recipe.path_name, release.suite)
            if named.setdefault(key, release.candidate_run) != release.candidate_run:
                mistakes.add(
                    f"release {release.name!r}",
                    f"candidate_run: another release of recipe {release.recipe.path_name} on suite {release.suite} "
                    f"imports {named[key].path}; give both the same run",
                )
    for run in plan.imported_runs():
        imported = plan.imported(*run)
        assert imported is not None
        if not (root / imported.path).exists():
            mistakes.add(
                f"imported run of {'/'.join(run)}",
                f"found no {imported.path}; expected a results.yml, or a folder with one in it",
            )


def _unknown_task(task: str, suite: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return f"unknown task; suite {suite} has {', '.join(names)}{_nearest(task, names)}"


def _policy_of(defaults: Policy, release: Release, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The policy of a release, every default filled in; it names each task of the suite with its tier, so that a
    comparison misses one that neither run has."""
    policy: dict[str, Any] = {}
    keys = ("threshold", "relative", "require_fingerprints", "max_relative_drop", "relative_guard_below", "criterion")
    for key in keys:
        own = getattr(release, key)
        policy[key] = getattr(defaults, key) if own is None else own
    rate = release.expected_disagreement_rate
    policy["expected_disagreement_rate"] = defaults.expected_disagreement_rate if rate is None else rate
    overrides = {**defaults.tiers, **release.tiers}
    policy["tiers"] = {task: overrides.get(task, settings.tier) for task, settings in tasks.items()}
    named = {**defaults.thresholds.tasks, **release.thresholds.tasks}
    policy["thresholds"] = {
        "tiers": {**defaults.thresholds.tiers, **release.thresholds.tiers},
        "tasks": {task: threshold for task, threshold in named.items() if task in tasks},
    }
    return policy


def _publication(general: Publish | None, own: Publish | None, model: str, release: str) -> dict[str, Any] | None:
    """Where a release goes, its placeholders filled in; None where nothing is said of publishing it.

    Raises:
        UnusableInput: neither a repository nor a folder is named.
    """
    if general is None and own is None:
        return None
    settings = {} if general is None else general.model_dump(mode="json")
    chosen = {} if own is None else own.model_dump(mode="json", exclude_unset=True)
    if chosen.get("hub") or chosen.get("folder"):
        settings |= {"hub": None, "folder": None}
    settings = Publish(**settings | chosen).model_dump(mode="json")
    if settings["hub"] is None and settings["folder"] is None:
        raise UnusableInput("names no destination; give 'hub' (a repository id) or 'folder' here or under 'publish'")
    for key in ("hub", "folder"):
        settings[key] = settings[key] and settings[key].format(model=model, release=release)
    return settings


def _without_mistakes(raw: Mapping[str, Any], error: ValidationError) -> tuple[dict[str, Any], list[int]]:
    """A copy without the faulty entries, so that the rest is checked too; and the indices of the releases it keeps."""
    sound = copy.deepcopy(dict(raw))
    dropped = set()
    for mistake in error.errors(include_url=False):
        location = mistake["loc"]
        if location[0] == "releases" and len(location) > 1 and (len(location) == 2 or mistake["type"] == "missing"):
            dropped.add(location[1])
            continue
        container: Any = sound
        for part in location[:-1]:
            within = isinstance(container, dict) and part in container
            within = within or (isinstance(container, list) and isinstance(part, int) and part < len(container))
            container = container[part] if within else None
        if isinstance(container, dict):
            container.pop(location[-1], None)
    releases = sound.get("releases")
    kept = [i for i in range(len(releases)) if i not in dropped] if isinstance(releases, list) else []
    if kept:
        sound["releases"] = [releases[i] for i in kept]
    return sound, kept


def _unusable(mistakes: _Mistakes) -> UnusableInput:
    count = len(mistakes.sentences)
    lines = "\n".join(f"  {sentence}" for sentence in mistakes.sentences)
    return UnusableInput(f"the configuration has {count} mistake{'s' * (count > 1)}; nothing was started:\n{lines}")
