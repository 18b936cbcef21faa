"""A configuration's mistakes are all found at once, each with its place, what was found and what is allowed."""

import copy
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from day0.base.cli import UnusableInput
from day0.plan.check import make_plan
from day0.plan.config import Config
from day0.plan.plan import Plan
from day0.recipe.recipes import Calibration
from day0.records.policy import Policy

ROOT = Path(__file__).parents[3]
DEFAULTS = {"suite": "demo", "expected_disagreement_rate": 0.01}
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
DEFAULT |= {"defaults": DEFAULTS, "releases": [{"model": "tiny-llama", "recipe": "fp8"}]}


def plan(raw, produced=True) -> Plan:
    return make_plan(raw, is_produced=lambda path: produced and path.startswith("results/demo"), root=ROOT)


def changed(**changes):
    return copy.deepcopy(DEFAULT) | changes


def calibrated_by(**settings):
    model = DEFAULT["models"]["tiny-llama"]
    return {"tiny-llama": model | {"calibration": model["calibration"] | settings}}


def mistakes(raw, produced=True):
    with pytest.raises(UnusableInput) as caught:
        plan(raw, produced)
    head, *lines = str(caught.value).splitlines()
    assert f"{len(lines)} mistake" in head and "nothing was started" in head
    return [line.strip() for line in lines]


def test_default_configuration_plans_one_accepting_release():
    (release,) = plan(DEFAULT).releases
    assert (release.model, release.name, release.suite) == ("tiny-llama", "fp8", "demo")
    assert release.policy.as_plain() == {
        "threshold": 0.01,
        "thresholds": {"tiers": {}, "tasks": {}},
        "relative": False,
        "require_fingerprints": True,
        "max_relative_drop": None,
        "relative_guard_below": None,
        "max_token_growth": None,
        "min_speedup": None,
        "tiers": {"addition": "critical", "reversal": "critical", "sorting": "supporting"},
        "criterion": "suite",
        "require": {},
        "early_stopping": "reject",
        "expected_disagreement_rate": 0.01,
        "scales": {},
        "decisions": 1,
    }


def test_a_release_lays_its_card_over_that_of_its_model():
    raw = changed(card={"tags": ["a"], "license": "other", "license_name": "n", "quantized_by": "team"})
    raw["models"]["tiny-llama"]["card"] = {"base_model": "org/origin", "license": "mit", "tags": ["b"]}
    raw["releases"][0]["card"] = {"tags": ["c"], "quantized_by": "me"}
    (release,) = plan(raw).releases
    given = {key: value for key, value in release.card.as_plain().items() if value}
    assert given == {"base_model": "org/origin", "license": "mit", "tags": ["a", "b", "c"], "quantized_by": "me"}


@pytest.mark.parametrize(
    ("card", "place", "words"),
    [
        ({"template": "none.jinja"}, "releases[0].card", "template: found no file none.jinja"),
        ({"license": "other"}, "card", "'other' needs a license_name"),
        ({"license_link": "LICENSE"}, "card", "need a license; give license: other"),
        ({"base_model": "nothing"}, "card.base_model", "nothing"),
        ({"tag": ["x"]}, "card", "tag"),
    ],
)
def test_mistakes_in_the_card_are_found_at_planning(card, place, words):
    (line,) = mistakes(changed(card=card))
    assert line.startswith(place) and words in line, line


@pytest.mark.parametrize("written", ["off", '"off"', "Off"])
def test_early_stopping_is_switched_off_by_the_word_that_yaml_reads_as_false(written):
    raw = DEFAULT | {"defaults": DEFAULTS | yaml.safe_load(f"early_stopping: {written}")}
    assert [release.policy.early_stopping for release in plan(raw).releases] == ["off"]


@pytest.mark.parametrize("written", ["on", "true", "0", "accept"])
def test_early_stopping_takes_nothing_else_for_off(written):
    (line,) = mistakes(DEFAULT | {"defaults": DEFAULTS | yaml.safe_load(f"early_stopping: {written}")})
    assert "defaults.early_stopping" in line and "'off', 'reject' or 'both'" in line


