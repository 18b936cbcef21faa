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
from day0.cluster import serving_gpus
from day0.harness import HARNESSES
from day0.recipes import Calibration, Recipe, ResolvedRecipe, resolve_recipe

BASELINE = "baseline"
RESERVED_MODEL_NAMES = ("demo",)
RECIPES_FOLDER = Path("config/recipes")
SUITES_FOLDER = Path("config/suites")
CATALOGUE = Path("envs/modelopt_catalogue.json")
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


HarnessName = Annotated[str, AfterValidator(_known_harness)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
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
    **dict.fromkeys(("-N", "--nodes", "-n", "--ntasks"), "every job runs on one node, as one task"),
    **dict.fromkeys(
        ("-J", "--job-name", "--comment", "-o", "--output", "-e", "--error", "-D", "--chdir", "--export", "--parsable"),
        "the executor sets it for every job; remove it",
    ),
}


class Strict(BaseModel):
    """Refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Serving(Strict):
    """How vLLM serves a model; a recipe's values stand above its model's."""

    tensor_parallel_size: PositiveInteger = 1
    pipeline_parallel_size: PositiveInteger = 1
    max_model_len: PositiveInteger | None = Field(None, description="tokens; null: what the suite needs")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_dtype: str = Field("auto", description="vLLM's --kv-cache-dtype")
    extra_arguments: list[str] = Field([], description="further arguments of vLLM's server")
    environment: dict[str, str] = Field({}, description="environment variables of the server; no secrets")
    startup_timeout_seconds: PositiveInteger = 1800


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


class Task(Strict):
    """One task of a suite."""

    harness: HarnessName = Field("lm-eval", description=f"one of {', '.join(HARNESSES)}")
    task: str = Field(description="the harness's name of the task")
    metric: str = Field(description="the canonical score: lm-eval's key, 'metric,filter'")
    scale: Scale = Scale()
    tier: Literal["critical", "supporting", "advisory"] = "critical"
    samples: PositiveInteger | None = Field(None, description="documents that the task must have; null: what it has")
    num_fewshot: Annotated[int, Field(ge=0, strict=True)] = 0
    limit: PositiveInteger | None = Field(None, description="ask only the first documents")
    repeats: PositiveInteger = 1
    generation: dict[str, Any] = Field({}, description="generation settings of this task, above the suite's")


class Canary(Strict):
    """The first request to a server: what it answers decides whether the tasks are asked at all."""

    prompt: str = Field(min_length=1)
    max_tokens: PositiveInteger = 16


class Suite(Strict):
    """A suite file, config/suites/NAME.yaml."""

    description: str
    context_length: PositiveInteger = Field(description="tokens of the longest prompt and answer together")
    concurrency: PositiveInteger = Field(32, description="requests in flight per task")
    seed: int = 1234
    include_path: str | None = Field(None, description="folder of the harness's task files")
    data_files: list[str] = Field([], description="local files that the tasks read")
    system_prompt: str | None = None
    apply_chat_template: bool = False
    generation: dict[str, Any] = {}
    canary: Canary
    tasks: dict[Name, Task] = Field(min_length=1)


class Policy(Strict):
    """What a release must hold to; ``defaults`` gives what a release leaves out."""

    suite: str = Field("demo", description="file of config/suites, without .yaml")
    threshold: Fraction = Field(0.01, description="largest drop allowed on a blocking task, as a fraction of its scale")
    relative: bool = Field(False, description="the threshold is a fraction of the baseline's score instead")


class Release(Strict):
    """One candidate to decide on."""

    model: str
    recipe: str
    name: Name | None = Field(None, description="folder of the decision; the recipe's name unless given")
    suite: str | None = None
    threshold: Fraction | None = None
    relative: bool | None = None


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
    gpus_per_node: PositiveInteger = Field(8, description="GPUs of one node; a server runs on one node")
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

    image: str = Field(min_length=1, description="squashfs file (enroot) or .sif file (apptainer) on the shared disk")
    python: str = Field("python3", description="interpreter within the image that has the stage's packages")


class Containers(Strict):
    """Container images in place of the locked environments, by stage."""

    runtime: Literal["enroot", "apptainer"] = "enroot"
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
    quantization: Quantization = Quantization()
    models: dict[Name, Model] = Field(min_length=1)
    recipes: dict[Name, Recipe] = Field({}, description="recipes defined here instead of in config/recipes")
    defaults: Policy = Policy()
    releases: list[Release] = Field(min_length=1)


@dataclass(frozen=True)
class PlannedRelease:
    """A release with every default filled in and every name resolved."""

    name: str
    model: str
    recipe: ResolvedRecipe
    suite: str
    policy: dict[str, Any]


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
        return digest_of(definition)


class _Mistakes:
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, place: str, sentence: str) -> None:
        if (whole := f"{place}: {sentence}") not in self.sentences:
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
    try:
        return Suite.model_validate(read_yaml(path))
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
        policy = {
            "threshold": config.defaults.threshold if release.threshold is None else release.threshold,
            "relative": config.defaults.relative if release.relative is None else release.relative,
        }
        planned.append(PlannedRelease(name, release.model, recipe, suite, policy))
    plan = Plan(config, tuple(planned), suites)
    for suite, settings in suites.items():
        for path in filter(None, [settings.include_path, *settings.data_files]):
            if not is_produced(path) and not (root / path).exists():
                file = SUITES_FOLDER / f"{suite}.yaml"
                mistakes.add(f"suite {suite}", f"found no {path}; mend include_path or data_files of {file}")
    for stage in ("quantize", "serve"):
        container = getattr(config.containers, stage)
        if container and not (root / container.image).is_file():
            how = {"enroot": "enroot import --output", "apptainer": "apptainer pull"}[config.containers.runtime]
            mistakes.add(
                f"containers.{stage}.image",
                f"found no file {container.image}; make it with {how} {container.image} docker://IMAGE",
            )
    per_node = config.cluster.gpus_per_node
    for model, candidate in sorted({(r.model, c) for r in planned for c in (BASELINE, r.recipe.path_name)}):
        if model in config.models and serving_gpus(plan.serving(model, candidate)) > per_node:
            mistakes.add(
                f"models.{model}.serving" if candidate == BASELINE else f"recipe of {model} {candidate}: serving",
                f"its parallel sizes multiply to {serving_gpus(plan.serving(model, candidate))} GPUs; a server runs "
                f"on one node, which has {per_node} (cluster.gpus_per_node); choose smaller sizes or larger nodes",
            )
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
