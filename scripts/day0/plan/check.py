"""Check a whole configuration before any job starts, and make the plan of its releases.

Every mistake is collected and reported at once, each with its place in the configuration, what was found and what is
allowed. A sound plan warns of limits that a suite cannot resolve.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from day0.base.artefacts import read_json, read_yaml
from day0.base.cli import UnusableInput
from day0.base.mistakes import SAFE_NAME, mistakes_of, nearest
from day0.base.secret_texts import find_secrets, find_unwritable
from day0.decision.external import ExternalScores, parse_external_scores
from day0.plan.config import Config, Defaults, ImportedRun, Publish, Release, Search, Serving, check_repository
from day0.plan.contents import miscounted, missing_of_model, missing_template, unreadable_texts
from day0.plan.plan import BASELINE, Plan, PlannedRelease, PlannedSearch
from day0.plan.search import budget_of, final_policy, find_mistakes, screening_policy
from day0.recipe.recipes import Calibration, recipe_of_checkpoint, resolve_recipe
from day0.records.card import CardSettings
from day0.records.policy import Policy, PolicySettings, Scale
from day0.records.recipe import UNKNOWN, ResolvedRecipe
from day0.search.space import Move, load_space
from day0.serving.container import image_command
from day0.serving.multinode import serving_gpus, serving_nodes
from day0.source.model_folder import check_model_folder
from day0.source.side_files import secret_in_declarations
from day0.statistics.resolution import PlannedTask, planning_warning, shared_confidence, suite_warnings
from day0.suite.disjoint import overlaps
from day0.suite.documents import declared_documents
from day0.suite.needs import (
    context_limit_of,
    context_problems,
    missing_endpoints,
    missing_tool_arguments,
    unallowed_code,
    unknown_scores,
)
from day0.suite.suites import SUITES_FOLDER, Suite, Task, load_suite

# Names of files and folders that the graph makes itself, of which a name of the configuration would make folders.
RESERVED_MODEL_NAMES = ("benchmarks", "decisions.csv", "demo", "figures", "index.html", "logs")
RESERVED_CANDIDATE_NAMES = ("benchmarks", "logs", "preflight.json", "preflight.ok", "sensitivity.json", "source.json")
RESERVED_SUITE_NAMES = (
    *("benchmarks", "checkpoint", "comparison.json", "figures", "logs", "preflight.json", "preflight.ok"),
    *("published.json", "quantization.json", "release", "release_states.json", "report.html", "search"),
    *("validation.json", "validation.ok", "verdict.json", "verdict.ok"),
)
RECIPES_FOLDER = Path("config/recipes")
CATALOGUE = Path("envs/modelopt_catalogue.json")
SPACES_FOLDER = Path("config/spaces")
RESULTS = Path("results")
PROJECT_FOLDERS = frozenset(
    {"results", "config", "scripts", "rules", "envs", "docs", "profiles", "tests", "benchmarks"}
)
HIDDEN_FOLDERS = frozenset({".git", ".github", ".venv", ".envs", ".snakemake"})


class _Mistakes:
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, place: str, sentence: str) -> None:
        """A mistake at a place; where a file holds several, each is one."""
        for line in sentence.splitlines():
            self.add_line(f"{place}: {line.strip()}")

    def add_validation(self, place: str, error: ValidationError, types: type[BaseModel]) -> None:
        for sentence in mistakes_of(error, types, place):
            self.add_line(sentence)

    def add_line(self, sentence: str) -> None:
        if sentence not in self.sentences:
            self.sentences.append(sentence)


@dataclass(frozen=True)
class Places:
    """Where files are looked for: the folder where snakemake runs, then the project's own."""

    root: Path
    project: Path

    def folder_with(self, folder: Path, name: str) -> Path:
        """The folder of config/ that holds a file of this name; where neither does, the first that is there."""
        both = [self.root / folder, self.project / folder]
        has_file = (one for one in both if SAFE_NAME.fullmatch(name) and os.path.isfile(one / f"{name}.yaml"))
        return next(has_file, next((one for one in both if os.path.isdir(one)), both[-1]))


