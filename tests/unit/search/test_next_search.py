"""After a release that lost: what to protect first, and a search that goes on from its recipe."""

import json

import pytest
from tests.unit.decision_input import RELEASE, compare_runs, evidence, run, sha, tasks_run

import decide
from day0.decision.chain import Evidence
from day0.decision.verdict import ReleaseRequest, make_verdict
from day0.records.comparison import Tokens
from day0.records.sensitivity import LayerGroup, Sensitivity
from day0.search.next_search import FILE, next_search

SOURCE = sha("s")
POLICY = {"threshold": 0.01, "relative": False, "thresholds": {"tasks": {"a": 0.02}}, "require": {"a": "proven"}}
NAMES = {"mlp": "model.layers.0.mlp.down_proj", "attention": "model.layers.1.self_attn.o_proj", "lm_head": "lm_head"}


def lost(before, after, families=None, policy=None, **request):
    """(request, verdict, validation) of a release of which two runs are compared."""
    families = families or {"MLP": (4, 4.5), "attention": (4, 8.0), "lm_head": (0, 16.0)}
    held = {
        name: {"layers": 4, "quantized": count, "intended": count, "coverage": "whole", "bits_per_weight": bits}
        for name, (count, bits) in families.items()
    }
    sides = {"baseline_run": before, "candidate_run": after}
    digests = {f"{name.removesuffix('_run')}_sha256": sha(name) for name in sides}
    comparison = compare_runs(before, after, policy or {}) | digests
    scores = {name: {"scores": side.assessment["scores"]} for name, side in sides.items()}
    found = evidence(validation={"families": held}, comparison=comparison, **scores)
    made = ReleaseRequest.model_validate(RELEASE | {"recipe": "nvfp4", "may_be_searched": True} | request)
    return made, make_verdict(made, found), found["validation"].content


def measured(scores=None, source_digest=SOURCE, **changes):
    """A sensitivity by {family: loss in NVFP4}."""
    groups = [
        LayerGroup(
            modules=[NAMES[name]], quantizers=[f"{NAMES[name]}.weight_quantizer"], weights=8, scores={"nvfp4": x}
        )
        for name, x in (scores or {"mlp": 1.0, "attention": 3.0}).items()
    ]
    known = {
        "status": "done",
        "failure_class": None,
        "detail": "",
        "model": "m",
        "source_digest": source_digest,
        "calibration": {},
        "scored_texts": 1,
        "formats": {"nvfp4": 4.5},
        "groups": groups,
        "emulated": [],
        "seed": 1,
        "device": "cpu",
        "versions": {},
        "duration_seconds": {},
    }
    return Sensitivity(**known | changes)


def protected(found):
    """What each recipe of the search's space protects, or its name."""
    (entry,) = found.configuration["releases"]
    return [move if isinstance(move, str) else move["recipe"]["protect"][0] for move in entry["search"]["space"]]


@pytest.mark.parametrize(("after", "protects"), [(1800, True), (1899, False)])
def test_a_proven_loss_names_the_families_to_protect(after, protects):
    request, verdict, validation = lost(run(1900, 2000), run(after, 2000))
    found = next_search(request, verdict, validation)
    assert (found is not None) == protects, verdict.detail
    if found:
        assert protected(found) == ["nvfp4", "mlp", {"groups": 4}, "fp8"]
        assert "fewest bits (4.5 per weight): mlp; then attention (8)." in found.sentences
        assert found.sentences.endswith(f": snakemake release --configfile results/m/fp8/{FILE}")


def test_a_recipe_that_no_search_could_go_on_from_has_advice_alone():
    request, verdict, validation = lost(run(1900, 2000), run(1800, 2000), may_be_searched=False)
    found = next_search(request, verdict, validation)
    assert found.configuration is None and "mlp" in found.sentences and "snakemake" not in found.sentences


def test_the_search_is_held_to_what_the_release_was_held_to():
    request, verdict, validation = lost(run(1900, 2000), run(1800, 2000), policy=POLICY)
    request = request.model_copy(update={"policy": request.policy.model_validate(POLICY | {"criterion": "point"})})
    (entry,) = next_search(request, verdict, validation).configuration["releases"]
    assert entry["threshold"] == 0.01 and entry["thresholds"] == {"tiers": {}, "tasks": {"a": 0.02}}
    assert entry["require"] == {"a": "proven"} and entry["criterion"] == "suite" and entry["suite"] == "demo"
    assert entry["search"]["budget"] == {"candidates": 4, "decisions": 4}
    assert not {"scales", "decisions", "max_relative_drop"} & entry.keys()


def test_where_every_family_is_in_eight_bits_they_are_kept_in_sixteen():
    request, verdict, validation = lost(
        run(1900, 2000), run(1800, 2000), {"MLP": (4, 8.0), "attention": (4, 8.0)}, recipe="fp8"
    )
    assert protected(next_search(request, verdict, validation)) == ["fp8", "attention", "mlp", {"groups": 4}]