def test_a_users_model_inherits_nothing_of_the_embedded_one(tmp_path):
    """As --configfile lays a user's file over config/config.yaml."""
    model = {"hub": "org/model", "revision": "0" * 40}
    merged = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    merged["models"]["own"], merged["releases"] = model, [{"model": "own", "recipe": "fp8", "suite": "standard"}]
    made = plan(merged)
    alone = plan({"models": {"own": model}, "releases": merged["releases"]})
    assert made.releases == alone.releases
    assert made.calibration("own", "fp8") == alone.calibration("own", "fp8") == Calibration().model_dump(mode="json")
    del merged["releases"][0]["suite"]
    (line,) = mistakes(merged)
    assert line.startswith("releases[0].suite: names no suite; give one here or under 'defaults'; there are ")
    assert "standard" in line


def test_a_release_lays_its_policy_over_the_defaults():
    defaults = {
        "suite": "demo",
        "criterion": "confident",
        "tiers": {"sorting": "advisory"},
        "thresholds": {"tiers": {"critical": 0.02}, "tasks": {"addition": 0.03}},
        "max_relative_drop": 0.1,
    }
    own = {
        "tiers": {"reversal": "advisory"},
        "thresholds": {"tasks": {"addition": 0.04, "sorting": 0.05}},
        "criterion": "point",
        "relative_guard_below": 0.2,
    }
    releases = [{"model": "tiny-llama", "recipe": "fp8", **own}, {"model": "tiny-llama", "recipe": "nvfp4"}]
    first, second = (
        release.policy.as_plain() for release in plan(changed(defaults=defaults, releases=releases)).releases
    )
    assert first["tiers"] == {"addition": "critical", "reversal": "advisory", "sorting": "advisory"}
    assert first["thresholds"] == {"tiers": {"critical": 0.02}, "tasks": {"addition": 0.04, "sorting": 0.05}}
    assert (first["criterion"], first["max_relative_drop"], first["relative_guard_below"]) == ("point", 0.1, 0.2)
    assert (second["criterion"], second["relative_guard_below"]) == ("confident", None)
    assert Policy.model_validate(first) and Policy.model_validate(second)


@pytest.mark.parametrize(
    ("defaults", "release", "quoted"),
    [
        ({"tiers": {"adition": "critical"}}, {}, "defaults.tiers.adition: unknown task; suite demo has addition"),
        ({}, {"tiers": {"adition": "critical"}}, "releases[0].tiers.adition: unknown task; suite demo has addition"),
        ({}, {"thresholds": {"tasks": {"sort": 0.1}}}, "releases[0].thresholds.tasks.sort: unknown task"),
        ({"thresholds": {"tasks": {"sort": 0.1}}}, {}, "defaults.thresholds.tasks.sort: unknown task"),
        ({"thresholds": {"sorting": 0.1}}, {}, "defaults.thresholds.sorting: unknown key; allowed here: tasks, tiers"),
        ({"thresholds": {"tasks": {"sorting": 2}}}, {}, "defaults.thresholds.tasks.sorting: found 2"),
        ({}, {"tiers": {"sorting": "minor"}}, "releases[0].tiers.sorting: found 'minor'"),
        (
            {"criterion": "sure"},
            {},
            "defaults.criterion: found 'sure'; input should be 'suite', 'point' or 'confident'",
        ),
        ({"max_relative_drop": 1}, {}, "defaults.max_relative_drop: found 1"),
        (
            {},
            {"relative_guard_below": 0.2},
            "releases[0].relative_guard_below: found 0.2; guards nothing without max_relative_drop",
        ),
        ({}, {"relative_guard_below": 0}, "releases[0].relative_guard_below: found 0"),
        ({"expected_disagreement_rate": 0}, {}, "defaults.expected_disagreement_rate: found 0"),
        ({"max_token_growth": 20}, {}, "defaults.max_token_growth: found 20"),  # percent
        ({}, {"max_token_growth": -0.1}, "releases[0].max_token_growth: found -0.1"),
        ({}, {"max_token_growth": "20 %"}, "releases[0].max_token_growth: found '20 %'"),
        ({}, {"max_token_growth": True}, "releases[0].max_token_growth: found True"),
        ({}, {"max_token_growth": math.nan}, "releases[0].max_token_growth: found nan"),
        ({"min_speedup": 0}, {}, "defaults.min_speedup: found 0"),
        ({}, {"min_speedup": 150}, "releases[0].min_speedup: found 150"),  # percent
        ({}, {"min_speedup": "1.2x"}, "releases[0].min_speedup: found '1.2x'"),
        ({}, {"min_speedup": 1.2}, "release 'fp8': min_speedup: found 1.2, but models.tiny-llama sets no 'speed'"),
        (
            {"tiers": dict.fromkeys(("addition", "reversal", "sorting"), "advisory")},
            {},
            "releases[0].tiers: every task is advisory",
        ),
    ],
)
def test_a_wrong_policy_is_named_with_its_place(defaults, release, quoted):
    releases = [{"model": "tiny-llama", "recipe": "fp8", **release}]
    (line,) = mistakes(changed(defaults={"suite": "demo", **defaults}, releases=releases))
    assert line.startswith(quoted)