def check_configuration_file(path: str | os.PathLike) -> None:
    """Refuse a configuration file that says two things: Snakemake's own loader takes the last of two keys.

    Raises:
        UnusableInput: with the file and the line; see day0/base/parsing.py for what is refused.
    """
    read_json(path) if str(path).endswith(".json") else read_yaml(path)


def make_plan(
    raw: Mapping[str, Any],
    is_produced: Callable[[str], bool] = lambda path: False,
    root: Path = Path(),
    project: Path | None = None,
    has_gpu: bool = True,
) -> Plan:
    """Check a whole configuration and resolve what its releases name.

    Args:
        raw: the merged configuration.
        is_produced: says whether a rule of the graph makes a path, so that it need not exist yet.
        root: the folder that paths of the configuration are relative to, and whose config/ is looked in first.
        project: the folder of this project, with its own config/ and envs/; None: the same.
        has_gpu: whether ``accelerator: auto`` finds a GPU.

    Raises:
        UnusableInput: with every mistake, a line each.
    """
    mistakes = _Mistakes()
    places = Places(root, project or root)
    for place, kind in find_secrets(raw):
        mistakes.add(place, f"holds {kind}; a secret does not belong in a file: set it as an environment variable")
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
    else:
        for place in find_unwritable(raw):
            mistakes.add(place, "holds a NUL character, which no command line and no file's name can hold; remove it")

    if problem := _problem_of_results(root / RESULTS):
        mistakes.add(str(RESULTS), problem)
    _check_models(config, is_produced, mistakes, root)
    suites: dict[str, Suite] = {}
    targets = _plan_targets(config, raw, indices, suites, mistakes, places)
    releases = [r for made in targets for r in (made.releases() if isinstance(made, PlannedSearch) else [made])]
    _check_folders(targets, releases, mistakes)
    plan = Plan(config, tuple(targets), tuple(releases), suites, is_cpu=_quantizes_on_cpu(config, has_gpu))
    _check_files(plan, is_produced, mistakes, root)
    _check_suites(plan, is_produced, mistakes, root)
    _check_disjoint(plan, mistakes, places)
    _check_imports(plan, mistakes, root)
    _check_servers(plan, mistakes)
    _check_speed(plan, mistakes)
    _check_destinations(plan, mistakes, root)
    if mistakes.sentences:
        raise _unusable(mistakes)
    return plan


def _quantizes_on_cpu(config: Config, has_gpu: bool) -> bool:
    variant = config.accelerator if config.accelerator != "auto" else "cuda" if has_gpu else "cpu"
    return "cpu" in (variant, config.quantization.device)


def _problem_of_results(folder: Path) -> str | None:
    """Why nothing can be made in the folder of results, or None; it may be a link to one, or not exist yet."""
    if os.path.isdir(folder) or not os.path.lexists(folder):
        return None
    if os.path.islink(folder):
        return f"is a link to {os.readlink(folder)}, where no folder is; make that folder, or remove the link"
    return "is a file; expected a folder, or nothing; move it elsewhere"


