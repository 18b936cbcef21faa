"""A search in the configuration: what it is planned as, its mistakes, and what a plan says of it."""

import copy
from pathlib import Path

import pytest
import yaml
from tests.unit.decision_input import run
from tests.unit.search.test_next_search import lost as after_a_loss

from day0.base.cli import UnusableInput
from day0.plan.check import make_plan
from day0.plan.search import Hours, announcement, is_base, planned_samples, search_hours
from day0.search.next_search import next_search

ROOT = Path(__file__).parents[3]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
DEFAULT |= {
    "defaults": {"suite": "demo", "expected_disagreement_rate": 0.01},
    "releases": [{"model": "tiny-llama", "recipe": "fp8"}],
}
SEARCH = {"objective": "throughput", "space": ["nvfp4", "fp8", "int8"]}
SCREEN = {"suite": "demo-screening", "margin": 0.5}


def plan(*releases, **changes):
    raw = copy.deepcopy(DEFAULT)
    raw["defaults"].update(changes.pop("defaults", {"suite": "demo-deciding"}))
    raw |= changes | {"releases": list(releases)}
    return make_plan(raw, is_produced=lambda path: path.startswith("results/demo"), root=ROOT)


def release(name="smallest", search=None, **changes):
    return {"model": "tiny-llama", "name": name, "search": SEARCH | (search or {})} | changes


def mistakes(*releases, **changes):
    with pytest.raises(UnusableInput) as caught:
        plan(*releases, **changes)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_a_search_is_planned_as_ordinary_releases_of_its_candidates():
    made = plan(release(search={"screen": SCREEN}, early_stopping="both"), {"model": "tiny-llama", "recipe": "fp8"})
    (search,) = made.searches
    assert [target.name for target in made.targets] == ["smallest", "fp8"]
    assert [(one.name, one.candidate, one.suite) for one in made.releases] == [
        *[
            (f"smallest.{kind}.{name}", name, f"demo-{suite}")
            for name in ("nvfp4", "fp8", "int8")
            for kind, suite in (("screen", "screening"), ("final", "deciding"))
        ],
        ("fp8", "fp8", "demo-deciding"),
    ]
    screening, final = (made.release("tiny-llama", f"smallest.{kind}.fp8").policy for kind in ("screen", "final"))
    assert (screening.threshold, screening.early_stopping, screening.decisions) == (0.005, "both", 1)
    # A finalist is a release where it is accepted, which states the scores of all samples.
    assert (final.threshold, final.early_stopping, final.decisions) == (0.01, "reject", 3)
    assert made.release("tiny-llama", "fp8").policy.decisions == 1
    won = search.won_by("fp8")
    assert (won.name, won.candidate, won.policy) == ("smallest", "fp8", final)
    assert made.search("tiny-llama", "fp8") is None and search.budget.screened


def test_limits_of_tiers_and_tasks_shrink_with_the_margin():
    limits = {"tiers": {"critical": 0.02}, "tasks": {"sorting": 0.04}}
    made = plan(release(search={"screen": SCREEN}, thresholds=limits, require={"addition": "proven"}))
    screening = made.release("tiny-llama", "smallest.screen.fp8").policy
    assert screening.thresholds.as_plain() == {"tiers": {"critical": 0.01}, "tasks": {"sorting": 0.02}}
    assert screening.require == {} and made.searches[0].policy.require == {"addition": "proven"}


@pytest.mark.parametrize(
    ("made", "changes", "quoted"),
    [
        (release(search={"objective": "speed"}), {}, "releases[0].search.objective: found 'speed'"),
        (release(search={"space": "compute2"}), {}, "releases[0].search.space: found 'compute2'"),
        (release(search={"space": ["nvfp4", "fp9"]}), {}, "releases[0].search.space: unknown recipe 'fp9'"),
        (release(search={"space": []}), {}, "releases[0].search.space.moves: "),
        (release(search={"space": ["fp8", "fp8"]}), {}, "releases[0].search.space: moves: fp8 stand there twice"),
        (release(search={"space": [{"recipe": {"preset": "fp8"}}]}), {}, "releases[0].search.space.moves[0]: name: "),
        (release(search={"scren": SCREEN}), {}, "releases[0].search.scren: unknown key; allowed here: budget"),
        (release(search={"screen": {"suite": "quik"}}), {}, "releases[0].search.screen.suite: unknown suite 'quik'"),
        (
            release(search={"screen": {"suite": "demo-deciding"}}),
            {},
            "releases[0].search.screen.suite: 'demo-deciding' is the deciding suite; samples that chose",
        ),
        (
            release(search={"screen": {"suite": "demo-screening"}}, suite="demo"),
            {},
            "releases[0].search.screen.suite: task addition: documents 0 to 299 of demo_addition are asked by suite",
        ),
        (release(search={"screen": SCREEN | {"margin": 0}}), {}, "releases[0].search.screen.margin: found 0"),
        (release(search={"budget": {"decisions": 0}}), {}, "releases[0].search.budget.decisions: found 0"),
        (
            release(search={"budget": {"decisions": 9}}),
            {},
            "releases[0].search.budget.decisions: found 9, more than the 8 candidates",
        ),
        (
            release(search={"budget": {"rungs": 1}, "screen": SCREEN}),
            {},
            "releases[0].search.budget.rungs: found 1; a rung that screens needs one that decides",
        ),
        (release(criterion="point"), {}, "releases[0].criterion: 'point' accepts the best of several candidates"),
        (
            release(),
            {"defaults": {"suite": "demo-deciding", "criterion": "point"}},
            "releases[0].criterion: 'point' accepts the best of several candidates by chance",
        ),
        (release(recipe="fp8"), {}, "releases[0]: give exactly one of 'recipe' and 'search'"),
        (release(name=None), {}, "releases[0]: a search has no recipe to be named after; give a 'name'"),
        (release(checkpoint="x"), {}, "releases[0]: a search makes and evaluates its candidates itself; remove 'check"),
        (release(candidate_run="x"), {}, "releases[0]: a search makes and evaluates its candidates itself; remove 'ca"),
        (release(name="fp8"), {}, "release 'fp8': the name is the folder of another recipe"),
        (release(name="baseline"), {}, "releases[0].name: 'baseline' is the folder of the baseline"),
        (
            release(publish={"folder": "results/published"}),
            {},
            "release 'smallest': publish: folder results/published: ",
        ),
        (release(model="tiny-lama"), {}, "releases[0].model: unknown model 'tiny-lama'"),
        (
            release(search={"space": ["fp8", {"name": "baseline", "recipe": {"preset": "int8"}}]}),
            {},
            "releases[0].name: 'baseline' is the folder of the baseline",
        ),
    ],
)
def test_a_mistake_is_found_before_anything_starts(made, changes, quoted):
    found = mistakes(made, **changes)
    assert [line for line in found if line.startswith(quoted)], found