def test_every_mistake_is_reported_at_once_with_its_place():
    raw = changed(
        treshold=0.01,
        defaults={"suite": "demo", "threshold": math.nan},
        releases=[
            {"model": "tiny-llama", "recipe": "pf8"},
            {"model": "tinny-llama", "recipe": "fp8", "threshold": -1},
            {"model": "tiny-llama", "recipe": "nvfp4", "suite": "dmeo"},
            {"model": "tiny-llama"},
        ],
    )
    found = mistakes(raw)
    for place, words in [
        ("treshold:", "unknown key; allowed here: accelerator"),
        ("defaults.threshold:", "nan"),
        ("releases[0].recipe:", "did you mean fp8"),
        ("releases[1].model:", "unknown model 'tinny-llama'; 'models' has tiny-llama; did you mean tiny-llama?"),
        ("releases[1].threshold:", "found -1"),
        ("releases[2].suite:", "unknown suite 'dmeo'"),
        ("releases[3]:", "give exactly one of 'recipe' and 'search'"),
    ]:
        assert [line for line in found if line.startswith(place) and words in line], (place, found)
    assert len(found) == 7


def test_a_mistake_that_two_releases_share_is_reported_once():
    releases = [{"model": "tiny-llama", "recipe": recipe} for recipe in ("fp8", "nvfp4")]
    (line,) = mistakes(changed(defaults={"suite": "none"}, releases=releases))
    assert line.startswith("defaults.suite: unknown suite 'none'")


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -0.01, 1.5, "much", True])
def test_threshold_must_be_a_fraction(threshold):
    (line,) = mistakes(changed(defaults={"suite": "demo", "threshold": threshold}))
    assert line.startswith("defaults.threshold: found")


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "with space", "a\nb"])
def test_names_must_be_safe_folders(name):
    release = {"model": "tiny-llama", "recipe": "fp8", "name": name}
    (line,) = mistakes(changed(releases=[release]))
    assert line.startswith("releases[0].name:")


def test_two_releases_of_the_same_name_are_refused():
    releases = [{"model": "tiny-llama", "recipe": "fp8"}, {"model": "tiny-llama", "recipe": "fp8", "threshold": 0.02}]
    (line,) = mistakes(changed(releases=releases))
    assert line.startswith("releases[1].name:") and "releases[0]" in line


def test_a_release_may_not_take_the_folder_of_another_recipe():
    releases = [{"model": "tiny-llama", "recipe": "fp8"}, {"model": "tiny-llama", "recipe": "nvfp4", "name": "fp8"}]
    lines = mistakes(changed(releases=releases))
    assert any("fp8" in line for line in lines)


