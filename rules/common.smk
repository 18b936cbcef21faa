# Lookups of all rules: the plan, the code of scripts, the releases, and whether an assessment lets the graph go on.
# Those of one stage are in lookups/. Rules declare dependencies; decisions are made in scripts/day0.
import functools
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError

# The folder of the project: snakemake may run elsewhere, or another workflow may use this one as a module.
PROJECT = Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent
if not PROJECT.is_dir():
    raise WorkflowError(
        f"found {PROJECT}; expected a folder of this machine, for the stages run scripts of it: clone the project, and "
        "give the path of its Snakefile"
    )
if workflow.modifier.modify_path("results") != "results":
    raise WorkflowError(
        "prefix of a module: the stages read their paths as they are; give the run a --directory instead"
    )
IS_IN_PLACE = PROJECT.resolve() == Path.cwd()
IS_MODULE = not workflow.modifier.is_main_snakefile()
SCRIPTS = PROJECT / "scripts"
sys.path.insert(0, str(SCRIPTS))

from day0.base.artefacts import digest_of
from day0.base.cli import UnusableInput
from day0.base.closure import CannotFollow, code_digest, remember_in, save_memory
from day0.plan.check import check_configuration_file, make_plan, read_published_scores, resolution_warnings
from day0.plan.needed_secrets import unneeded_secrets
from day0.plan.plan import BASELINE, PlannedSearch
from day0.records.assessment import AnyAssessment
from day0.serving.multinode import JOB_ID_VARIABLE
from day0.suite.content import suite_digest
from day0.suite.harness import HARNESSES, harnesses_of
from driver.owners import VARIABLE as DRIVER_VARIABLE, this_process

# Models, questions and calibration texts that rules make; what lies below need not exist when a plan is read.
MADE_BY_RULES = ("results/demo", "results/examples")
DEMO_MODEL = "results/demo/model"
EXAMPLE_MODEL = "results/examples/smollm2/model"
# Bytes of their weights, by which jobs are planned before they are made.
WEIGHTS_OF_RULES = {DEMO_MODEL: 1_004_360, EXAMPLE_MODEL: 269_060_552}

HAS_GPU = shutil.which("nvidia-smi") is not None

try:
    for file in workflow.configfiles:
        check_configuration_file(file)
    PLAN = make_plan(
        config,
        is_produced=lambda path: any(map(Path(path).is_relative_to, MADE_BY_RULES)),
        project=PROJECT,
        has_gpu=HAS_GPU,
    )
    PUBLISHED_SCORES = read_published_scores(PLAN, project=PROJECT)
    SUITE_DIGESTS = {name: suite_digest(suite) for name, suite in PLAN.suites.items()}
except UnusableInput as error:
    # Not as an exception: Snakemake would add the line of this file, where the mistake is not.
    sys.exit(f"error: {error}")


def get_variant():
    """Variant of the stage environments: what the configuration asks for, else cuda where an NVIDIA GPU is found."""
    if PLAN.config.accelerator != "auto":
        return PLAN.config.accelerator
    return "cuda" if HAS_GPU else "cpu"


VARIANT = get_variant()


def warn_of_resolution(workflow):
    """Say on standard error which tasks cannot resolve their thresholds: once, where a plan is read or a run starts."""
    if workflow.is_main_process:
        for target in PLAN.targets:
            release = target.without_winner() if isinstance(target, PlannedSearch) else target
            for warning in resolution_warnings(PLAN, release):
                print(f"warning: {release.model} {release.name}: {warning['sentence']}", file=sys.stderr)


warn_of_resolution(workflow)


def get_own(path):
    """A file of the project, as it is named from where snakemake runs: in the project's folder by its path there."""
    return path if IS_IN_PLACE else str(PROJECT / path)


def get_suite_file(suite):
    """The file of a suite: of the folder where snakemake runs, else of the project."""
    path = f"config/suites/{suite}.yaml"
    return path if Path(path).is_file() else get_own(path)


# How commands name them. Elsewhere a suite's file is looked for by the job, since a rule has one text for all suites;
# in place the text is the plain path, for a changed text would run every stage again.
OWN_SCRIPTS = shlex.quote(get_own("scripts")).replace("{", "{{").replace("}", "}}")
SUITE_FILE = "config/suites/{wildcards.suite:q}.yaml"
if not IS_IN_PLACE:
    SUITE_FILE = f'"$(find_file {SUITE_FILE})"'
FIND_FILE = f'find_file() {{ [ -e "$1" ] && echo "$1" || echo {shlex.quote(str(PROJECT))}/"$1"; }}; '