@pytest.mark.parametrize(
    ("scores", "order", "words"),
    [
        ({"mlp": 1.0, "attention": 3.0}, ["attention", "mlp"], "attention (75%), mlp (25%); the most sensitive layers"),
        ({"mlp": 3.0, "attention": 1.0}, ["mlp", "attention"], "mlp (75%), attention (25%); the most sensitive layers"),
        ({"mlp": 1.0, "attention": 3.0, "lm_head": 9.0}, ["attention", "mlp"], "attention (75%), mlp (25%);"),
    ],
)
def test_what_loses_most_by_the_measured_sensitivity_leads(scores, order, words):
    request, verdict, validation = lost(run(1900, 2000), run(1800, 2000), {"MLP": (4, 4.5), "attention": (4, 4.5)})
    found = next_search(request, verdict, validation, measured(scores))
    assert protected(found) == ["nvfp4", *order, {"groups": 2}, "fp8"]
    assert words in found.sentences and "fewest bits" not in found.sentences
    assert f"{NAMES[order[0]]}, {NAMES[order[1]]}." in found.sentences


@pytest.mark.parametrize(
    "of",
    [
        measured(source_digest="1" * 64),
        measured(status="failed", failure_class="MODEL_UNSUPPORTED", detail="x", formats={}, groups=[]),
        measured(formats={"fp8": 8.0}),
        measured({"mlp": 0.0, "attention": 0.0}),
        measured({"lm_head": 1.0}),
    ],
)
def test_a_sensitivity_that_says_nothing_of_the_recipe_is_not_used(of):
    request, verdict, validation = lost(run(1900, 2000), run(1800, 2000), {"MLP": (4, 4.5), "attention": (4, 8.0)})
    found = next_search(request, verdict, validation, of)
    assert "fewest bits (4.5 per weight): mlp" in found.sentences and "sensitivity, in" not in found.sentences


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"a": 1800, "b": 1900}, "Of 2 tasks a lost. In which layers a task does not tell"),
        ({"a": 1800, "b": 1800}, "All 2 tasks lost, so that no kind of text stands out."),
    ],
)
def test_the_tasks_say_no_more_than_they_can(after, words):
    request, verdict, validation = lost(tasks_run({"a": 1900, "b": 1900}, 2000), tasks_run(after, 2000))
    assert words in next_search(request, verdict, validation).sentences


@pytest.mark.parametrize(
    ("lengths", "kv_format", "words"),
    [
        ({"a": 900.0, "b": 20.0}, "FP8", "longest answers (900 tokens or more on average, the others 20 at most)"),
        (
            {"a": 20.0, "b": 900.0},
            "FP8",
            "in FP8, which a search leaves as it is: try it with kv_cache: none.",
        ),
        (
            {"a": 900.0, "b": None},
            "FP8",
            "in FP8, which a search leaves as it is: try it with kv_cache: none.",
        ),
        ({"a": 900.0, "b": 20.0}, None, ""),
    ],
)
def test_long_answers_point_at_the_kv_cache_where_the_recipe_quantizes_it(lengths, kv_format, words):
    request, verdict, validation = lost(
        tasks_run({"a": 1900, "b": 1900}, 2000), tasks_run({"a": 1800, "b": 1900}, 2000)
    )
    for name, tokens in lengths.items():
        known = {"baseline": tokens, "candidate": tokens, "ratio": 1.0, "interval": None, "answers": 9, "unknown": 0}
        verdict.tasks[name].tokens = Tokens(**known, sentence="")
    sentences = next_search(request, verdict, validation, None, kv_format).sentences
    assert words in sentences and ("kv_cache" in sentences) == (kv_format is not None)


def test_the_next_search_is_written_beside_the_verdict_and_taken_away_with_the_loss(tmp_path, monkeypatch):
    request, verdict, validation = lost(run(1900, 2000), run(1800, 2000))
    held = {"validation": Evidence(str(tmp_path / "validation.json"), SOURCE, validation)}
    measured({"mlp": 1.0, "attention": 3.0}).write(tmp_path / "sensitivity.json")
    before = verdict.next_action
    found = decide.add_next_search(request, verdict, held, tmp_path / "sensitivity.json")
    assert found["releases"] and verdict.next_action.startswith(before) and "attention (75%)" in verdict.next_action
    (tmp_path / "sensitivity.json").write_text("{")
    verdict.next_action = before
    assert decide.add_next_search(request, verdict, held, tmp_path / "sensitivity.json")
    assert "fewest bits" in verdict.next_action
    accepted = make_verdict(request, evidence())
    assert decide.add_next_search(request, accepted, evidence(), None) is None
    assert json.dumps(found)