def test_one_candidate_can_have_several_releases():
    releases = [
        {"model": "tiny-llama", "recipe": "fp8"},
        {"model": "tiny-llama", "recipe": "fp8", "name": "strict", "threshold": 0.001},
    ]
    first, second = plan(changed(releases=releases)).releases
    assert first.recipe == second.recipe and (first.name, second.name) == ("fp8", "strict")
    assert second.policy.threshold == 0.001


def test_a_model_folder_must_exist_and_hold_safetensors(tmp_path):
    releases = [{"model": "m", "recipe": "fp8"}]
    (line,) = mistakes(changed(models={"m": {"path": str(tmp_path / "none")}}, releases=releases))
    assert line.startswith("models.m.path: found no folder")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    (line,) = mistakes(changed(models={"m": {"path": str(tmp_path)}}, releases=releases))
    assert "no *.safetensors (found pytorch_model.bin)" in line


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", ""])
def test_a_path_that_no_file_can_have_is_a_mistake_like_any_other(name):
    settings = {
        "models": {"m": {"path": name, "calibration": {"dataset": f"{name}.jsonl"}}},
        "releases": [{"model": "m", "recipe": "fp8"}, {"model": "m", "recipe": "unknown", "checkpoint": name}],
    }
    found = "\n".join(mistakes(changed(**settings)))
    assert "models.m" in found and "checkpoint" in found


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"path": "a", "hub": "o/n"}, "exactly one of 'path'"),
        ({}, "exactly one of 'path'"),
        ({"hub": "o/n"}, "40 hexadecimal digits; found None"),
        ({"hub": "o/n", "revision": "main"}, "found 'main'"),
        ({"hub": "name", "revision": "0" * 40}, "organisation/name"),
    ],
)
def test_a_model_is_a_folder_or_a_pinned_hub_repository(model, words):
    (line,) = mistakes(changed(models={"m": model}, releases=[{"model": "m", "recipe": "fp8"}]))
    assert line.startswith("models.m:") and words in line


CHECKPOINT = {"model": "tiny-llama", "recipe": "unknown"}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that looks like a checkpoint."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text("{}")
    (tmp_path / "made" / "model.safetensors").write_bytes(b"")
    (tmp_path / "made" / "tokenizer.json").write_text("{}")
    return tmp_path / "made"


def test_a_checkpoint_made_elsewhere_is_a_candidate_of_its_own_name(elsewhere):
    releases = [
        {"model": "tiny-llama", "recipe": "fp8"},
        CHECKPOINT | {"checkpoint": str(elsewhere)},
        {"model": "tiny-llama", "recipe": "org/AWQ run 3", "name": "awq", "checkpoint": str(elsewhere)},
    ]
    made = plan(changed(releases=releases))
    found = [(r.name, r.candidate, r.recipe.name, r.recipe.checkpoint) for r in made.releases]
    assert found == [
        ("fp8", "fp8", "fp8", None),
        ("unknown", "unknown", "unknown", str(elsewhere)),
        ("awq", "awq", "org/AWQ run 3", str(elsewhere)),
    ]
    assert made.imported_checkpoint_pattern() == r"tiny\-llama/awq|tiny\-llama/unknown"
    assert plan(DEFAULT).imported_checkpoint_pattern() == "(?!)"
    loose = plan(changed(releases=releases, models=calibrated_by(samples=3)))
    kept = [made.definition_digest("tiny-llama", c) == loose.definition_digest("tiny-llama", c) for c in ("fp8", "awq")]
    assert kept == [False, True]