def _plan_targets(
    config: Config,
    raw: Mapping[str, Any],
    indices: Iterable[int],
    suites: dict[str, Suite],
    mistakes: _Mistakes,
    places: Places,
) -> list[PlannedRelease | PlannedSearch]:
    """Resolve what the releases name; their suites are put into ``suites``, ``indices`` are their places."""
    catalogue = read_json(places.project / CATALOGUE)
    definitions = {name: recipe.model_dump(mode="json", exclude_none=True) for name, recipe in config.recipes.items()}
    planned: list[PlannedRelease | PlannedSearch] = []
    taken: dict[tuple[str, str], str] = {}
    for index, release in zip(indices, config.releases, strict=True):
        place = f"releases[{index}]"
        if release.model not in raw["models"]:
            known = sorted(map(str, raw["models"]))
            mistakes.add(
                f"{place}.model",
                f"unknown model {release.model!r}; 'models' has {', '.join(known)}{nearest(release.model, known)}",
            )
        suite = release.suite or config.defaults.suite or ""
        if suite:
            _load(suite, f"{place}.suite" if release.suite else "defaults.suite", suites, mistakes, places)
        else:
            there = ", ".join(sorted(file.stem for file in places.folder_with(SUITES_FOLDER, "").glob("*.yaml")))
            mistakes.add(f"{place}.suite", f"names no suite; give one here or under 'defaults'; there are {there}")
        policy = _checked_policy(config.defaults, release, suite, suites, mistakes, place)
        made: PlannedRelease | PlannedSearch
        if release.search is not None:
            moves = _moves_of_search(release.search, definitions, catalogue, mistakes, f"{place}.search", places)
            made = _plan_search(
                config.defaults, release, release.search, suite, policy, moves, suites, mistakes, place, places
            )
            name, folders = made.name, list(made.recipes)
        else:
            recipe = _recipe_of(release, config, definitions, catalogue, mistakes, place, places)
            if recipe is None:
                continue
            name = release.name or recipe.path_name
            candidate = recipe.path_name if recipe.checkpoint is None else name
            made = PlannedRelease(name, release.model, recipe, candidate, suite, policy, release.candidate_run)
            folders = [candidate]
        if BASELINE in (name, *folders):
            mistakes.add(f"{place}.name", f"{BASELINE!r} is the folder of the baseline; give another name")
        for folder in sorted({name, *folders} & set(RESERVED_CANDIDATE_NAMES)):
            mistakes.add(
                f"{place}.name",
                f"the name {folder!r} is reserved: {', '.join(RESERVED_CANDIDATE_NAMES)}; choose another",
            )
        earlier = taken.setdefault((release.model, name), place)
        if earlier != place:
            mistakes.add(
                f"{place}.name",
                f"model {release.model!r} has a release {name!r} already, at {earlier}; give one a 'name'",
            )
        publish = None
        try:
            publish = _publication(config.publish, release.publish, release.model, name)
        except UnusableInput as error:
            mistakes.add(f"{place}.publish", str(error))
        model = config.models.get(release.model)
        card = _card([config.card, *([model.card] if model else []), release.card])
        if card.template and not (places.root / card.template).is_file():
            mistakes.add(
                f"{place}.card", f"template: found no file {card.template}; give the path of a jinja2 template"
            )
        planned.append(replace(made, publish=publish, card=card))
    general = config.defaults
    for key, named in (
        ("tiers", general.tiers),
        ("thresholds.tasks", general.thresholds.tasks),
        ("require", general.require),
    ):
        known_tasks = {task for settings in suites.values() for task in settings.tasks}
        for task in sorted(named.keys() - known_tasks) if suites else ():
            mistakes.add(f"defaults.{key}.{task}", _unknown_task(task, " and ".join(suites), known_tasks))
    return planned


def _load(suite: str, place: str, suites: dict[str, Suite], mistakes: _Mistakes, places: Places) -> None:
    """Put a suite into ``suites``."""
    if suite in RESERVED_SUITE_NAMES:
        reserved = ", ".join(RESERVED_SUITE_NAMES)
        mistakes.add(place, f"the name {suite!r} is reserved: {reserved}; rename the file of config/suites")
    if suite not in suites:
        try:
            suites[suite] = load_suite(suite, places.folder_with(SUITES_FOLDER, suite))
        except UnusableInput as error:
            mistakes.add(place, str(error))


def _recipe_of(
    release: Release,
    config: Config,
    definitions: Mapping[str, Mapping[str, Any]],
    catalogue: Mapping[str, Any],
    mistakes: _Mistakes,
    place: str,
    places: Places,
) -> ResolvedRecipe | None:
    """The recipe of a release; None where it has a mistake that leaves none."""
    name = str(release.recipe)
    if release.checkpoint is not None:
        for key, mistake in _problems_of_checkpoint(release, config, places.root):
            mistakes.add(f"{place}.{key}", mistake)
        return recipe_of_checkpoint(name, release.checkpoint)
    try:
        recipe = resolve_recipe(name, definitions, places.folder_with(RECIPES_FOLDER, name), catalogue)
    except UnusableInput as error:
        mistakes.add(f"{place}.recipe", str(error))
        return None
    _check_serving(recipe, mistakes)
    return recipe