def test_names_that_collide_are_found():
    final = {"model": "tiny-llama", "recipe": "nvfp4", "name": "smallest.final.fp8"}
    assert "release 'smallest.final.fp8': search 'smallest' decides on a candidate under this name" in "".join(
        mistakes(release(), final)
    )
    again = mistakes(release(), release())
    assert again == [
        "releases[1].name: model 'tiny-llama' has a release 'smallest' already, at releases[0]; give one a 'name'"
    ]
    other = release("other", {"space": [{"name": "mine", "recipe": {"preset": "int8"}}]})
    found = mistakes(release(search={"space": [{"name": "mine", "recipe": {"preset": "fp8"}}]}), other)
    assert any("the name is the folder of another recipe" in line for line in found), found


def test_all_mistakes_of_a_search_are_reported_at_once():
    wrong = {"objective": "speed", "space": ["fp9"], "screen": {"suite": "quik"}, "budget": {"rungs": 0}}
    found = "\n".join(mistakes(release(search=wrong)))
    assert "search.objective" in found and "search.budget.rungs" in found


@pytest.mark.parametrize("part", ["space", "criterion", "thresholds", "budget", "screen"])
def test_what_changes_a_search_makes_its_rungs_unknown(part):
    changed = {
        "space": release(search={"space": ["nvfp4", "fp8"]}),
        "criterion": release(criterion="confident"),
        "thresholds": release(threshold=0.02),
        "budget": release(search={"budget": {"parallel": 3}}),
        "screen": release(search={"screen": SCREEN}),
    }
    one, other = plan(release()), plan(changed[part])
    assert one.search_digest(one.searches[0]) == one.search_digest(plan(release()).searches[0])
    assert one.search_digest(one.searches[0]) != other.search_digest(other.searches[0])


def test_a_plan_says_what_it_cannot_show():
    made = plan(release(search={"screen": SCREEN, "budget": {"candidates": 2, "decisions": 1}}))
    samples = {name: planned_samples(suite) for name, suite in made.suites.items()}
    first, second, third = announcement(made.searches[0], samples, Hours(3.14159, 20.0))
    assert first == "search smallest of tiny-llama: 3 candidates: nvfp4, fp8, int8"
    assert "at most 2 are quantized and screened by demo-screening (900 samples), and at most 1 decided on" in second
    assert "by demo-deciding (2,100 samples)" in second and "about 3.14 GPU hours at most" in third
    assert len(list(announcement(made.searches[0], samples, None))) == 2


def test_gpu_hours_are_those_of_the_dearest_candidates():
    made = plan(release(search={"screen": SCREEN, "budget": {"candidates": 2, "decisions": 1}}))
    each = {"nvfp4": 1.0, "fp8": 2.0, "int8": 4.0, "baseline": 10.0}
    found = search_hours(
        made.searches[0], lambda name, suite="": each[name] * {"": 1, "demo-screening": 2}.get(suite, 3)
    )
    # Two quantized and screened, one decided on, and the baseline on both suites.
    assert found.at_most == 6 + 12 + 12 + 50
    assert found.full == 7 + 21 + 3 * 30


def test_the_search_that_a_regression_names_can_be_planned():
    """Its recipes are those that the configuration takes, whatever the recipe that lost."""
    families = {"MLP": (4, 4.5), "attention": (4, 4.5), "lm_head": (4, 8.0)}
    request, verdict, validation = after_a_loss(run(1900, 2000), run(1800, 2000), families)
    request = request.model_copy(update={"model": "tiny-llama", "candidate": "nvfp4"})
    made = plan(*next_search(request, verdict, validation).configuration["releases"])
    space = ["nvfp4", "nvfp4-attention-fp8", "nvfp4-mlp-fp8", "nvfp4-4-groups-fp8", "fp8"]
    assert list(made.searches[0].recipes) == space
    plain, fixed = plan({"model": "tiny-llama", "recipe": "fp8"}), made.searches[0].recipes
    assert is_base(plain.releases[0].recipe) and not is_base(fixed["nvfp4-mlp-fp8"])