@pytest.mark.parametrize(
    ("release", "broken", "quoted"),
    [
        ({"checkpoint": "none"}, None, "releases[0].checkpoint: found no folder"),
        ({}, "config.json", "releases[0].checkpoint: {} holds no config.json"),
        ({}, "model.safetensors", "releases[0].checkpoint: {} holds no *.safetensors"),
        ({"recipe": "mine"}, None, "releases[0].recipe: 'mine' is defined under 'recipes'"),
        ({"recipe": "-x"}, None, "releases[0].name: '-x' cannot be a folder's name; give a 'name'"),
        ({"name": "baseline"}, None, "releases[0].name: 'baseline' is the folder of the baseline"),
        ({"model": "own"}, None, "releases[0].checkpoint: {} is the source model itself"),
    ],
)
def test_a_wrong_checkpoint_is_refused_at_planning(elsewhere, release, broken, quoted):
    if broken:
        (elsewhere / broken).unlink()
    raw = changed(
        releases=[CHECKPOINT | {"checkpoint": str(elsewhere)} | release],
        recipes={"mine": {"preset": "fp8"}},
        models=DEFAULT["models"] | {"own": {"path": str(elsewhere)}},
    )
    (line,) = mistakes(raw)
    assert line.startswith(quoted.format(elsewhere))


def test_a_checkpoint_within_the_results_is_refused():
    (line,) = mistakes(changed(releases=[CHECKPOINT | {"checkpoint": "results/m/fp8/../none"}]))[1:]
    assert line.startswith("releases[0].checkpoint:") and "lies within results" in line


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"recipe": "fp8", "name": "unknown"}, "has a release 'unknown' already, at releases[0]"),
        ({"recipe": "unknown", "checkpoint": "{}"}, "has a release 'unknown' already, at releases[0]"),
    ],
)
def test_two_releases_of_one_name_collide(elsewhere, other, words):
    first = CHECKPOINT | {"checkpoint": str(elsewhere)}
    second = {"model": "tiny-llama"} | {key: value.format(elsewhere) for key, value in other.items()}
    assert words in mistakes(changed(releases=[first, second]))[0]


def test_a_checkpoint_takes_no_folder_of_a_recipe(elsewhere):
    first = {"model": "tiny-llama", "recipe": "fp8", "name": "strict"}
    second = CHECKPOINT | {"checkpoint": str(elsewhere), "name": "fp8"}
    lines = mistakes(changed(releases=[first, second]))
    assert [line for line in lines if "the name is the folder of another recipe" in line]


def test_recipe_settings_stand_above_the_models_and_the_defaults():
    raw = changed(
        recipes={"mine": {"preset": "fp8", "serving": {"max_model_len": 77}, "calibration": {"samples": 7}}},
        releases=[{"model": "tiny-llama", "recipe": "mine"}],
    )
    made = plan(raw)
    assert made.serving("tiny-llama", "mine")["max_model_len"] == 77
    assert made.serving("tiny-llama", "baseline")["max_model_len"] is None
    calibration = made.calibration("tiny-llama", "mine")
    assert (calibration["samples"], calibration["sequence_length"]) == (7, 32)


def test_code_that_a_model_is_trusted_with_is_trusted_in_its_candidates_too():
    for trusted in (False, True):
        made = plan(changed(models={"tiny-llama": {"path": "results/demo/model", "trust_remote_code": trusted}}))
        served = [made.serving("tiny-llama", candidate)["trust_remote_code"] for candidate in ("baseline", "fp8")]
        assert served == [trusted, trusted]


def test_local_data_must_exist(tmp_path):
    (folder := tmp_path / "folder.jsonl").mkdir()
    for dataset in ("data/none.jsonl", str(folder)):
        (line,) = mistakes(changed(models=calibrated_by(dataset=dataset)))
        assert f"found no calibration data {dataset}" in line


def test_mistakes_within_a_recipe_name_the_recipe():
    raw = changed(
        recipes={"mine": {"preset": "fp8", "serving": {"max_model_length": 77}}},
        releases=[{"model": "tiny-llama", "recipe": "mine"}],
    )
    (line,) = mistakes(raw)
    assert "mine" in line and "max_model_length" in line and "did you mean max_model_len" in line