def _plan_search(
    defaults: Defaults,
    release: Release,
    search: Search,
    suite: str,
    policy: Policy,
    moves: Sequence[tuple[Move, ResolvedRecipe]],
    suites: dict[str, Suite],
    mistakes: _Mistakes,
    place: str,
    places: Places,
) -> PlannedSearch:
    """The search of a release whose policy was checked; its screening suite is put into ``suites``."""
    screen = None
    if search.screen is not None:
        name = search.screen.suite
        _load(name, f"{place}.search.screen.suite", suites, mistakes, places)
        own = Policy()
        if name in suites:
            with contextlib.suppress(ValidationError):  # reported for the deciding suite
                own = _policy_of(defaults, release, suites[name].tasks)
        screen = (name, screening_policy(own, search.screen.margin))
    for key, sentence in find_mistakes(search, suite, policy, suites):
        mistakes.add(f"{place}.{key}", sentence)
    return PlannedSearch(
        name=str(release.name),
        model=release.model,
        objective=search.objective,
        recipes={recipe.path_name: recipe for _, recipe in moves},
        groups={recipe.path_name: move.group for move, recipe in moves},
        suite=suite,
        policy=final_policy(policy, search),
        budget=budget_of(search),
        screen=screen,
    )


def _moves_of_search(
    search: Search,
    definitions: Mapping[str, Mapping[str, Any]],
    catalogue: Mapping[str, Any],
    mistakes: _Mistakes,
    place: str,
    places: Places,
) -> list[tuple[Move, ResolvedRecipe]]:
    """The moves of a search's space with their recipes, as far as they can be resolved."""
    try:
        space = load_space(search.space, places.folder_with(SPACES_FOLDER, str(search.space)), f"{place}.space")
    except UnusableInput as error:
        for line in str(error).splitlines():
            mistakes.add_line(line)
        return []
    if problem := space.problem_with(search.objective):
        mistakes.add(f"{place}.objective", problem)
    known = {**definitions, **space.definitions}
    found = []
    for move in space.moves:
        try:
            recipe = resolve_recipe(
                move.recipe_name, known, places.folder_with(RECIPES_FOLDER, move.recipe_name), catalogue
            )
        except UnusableInput as error:
            mistakes.add(f"{place}.space", str(error))
            continue
        _check_serving(recipe, mistakes)
        found.append((move, recipe))
    return found


def _check_serving(recipe: ResolvedRecipe, mistakes: _Mistakes) -> None:
    try:
        Serving.model_validate(recipe.definition.get("serving") or {})
    except ValidationError as error:
        mistakes.add_validation(f"recipe {recipe.name}: serving", error, Serving)


def _check_folders(
    targets: Sequence[PlannedRelease | PlannedSearch], releases: Sequence[PlannedRelease], mistakes: _Mistakes
) -> None:
    """Folders of results that two recipes, two decisions, or a recipe and a decision would share."""
    recipes = {(made.model, made.candidate): made.recipe for made in releases}
    taken = "the name is the folder of another recipe of model {!r}; give another name"
    for made in releases:
        is_taken = made.name != made.candidate and (made.model, made.name) in recipes
        if is_taken or recipes[made.model, made.candidate].digest != made.recipe.digest:
            mistakes.add(f"release {made.name!r}", taken.format(made.model))
    listed = {(target.model, target.name) for target in targets}
    for search in targets:
        if isinstance(search, PlannedSearch):
            if (search.model, search.name) in recipes:
                mistakes.add(f"release {search.name!r}", taken.format(search.model))
            for made in search.releases():
                if (made.model, made.name) in listed:
                    sentence = f"search {search.name!r} decides on a candidate under this name; give another name"
                    mistakes.add(f"release {made.name!r}", sentence)


