"""The walls between the packages of scripts/day0: who makes an artefact imports nothing of who judges or shows it."""

import ast
from pathlib import Path

import pytest

from day0.base.closure import get_sources, local_imports

SCRIPTS = Path(__file__).parents[2] / "scripts"
PACKAGES = {init.parent.name for init in (SCRIPTS / "day0").glob("*/__init__.py")}

# What each package may import, besides itself.
MAY_IMPORT = {
    "base": set(),
    "records": {"base"},
    "statistics": {"base", "records"},
    "source": {"base", "records"},
    "recipe": {"base", "records"},
    "suite": {"base", "records"},
    "cluster": {"base", "records"},
    "serving": {"base", "records", "source"},
    "evaluation": {"base", "records", "source", "suite", "serving", "statistics"},
    "checkpoint": {"base", "records", "source", "recipe"},
    "decision": {"base", "records", "statistics", "source", "suite", "evaluation"},
    "search": {"base", "records", "statistics", "source", "recipe", "checkpoint", "decision"},
    "release": {"base", "records", "decision"},
    "plan": {
        "base",
        "records",
        "source",
        "recipe",
        "suite",
        "serving",
        "statistics",
        "checkpoint",
        "decision",
        "search",
    },
}
MAKERS = {"base", "records", "source", "recipe", "suite", "serving", "evaluation", "statistics"}
# What stops a run early is an ingredient of the run; the other statistics judge it.
STATISTICS_OF_MAKERS = {"sequential.py"}

# What the closure of each stage's script may reach.
STAGES = {
    "build_environment.py": {"base", "records"},
    "wrap_image.py": {"base", "records", "serving"},
    "make_demo_data.py": {"base"},
    "make_demo_model.py": {"base"},
    "describe_source.py": {"base", "records", "source"},
    "quantize.py": {"base", "records", "source", "recipe"},
    "measure_sensitivity.py": {"base", "records", "source", "recipe"},
    "import_checkpoint.py": {"base", "records", "source"},
    "evaluate.py": MAKERS - {"recipe"},
    "harness_lm_eval.py": set(),
    "harness_nemo_evaluator.py": MAKERS - {"recipe"},
    "merge_shards.py": MAKERS - {"recipe"},
    "import_run.py": MAKERS - {"recipe"},
    "gate_ptq.py": {"base", "records", "source", "recipe", "checkpoint"},
    "gate_run.py": (MAKERS - {"recipe"}) | {"decision", "statistics"},
    "gate_compare.py": (MAKERS - {"recipe"}) | {"decision", "statistics"},
    "gate.py": {"base", "records"},
    "preflight.py": PACKAGES - {"release", "cluster", "evaluation", "decision", "statistics", "search"},
}


def packages_of(sources):
    """Packages of day0 among the files of a closure."""
    return {part for source in sources if (part := Path(source).parent.name) in PACKAGES}


def imported_packages(module, scripts=SCRIPTS):
    """Packages of day0 that a module imports itself."""
    return packages_of(path for path in local_imports(module, scripts) if path.name != "__init__.py")


def test_every_package_has_its_walls():
    assert MAY_IMPORT.keys() == PACKAGES


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_only_what_it_may(package):
    wrong = {
        f"{module.relative_to(SCRIPTS)} imports {', '.join(sorted(forbidden))}"
        for module in (SCRIPTS / "day0" / package).glob("*.py")
        if (forbidden := imported_packages(module) - MAY_IMPORT[package] - {package})
    }
    assert not wrong


def test_packages_form_no_circle():
    done, left = set(), dict(MAY_IMPORT)
    while left:
        free = {package for package, below in left.items() if below <= done}
        assert free, f"these import each other: {sorted(left)}"
        done |= free
        left = {package: below for package, below in left.items() if package not in free}


@pytest.mark.parametrize("script", sorted(STAGES))
def test_the_closure_of_a_stage_stays_within_its_walls(script):
    reached = packages_of(get_sources(SCRIPTS / script))
    assert reached <= STAGES[script], f"{script} reaches {sorted(reached - STAGES[script])}"


MAKING = [
    "quantize.py",
    "measure_sensitivity.py",
    "import_checkpoint.py",
    "evaluate.py",
    "merge_shards.py",
    "describe_source.py",
]


@pytest.mark.parametrize("script", MAKING)
def test_what_makes_an_artefact_reaches_nothing_that_judges_or_shows_it(script):
    judges = {"decision", "release", "checkpoint", "plan", "cluster"}
    sources = get_sources(SCRIPTS / script)
    assert not packages_of(sources) & judges
    statistics = {Path(source).name for source in sources if Path(source).parent.name == "statistics"}
    assert statistics - {"__init__.py"} <= STATISTICS_OF_MAKERS


def test_the_inits_of_packages_hold_a_docstring_and_nothing_else():
    """A name that is handed on there would pull its module into every closure."""
    for init in [SCRIPTS / "day0" / "__init__.py", *(SCRIPTS / "day0").glob("*/__init__.py")]:
        body = ast.parse(init.read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr) and ast.get_docstring(ast.parse(init.read_text())), init


def test_a_forbidden_import_is_found(tmp_path):
    """The walls can fail: a module of evaluation that imports a judge, within a function and by another module."""
    for name in ("evaluation", "decision", "suite"):
        (tmp_path / "day0" / name).mkdir(parents=True)
        (tmp_path / "day0" / name / "__init__.py").write_text("")
    (tmp_path / "day0" / "__init__.py").write_text("")
    (tmp_path / "day0" / "decision" / "policy.py").write_text("")
    (tmp_path / "day0" / "suite" / "names.py").write_text("import day0.decision.policy")
    stage = tmp_path / "day0" / "evaluation" / "stage.py"
    stage.write_text("def late():\n    from day0.decision import policy\n    return policy\n")
    assert imported_packages(stage, tmp_path) == {"decision"}
    relative = tmp_path / "day0" / "evaluation" / "relative.py"
    relative.write_text("from ..suite import names\n")
    assert imported_packages(relative, tmp_path) == {"suite"}
    script = tmp_path / "evaluate.py"
    script.write_text("from day0.evaluation import relative\n")
    assert "decision" in packages_of(get_sources(script))


@pytest.mark.parametrize("script", ["decide.py", "gate.py", "gate_ptq.py", "gate_run.py", "summarize.py", "search.py"])
def test_what_computes_no_interval_does_not_import_scipy(script):
    """Its import takes longer than such a stage."""
    assert not [path for path in get_sources(SCRIPTS / script) if "\nfrom scipy" in Path(path).read_text()]