# `python` in every rule is the driver's, whether or not .venv is activated; uncompiled imports would cost seconds a job,
# and threads that spin while they wait would stall the jobs beside them.
shell.executable("bash")
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class shell(shell):
    """The shell of these rules, whose prefix no rule of another workflow gets that uses them as a module."""


# A prefix of our own replaces Snakemake's, without which a failure before a pipe would count as success. A stage is one
# process of its own: what srun, mpirun or torchrun leave behind would make torch wait for other ranks. It bears the name
# of its driver, so that it is found and ended where that was killed, and is given no secret that no stage needs.
shell.prefix(
    f"set -euo pipefail; export {JOB_ID_VARIABLE}=${{{{SLURM_JOB_ID-}}}} {DRIVER_VARIABLE}='{this_process()}';"
    f" unset -v {' '.join(unneeded_secrets(PLAN, os.environ))};"
    " unset ${{!SLURM_@}} ${{!PMI_@}} ${{!PMIX_@}} ${{!OMPI_@}} ${{!TORCHELASTIC_@}} RANK LOCAL_RANK GROUP_RANK NODE_RANK"
    " WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT; "
    + ("" if IS_IN_PLACE else FIND_FILE.replace("{", "{{").replace("}", "}}"))
)


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    candidate="[A-Za-z0-9][A-Za-z0-9._-]*",
    recipe=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    release=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    suite="[A-Za-z0-9][A-Za-z0-9._-]*",
    shard="[A-Za-z0-9][A-Za-z0-9._-]*",
    environment="[a-z-]+([.](cpu|cuda))?",


# Parsing every script takes seconds; what was found is kept by the content of the files.
remember_in(Path(".snakemake/code_digests.json"))


@functools.cache
def get_code(*names):
    """Digest of what scripts and all that they import mean, for a rule's params: only meaning triggers a rerun."""
    try:
        return code_digest(*(SCRIPTS / name for name in names))
    except (CannotFollow, OSError, SyntaxError) as error:
        raise WorkflowError(
            f"{error}; the scripts must be whole, so that a change of them redoes what it touches"
        ) from None


def get_text(settings):
    """Settings as one line of JSON with sorted keys: Snakemake compares params as text."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def get_harnesses(suite):
    """Names of the harnesses that a suite's tasks need."""
    return harnesses_of(task.model_dump() for task in PLAN.suites[suite].tasks.values())


def get_releases(pattern):
    """A path per release that the configuration lists, for the targets."""
    return [pattern.format(model=target.model, release=target.name, suite=target.suite) for target in PLAN.targets]


def get_candidates(pattern):
    """A path per candidate, for the targets: of a release its own, of a search all of its space."""
    paths = []
    for target in PLAN.targets:
        candidates = target.recipes if isinstance(target, PlannedSearch) else [target.candidate]
        paths += [pattern.format(model=target.model, recipe=name, suite=target.suite) for name in candidates]
    return list(dict.fromkeys(paths))


def get_release(wildcards):
    """The planned release of a decision's folder; of a search the one that its winner became, or one without a recipe.

    Raises:
        IncompleteCheckpointException: the search has not ended.
    """
    search = PLAN.search(wildcards.model, wildcards.release)
    if search is None:
        return PLAN.release(wildcards.model, wildcards.release)
    winner = get_ended_search(search).winner
    return search.without_winner() if winner is None else search.won_by(winner)


def get_target(wildcards):
    """What the configuration lists by the name of a decision's folder; None of a search's candidate."""
    named = (wildcards.model, wildcards.release)
    return next((target for target in PLAN.targets if (target.model, target.name) == named), None)


def get_definition(model=None, recipe=None, candidate=None, suite=None, subject=None):
    """Digest of what an assessment with these wildcards is about; see Plan.definition_digest."""
    if subject is not None:
        return digest_of(get_preflight_request(subject))
    return PLAN.definition_digest(model, recipe or candidate or BASELINE, suite)


def read_assessment(path):
    """An assessment of whichever kind; None where there is none that can be read."""
    try:
        return AnyAssessment.read(path)
    except UnusableInput:
        return None


def assessment_passed(checkpoint, **wildcards):
    """Whether an assessment lets the graph go on. Unknown counts as passed, so that a plan shows the whole way.

    Only a failure on disk that still describes what would be assessed now stops the plan there until it is redone.
    """
    try:
        path = checkpoint.get(**wildcards).output[0]
    except IncompleteCheckpointException:
        recorded = read_assessment(checkpoint.rule.expand_output(wildcards)[0][0])
        if recorded is None or recorded.passed or recorded.definition_digest != get_definition(**wildcards):
            return True
        raise
    recorded = read_assessment(path)
    return recorded is not None and recorded.passed