def _problems_of_checkpoint(release: Release, config: Config, root: Path) -> list[tuple[str, str]]:
    """What is wrong with a release of a checkpoint that was made elsewhere: the key, and a sentence."""
    problems = []
    if release.recipe in config.recipes:
        problems.append(
            (
                "recipe",
                f"{release.recipe!r} is defined under 'recipes', yet 'checkpoint' is not made by it here; "
                f"remove 'checkpoint', or give the recipe another name or {UNKNOWN!r}",
            )
        )
    if release.name is None and not SAFE_NAME.fullmatch(recipe_of_checkpoint(str(release.recipe), "").path_name):
        problems.append(("name", f"{release.recipe!r} cannot be a folder's name; give a 'name'"))
    folder = root / str(release.checkpoint)
    model = config.models.get(release.model)
    if problem := check_model_folder(str(folder)):
        problems.append(("checkpoint", problem))
    elif model is not None and model.path is not None and folder.resolve() == (root / model.path).resolve():
        problems.append(("checkpoint", f"{folder} is the source model itself; give the folder that was made of it"))
    elif problem := secret_in_declarations(folder):
        problems.append(("checkpoint", problem))
    if folder.resolve().is_relative_to((root / RESULTS).resolve()):
        problems.append(
            ("checkpoint", f"{folder} lies within {RESULTS}, whose folders this graph replaces; move it elsewhere")
        )
    return problems


def _checked_policy(
    defaults: Defaults, release: Release, suite: str, suites: Mapping[str, Suite], mistakes: _Mistakes, place: str
) -> Policy:
    """The policy of a release; the default one where its suite is not known, or where it has a mistake."""
    if suite not in suites:
        return Policy()
    tasks = suites[suite].tasks
    for key, named in (
        ("tiers", release.tiers),
        ("thresholds.tasks", release.thresholds.tasks),
        ("require", release.require),
    ):
        for task in sorted(named.keys() - tasks.keys()):
            mistakes.add(f"{place}.{key}.{task}", _unknown_task(task, suite, tasks))
    try:
        policy = _policy_of(defaults, release, tasks)
    except ValidationError as error:
        mistakes.add_validation(place, error, Policy)
        return Policy()
    if not any(policy.blocks(task) for task in tasks):
        mistakes.add(f"{place}.tiers", "every task is advisory, so nothing would block; name one as critical")
    return policy


def _check_models(config: Config, is_produced: Callable[[str], bool], mistakes: _Mistakes, root: Path) -> None:
    """Names and folders of the models that releases use."""
    for model in sorted({r.model for r in config.releases} & config.models.keys()):
        path = config.models[model].path
        if model in RESERVED_MODEL_NAMES:
            mistakes.add(f"models.{model}", f"the name is reserved: {', '.join(RESERVED_MODEL_NAMES)}; choose another")
        if path is None or is_produced(path):
            continue
        problem = check_model_folder(str(root / path))
        for sentence in [problem] if problem else missing_of_model(root / path):
            mistakes.add(f"models.{model}.path", sentence)


def _check_files(plan: Plan, is_produced: Callable[[str], bool], mistakes: _Mistakes, root: Path) -> None:
    """Local files that suites, images and calibrations name."""
    for suite, settings in plan.suites.items():
        for path in filter(None, [settings.include_path, *settings.data_files]):
            if not is_produced(path) and not os.path.exists(root / path):
                file = SUITES_FOLDER / f"{suite}.yaml"
                mistakes.add(f"suite {suite}", f"found no {path}; correct include_path or data_files of {file}")
    containers = plan.config.containers
    for stage in ("quantize", "serve"):
        container = getattr(containers, stage)
        if container and not os.path.isfile(root / container.image):
            how = image_command(containers.runtime, container.image)
            mistakes.add(f"containers.{stage}.image", f"found no file {container.image}; make it with {how}")
    for release in plan.releases:
        if release.model in plan.config.models and release.recipe.checkpoint is None:
            calibration = Calibration(**plan.calibration(release.model, release.candidate))
            data = calibration.local_file
            if data and not is_produced(str(data)) and not os.path.isfile(root / data):
                mistakes.add(
                    f"release {release.name!r}", f"found no calibration data {data}; correct calibration.dataset"
                )
            elif data and not is_produced(str(data)) and (problem := unreadable_texts(calibration, root)):
                mistakes.add(f"release {release.name!r}: calibration", problem)