def test_a_definition_changes_with_what_it_is_made_of_and_nothing_else():
    base = plan(DEFAULT)
    loose = plan(changed(defaults={"suite": "demo", "threshold": 0.5}))
    other = plan(changed(models=calibrated_by(samples=1)))
    digests = [p.definition_digest("tiny-llama", "fp8") for p in (base, loose, other)]
    assert digests[0] == digests[1] != digests[2]
    baselines = [p.definition_digest("tiny-llama", "baseline", "demo") for p in (base, other)]
    assert baselines[0] == baselines[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
keys = st.sampled_from(list(Config.model_fields)) | st.text(max_size=6)


@given(st.dictionaries(keys, json_values, max_size=6))
def test_no_configuration_makes_a_traceback(changes):
    try:
        plan(changed(**changes))
    except UnusableInput as error:
        assert "nothing was started" in str(error)


def test_what_must_be_proven_is_of_the_suites_tasks_and_adds_up():
    settings = {**DEFAULT["defaults"], "require": {"addition": "proven"}}
    release = {"model": "tiny-llama", "recipe": "fp8", "require": {"sorting": "proven"}}
    (made,) = plan({**DEFAULT, "defaults": settings, "releases": [release]}).releases
    assert made.policy.require == {"addition": "proven", "sorting": "proven"}
    for place, raw in (
        ("defaults.require.nonsense", {**DEFAULT, "defaults": {**settings, "require": {"nonsense": "proven"}}}),
        ("releases[0].require.nonsense", {**DEFAULT, "releases": [{**release, "require": {"nonsense": "proven"}}]}),
    ):
        with pytest.raises(UnusableInput, match="unknown task") as refused:
            plan(raw)
        assert place in str(refused.value)


LOAD = {"requests": 16, "input_tokens": 24, "output_tokens": 16, "concurrency": 4, "warmup": 4, "repeats": 3}


def loaded(speed, **changes):
    raw = changed(**changes)
    raw["models"]["tiny-llama"]["speed"] = speed
    return raw


def test_a_models_load_is_that_of_both_sides_and_off_unless_it_is_set():
    assert plan(changed()).load("tiny-llama", "demo") is None
    releases = [{"model": "tiny-llama", "recipe": "fp8", "min_speedup": 1.2}]
    made = plan(loaded(LOAD, releases=releases))
    assert made.load("tiny-llama", "demo").as_plain() == LOAD
    assert made.releases[0].policy.min_speedup == 1.2


def test_no_candidate_is_measured_by_the_suite_that_only_screens_it():
    search = {"objective": "size", "space": ["fp8", "nvfp4"], "screen": {"suite": "demo-screening"}}
    releases = [{"model": "tiny-llama", "name": "s", "search": search, "suite": "demo-deciding"}]
    made = plan(loaded(LOAD, releases=releases))
    assert made.load("tiny-llama", "demo-deciding") and made.load("tiny-llama", "demo-screening") is None
    (line,) = mistakes(loaded(LOAD, releases=[releases[0] | {"min_speedup": 1.2}]))
    assert "releases[0].min_speedup: found 1.2; a search goes by scores" in line


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (LOAD | {"requests": 2}, "concurrency: found 4, more than the 2 requests"),
        (LOAD | {"repeats": 2}, "models.tiny-llama.speed.repeats: found 2"),
        (LOAD | {"output_tokens": 1}, "models.tiny-llama.speed.output_tokens: found 1"),
        (LOAD | {"request": 2}, "models.tiny-llama.speed.request: unknown key"),
        (LOAD | {"input_tokens": 24.5}, "models.tiny-llama.speed.input_tokens: found 24.5"),
        (
            {},
            "models.tiny-llama.speed: found 1024 input_tokens and 128 output_tokens; on suite demo the server takes 64",
        ),
        (True, "models.tiny-llama.speed: found True"),
    ],
)
def test_a_load_that_cannot_be_put_on_is_found_in_the_plan(speed, said):
    lines = mistakes(loaded(speed))
    assert any(said in line for line in lines), lines


def test_a_speed_that_an_imported_run_cannot_show_is_refused(tmp_path):
    (tmp_path / "results.yml").write_text("{}")
    releases = [{"model": "tiny-llama", "recipe": "fp8", "min_speedup": 1.2, "candidate_run": str(tmp_path)}]
    lines = mistakes(loaded(LOAD, releases=releases))
    assert any("the candidate's run is imported, so that no server of it is measured" in line for line in lines), lines