def _check_destinations(plan: Plan, mistakes: _Mistakes, root: Path) -> None:
    """Places to publish to where something else lies, or where two releases would replace each other."""
    known: dict[tuple[str, ...], str] = {}
    sources = [settings.path for settings in plan.config.models.values()]
    sources += [release.recipe.checkpoint for release in plan.releases]
    for release in plan.targets:
        if release.publish is None:
            continue
        place, folder = f"release {release.name!r}: publish", release.publish["folder"]
        key = (
            (folder and str((root / folder).resolve()),)
            if folder
            else (release.publish["hub"], release.publish["branch"])
        )
        if known.setdefault(key, release.name) != release.name:
            mistakes.add(
                place, f"{key[0]} is the destination of another release, {known[key]!r}; name {{release}} in it"
            )
        if folder and (problem := _problem_of_destination(folder, [path for path in sources if path], root)):
            mistakes.add(place, f"folder {folder}: {problem}; choose a folder of its own, which need not exist yet")


def _problem_of_destination(folder: str, sources: Iterable[str], root: Path) -> str | None:
    """Why no bundle may take the place of a folder, or None."""
    if folder.startswith("~"):
        return "'~' is not expanded"
    found, project = (root / folder).resolve(), root.resolve()
    if project.is_relative_to(found) or Path.home().is_relative_to(found):
        return "it holds this project or a home"
    if found.parent == Path(found.anchor):
        return "it lies at the root of the file system"
    if found.is_relative_to(project) and found.relative_to(project).parts[0] in PROJECT_FOLDERS | HIDDEN_FOLDERS:
        return "it is part of this project"
    for source in sources:
        model = (root / source).resolve()
        if found.is_relative_to(model) or model.is_relative_to(found):
            return f"{source} is read from there"
    return None


def _check_servers(plan: Plan, mistakes: _Mistakes) -> None:
    """Servers that do not fit the site's nodes."""
    per_node = plan.config.cluster.gpus_per_node
    for model, candidate in sorted({(r.model, c) for r in plan.releases for c in (BASELINE, r.candidate)}):
        if model in plan.config.models and (mistake := _misplaced(plan.serving(model, candidate), per_node)):
            place = f"models.{model}.serving" if candidate == BASELINE else f"recipe of {model} {candidate}: serving"
            mistakes.add(place, mistake)


def _misplaced(serving: Mapping[str, Any], per_node: int) -> str | None:
    """Why a server cannot be spread over its nodes, or None."""
    gpus, nodes = serving_gpus(serving), serving_nodes(serving)
    if nodes > 1:
        if (serving.get("data_parallel_size") or 1) > 1:
            return "data_parallel_size: a server over several nodes is one; 'shards' runs several side by side"
        if serving.get("container"):
            return "container: a server over several nodes runs in its environment, or in the image of containers.serve"
        if gpus % nodes:
            return f"nodes: {gpus} GPUs cannot be spread evenly over {nodes} nodes; correct the sizes or nodes"
    if gpus > nodes * per_node:
        return (
            f"its parallel sizes multiply to {gpus} GPUs; it runs on {nodes} node{'s' * (nodes > 1)} of {per_node} "
            f"(cluster.gpus_per_node); choose smaller sizes, or nodes: {-(-gpus // per_node)}"
        )
    return None


def _check_suites(plan: Plan, is_produced: Callable[[str], bool], mistakes: _Mistakes, root: Path) -> None:
    """What a suite needs that the configuration, the environment or a model does not give."""
    runs: dict[str, set[str]] = {}
    limits: dict[str, int | None] = {}
    for release in plan.releases:
        if release.model in plan.config.models and release.suite in plan.suites:
            sides = (BASELINE, release.candidate)
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
            *miscounted(suite, root, is_produced),
        ):
            mistakes.add(f"suite {name}", problem)
        for run in sorted(runs[name]):
            model, _, candidate = run.partition("/")
            path = plan.config.models[model].path
            if path and not is_produced(path) and (missing := missing_template(root / path, settings)):
                mistakes.add(f"suite {name}", f"{missing} (model {model})")
            location = plan.config.models[model].model_dump(include={"path", "hub", "revision"})
            if model not in limits:
                limits[model] = context_limit_of(location, root)
            serving = plan.serving(model, candidate)
            if too_long := _load_problem(plan, model, name, serving["max_model_len"] or suite.context_length):
                mistakes.add(f"models.{model}.speed", too_long)
            for problem in (
                *context_problems(suite.context_needs(), limits[model], serving["max_model_len"]),
                *missing_tool_arguments(settings, serving["extra_arguments"]),
            ):
                mistakes.add(f"suite {name}", f"{problem} (model {model})")


def _load_problem(plan: Plan, model: str, suite: str, context_length: int) -> str | None:
    """Why a model's servers cannot take the load of its speed measurement on a suite, or None."""
    load = plan.load(model, suite)
    if load is None or load.context_length <= context_length:
        return None
    return (
        f"found {load.input_tokens} input_tokens and {load.output_tokens} output_tokens; on suite {suite} the server "
        f"takes {context_length} tokens of both together; give fewer, or a larger serving.max_model_len"
    )


def _check_speed(plan: Plan, mistakes: _Mistakes) -> None:
    """Releases that are held to a speed which nothing would measure."""
    for release in plan.targets:
        required, model = release.policy.min_speedup, plan.config.models.get(release.model)
        if required is None or model is None:
            continue
        place = f"release {release.name!r}: min_speedup"
        if model.speed is None:
            mistakes.add(
                place,
                f"found {required:g}, but models.{release.model} sets no 'speed', so that nothing is measured; set "
                f"models.{release.model}.speed ({{}} takes its defaults), or remove min_speedup",
            )
            continue
        sides = (BASELINE, release.candidate) if isinstance(release, PlannedRelease) else ()
        for side in sides:
            if plan.imported(release.model, side, release.suite):
                what = "baseline" if side == BASELINE else "candidate"
                mistakes.add(
                    place,
                    f"found {required:g}, but the {what}'s run is imported, so that no server of it is measured; "
                    "remove min_speedup, or evaluate both sides here",
                )


def _check_disjoint(plan: Plan, mistakes: _Mistakes, places: Places) -> None:
    """Suites that ask documents of another one from which they must be disjoint."""
    for name, suite in plan.suites.items():
        for other in suite.disjoint_from:
            if other == name:
                mistakes.add(f"suite {name}", "disjoint_from: names the suite itself; remove it")
                continue
            try:
                folder = places.folder_with(SUITES_FOLDER, other)
                known = plan.suites[other] if other in plan.suites else load_suite(other, folder)
            except UnusableInput as error:
                mistakes.add(f"suite {name}", f"disjoint_from: {error}")
                continue
            for problem in overlaps(suite, other, known):
                mistakes.add(f"suite {name}", problem)


def _check_imports(plan: Plan, mistakes: _Mistakes, root: Path) -> None:
    """Imported runs that are not there, that nothing uses, or that contradict each other."""
    for model, settings in plan.config.models.items():
        used = {release.suite for release in plan.releases if release.model == model}
        for suite in settings.baseline:
            if suite not in used:
                known = ", ".join(sorted(used)) or "none"
                mistakes.add(
                    f"models.{model}.baseline",
                    f"no release of this model uses suite {suite!r}; its releases use {known}{nearest(suite, used)}",
                )
    named: dict[tuple[str, str, str], ImportedRun] = {}
    for release in plan.releases:
        if release.candidate_run is not None:
            key = (release.model, release.candidate, release.suite)
            if named.setdefault(key, release.candidate_run) != release.candidate_run:
                mistakes.add(
                    f"release {release.name!r}",
                    f"candidate_run: another release of recipe {release.candidate} on suite {release.suite} "
                    f"imports {named[key].path}; give both the same run",
                )
    for run in plan.imported_runs():
        imported = plan.imported(*run)
        assert imported is not None
        if not os.path.exists(root / imported.path):
            mistakes.add(
                f"imported run of {'/'.join(run)}",
                f"found no {imported.path}; expected a results.yml, or a folder with one in it",
            )


def _unknown_task(task: str, suite: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return f"unknown task; suite {suite} has {', '.join(names)}{nearest(task, names)}"


def _policy_of(defaults: Defaults, release: Release, tasks: Mapping[str, Task]) -> Policy:
    """The policy of a release, every default filled in.

    It names each task of the suite with its tier, so that a comparison misses one that neither run has.

    Raises:
        ValidationError: the settings of the defaults and of the release do not go together.
    """
    own = release.model_dump(include=set(PolicySettings.model_fields), exclude_none=True)
    tiers = {**defaults.tiers, **release.tiers}
    thresholds = {
        "tiers": {**defaults.thresholds.tiers, **release.thresholds.tiers},
        "tasks": {
            task: threshold
            for task, threshold in {**defaults.thresholds.tasks, **release.thresholds.tasks}.items()
            if task in tasks
        },
    }
    require = {**defaults.require, **release.require}
    merged = {
        **defaults.model_dump(exclude={"suite"}),
        **own,
        "require": {task: held for task, held in require.items() if task in tasks},
        "tiers": {task: tiers.get(task, settings.tier) for task, settings in tasks.items()},
        "thresholds": thresholds,
    }
    return Policy.model_validate(merged)


def _card(layers: Iterable[CardSettings]) -> CardSettings:
    """Settings of a model card from the general to the particular: a licence takes its name and link along."""
    merged: dict[str, Any] = {}
    for layer in layers:
        given = layer.model_dump(exclude_unset=True)
        if "license" in given:
            merged |= {"license_name": None, "license_link": None}
        given["tags"] = [*merged.get("tags", []), *given.get("tags", [])]
        merged |= given
    return CardSettings(**merged)


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
    if settings["hub"]:
        try:
            check_repository(settings["hub"])
        except ValueError as error:
            raise UnusableInput(str(error)) from None
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
    if not isinstance(releases, list):
        return sound, []
    kept = [i for i in range(len(releases)) if i not in dropped]
    if kept:
        sound["releases"] = [releases[i] for i in kept]
    return sound, kept


def _unusable(mistakes: _Mistakes) -> UnusableInput:
    count = len(mistakes.sentences)
    lines = "\n".join(f"  {sentence}" for sentence in mistakes.sentences)
    return UnusableInput(f"the configuration has {count} mistake{'s' * (count > 1)}; nothing was started:\n{lines}")


def resolution_warnings(plan: Plan, release: PlannedRelease) -> list[dict[str, str]]:
    """{task, sentence} of all that the declared samples cannot decide by the release's criterion."""
    tasks, policy = plan.suites[release.suite].tasks, release.policy
    confidence = shared_confidence(policy.decisions)
    warnings: list[dict[str, str]] = []
    planned: list[PlannedTask] = []
    for task, settings in tasks.items():
        count = len(declared_documents(settings.model_dump()))
        if (settings.samples is None and settings.limit is None) or not policy.blocks(task):
            continue
        scale = Scale(**settings.scale.model_dump())
        # A relative limit is largest, and easiest to resolve, at the largest score.
        limit = policy.limit(task, max(abs(scale.min), abs(scale.max)), scale)
        rate = policy.expected_disagreement_rate
        planned.append(PlannedTask(task, count, settings.repeats, limit / scale.width))
        if policy.criterion == "suite":
            continue
        sentence = planning_warning(count, limit, scale.width, rate, settings.repeats, confidence)
        if sentence:
            warnings.append({"task": task, "sentence": f"{task}: {sentence}."})
    if policy.criterion == "suite":
        found = suite_warnings(planned, policy.expected_disagreement_rate, confidence)
        warnings += [{"task": name, "sentence": f"{name}: {sentence}."} for name, sentence in found]
    return warnings


def read_published_scores(
    plan: Plan, root: Path = Path(), project: Path | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Published scores of each model of the plan, by its name or its hub repository; a later file's take precedence.

    Args:
        plan: whose configuration names the files.
        root, project: where they are looked for, as by :func:`make_plan`.

    Raises:
        UnusableInput: a file is not there or holds mistakes; all of them are in the message.
    """
    named = plan.config.external_scores
    merged = ExternalScores()
    for name in [named] if isinstance(named, str) else named or []:
        try:
            content = read_yaml(root / name if (root / name).exists() else (project or root) / name)
        except UnusableInput as error:
            raise UnusableInput(f"external_scores: {error}; give another file, or null for none") from error
        merged = merged.replaced_by(parse_external_scores(content, name))
    return {model: merged.of_model(model, settings.hub) for model, settings in plan.config.models.items()}
