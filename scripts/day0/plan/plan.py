"""The plan of a run: the releases of a checked configuration, with every default and name resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from day0.base.artefacts import digest_of
from day0.plan.config import Config, ImportedRun
from day0.recipe.recipes import Calibration, ResolvedRecipe
from day0.recipe.sensitivity import ALWAYS_MEASURED, formats_to_measure
from day0.records.card import CardSettings
from day0.records.early_stopping import StoppingRules
from day0.records.policy import EarlyStopping, Policy
from day0.records.search import Budget, Kind, Objective, RequestedMove, SearchRequest
from day0.records.speed import Load
from day0.suite.suites import Suite

BASELINE = "baseline"

CPU_SAMPLES = 64
"""Calibration texts on a CPU unless a number is given: of 512 tokens some minutes for 135 million parameters."""

CAUTIOUS_FIRST: tuple[EarlyStopping, ...] = ("off", "reject", "both")
# What an early end depends on of a policy.
STOPPED_BY = {
    *("threshold", "thresholds", "relative", "max_relative_drop", "relative_guard_below"),
    *("tiers", "criterion", "scales"),
}


@dataclass(frozen=True)
class PlannedRelease:
    """A release with every default filled in and every name resolved."""

    name: str
    model: str
    recipe: ResolvedRecipe
    candidate: str  # folder of the checkpoint and its runs, which releases may share
    suite: str
    policy: Policy
    candidate_run: ImportedRun | None = None
    publish: dict[str, Any] | None = None
    card: CardSettings = field(default_factory=CardSettings)


@dataclass(frozen=True)
class PlannedSearch:
    """A release whose recipe is to be chosen: the candidates, and how each is asked.

    Attributes:
        recipes: of the candidates, by the name of their folder, in the order of the space.
        groups: of candidates that the engine refuses together, by the same names.
        suite: the deciding one.
        policy: of the decisions on finalists, and of the release that the winner becomes.
        screen: suite and policy of the screening; None: every candidate that is asked is decided on.
    """

    name: str
    model: str
    objective: Objective
    recipes: dict[str, ResolvedRecipe]
    groups: dict[str, str]
    suite: str
    policy: Policy
    budget: Budget
    screen: tuple[str, Policy] | None = None
    publish: dict[str, Any] | None = None
    card: CardSettings = field(default_factory=CardSettings)

    def asked_as(self, candidate: str, kind: Kind) -> str:
        """Name of the release by which a candidate is screened or decided on."""
        return f"{self.name}.{kind}.{candidate}"

    def releases(self) -> list[PlannedRelease]:
        """The releases by which its candidates are screened and decided on."""
        asked: list[tuple[Kind, str, Policy]] = [("final", self.suite, self.policy)]
        if self.screen is not None:
            asked.insert(0, ("screen", *self.screen))
        return [
            PlannedRelease(self.asked_as(candidate, kind), self.model, recipe, candidate, suite, policy)
            for candidate, recipe in self.recipes.items()
            for kind, suite, policy in asked
        ]

    def won_by(self, candidate: str) -> PlannedRelease:
        """The release that a winner becomes."""
        return self._release(self.recipes[candidate], candidate)

    def without_winner(self) -> PlannedRelease:
        """The release as long as there is no winner: it has no recipe and no checkpoint."""
        name = f"search for {self.objective}"
        return self._release(ResolvedRecipe(name=name, kind="search", definition={}, digest=digest_of({})), self.name)

    def _release(self, recipe: ResolvedRecipe, candidate: str) -> PlannedRelease:
        return PlannedRelease(
            self.name,
            self.model,
            recipe,
            candidate,
            self.suite,
            self.policy,
            publish=self.publish,
            card=self.card,
        )


@dataclass(frozen=True)
class Plan:
    """A checked configuration, ready for the graph.

    Attributes:
        targets: what the configuration lists, in its order.
        releases: all that are decided on, those of the searches' candidates among them.
        is_cpu: whether models are quantized on a CPU, where fewer texts are calibrated on unless a number is given.
    """

    config: Config
    targets: tuple[PlannedRelease | PlannedSearch, ...]
    releases: tuple[PlannedRelease, ...]
    suites: dict[str, Suite]
    is_cpu: bool = False

    def release(self, model: str, name: str) -> PlannedRelease:
        """The release of that model and name; a search is none.

        Raises:
            KeyError: the configuration has none.
        """
        return self._releases_by_name[model, name]

    @cached_property
    def _releases_by_name(self) -> dict[tuple[str, str], PlannedRelease]:
        # The graph asks for each release many times.
        return {(one.model, one.name): one for one in reversed(self.releases)}

    def search_request(self, search: PlannedSearch) -> SearchRequest:
        """What the rungs and the end of a search need to know of it."""
        return SearchRequest(
            name=search.name,
            objective=search.objective,
            budget=search.budget,
            moves=[
                RequestedMove(name=name, definition=recipe.of_the_weights().definition, group=search.groups[name])
                for name, recipe in search.recipes.items()
            ],
            definition_digest=self.search_digest(search),
        )

    def search_digest(self, search: PlannedSearch) -> str:
        """Digest of what defines a search: its candidates, how each is asked, to which limits, and what it may spend.

        A rung of another definition counts as unknown: by it jobs would start that are not wanted any more.
        """
        asked = [
            (made.name, self.definition_digest(made.model, made.candidate, made.suite), made.policy.as_plain())
            for made in search.releases()
        ]
        suites = {made.suite for made in search.releases()}
        baselines = [self.definition_digest(search.model, BASELINE, suite) for suite in sorted(suites)]
        return digest_of([search.objective, search.budget.as_plain(), search.groups, asked, baselines])

    @property
    def searches(self) -> list[PlannedSearch]:
        """The searches, in the configuration's order."""
        return [target for target in self.targets if isinstance(target, PlannedSearch)]

    def search(self, model: str, name: str) -> PlannedSearch | None:
        """The search of that model and name; None where a release has another, or no such name."""
        return self._searches_by_name.get((model, name))

    @cached_property
    def _searches_by_name(self) -> dict[tuple[str, str], PlannedSearch]:
        return {(one.model, one.name): one for one in reversed(self.searches)}

    def recipe(self, model: str, candidate: str) -> ResolvedRecipe:
        """The recipe behind a candidate's folder."""
        return self._releases_by_candidate[model, candidate][0].recipe

    @cached_property
    def _releases_by_candidate(self) -> dict[tuple[str, str], list[PlannedRelease]]:
        found: dict[tuple[str, str], list[PlannedRelease]] = {}
        for one in self.releases:
            found.setdefault((one.model, one.candidate), []).append(one)
        return found

    def _releases_by_run(self, model: str, candidate: str, suite: str) -> list[PlannedRelease]:
        """The releases that a candidate's run on a suite decides."""
        return [r for r in self._releases_by_candidate.get((model, candidate), []) if r.suite == suite]

    def imported_checkpoints(self) -> list[tuple[str, str]]:
        """(model, candidate) of every checkpoint that was made elsewhere."""
        return sorted({(r.model, r.candidate) for r in self.releases if r.recipe.checkpoint})

    def imported(self, model: str, candidate: str, suite: str) -> ImportedRun | None:
        """The run that stands in for that of a candidate or baseline, or None."""
        if candidate == BASELINE:
            settings = self.config.models.get(model)
            return settings.baseline.get(suite) if settings else None
        runs = (release.candidate_run for release in self._releases_by_run(model, candidate, suite))
        return next(filter(None, runs), None)

    def imported_runs(self) -> list[tuple[str, str, str]]:
        """(model, candidate, suite) of every run that is imported."""
        runs = {(r.model, side, r.suite) for r in self.releases for side in (BASELINE, r.candidate)}
        return sorted(run for run in runs if self.imported(*run))

    def imported_pattern(self) -> str:
        """MODEL/CANDIDATE/SUITE of the imported runs, a regular expression; without any it matches nothing."""
        return _any_of(self.imported_runs())

    def imported_checkpoint_pattern(self) -> str:
        """MODEL/CANDIDATE of the checkpoints that were made elsewhere, in the same way."""
        return _any_of(self.imported_checkpoints())

    def is_asked(self, model: str, suite: str) -> bool:
        """Whether some run of a model on a suite is made here; False where all are imported."""
        runs = {(r.model, side, r.suite) for r in self.releases for side in (BASELINE, r.candidate)}
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

    def load(self, model: str, suite: str) -> Load | None:
        """The load that the servers of a model's runs on a suite are put under, the same for both sides.

        None where none is set, or where the suite only screens the candidates of a search.
        """
        decided = any((target.model, target.suite) == (model, suite) for target in self.targets)
        return self.config.models[model].speed if decided else None

    def stopping_rules(self, model: str, candidate: str, suite: str) -> StoppingRules:
        """By which rules a candidate's run may be stopped early: those of all releases that share it.

        The most cautious of them says whether it may; nothing is stopped that is evaluated beside its baseline.
        """
        policies = [release.policy for release in self._releases_by_run(model, candidate, suite)]
        modes = {policy.early_stopping for policy in policies}
        mode: EarlyStopping = next((mode for mode in CAUTIOUS_FIRST if mode in modes), "off")
        if self.config.parallel_evaluation or candidate == BASELINE:
            mode = "off"
        kept = [Policy(**policy.model_dump(include=STOPPED_BY)) for policy in policies] if mode != "off" else []
        different = {digest_of(policy.as_plain()): policy for policy in kept}
        return StoppingRules(mode=mode, policies=[different[key] for key in sorted(different)])

    def resource(self, model: str, stage: str, name: str) -> int | None:
        """What the configuration sets for a stage's resource, None where it leaves it to the formulas."""
        resources = self.config.models[model].resources
        own = getattr(getattr(resources, stage), name)
        return getattr(resources, name) if own is None else own

    def calibration(self, model: str, candidate: str) -> dict[str, Any]:
        """Calibration settings of a candidate: the recipe's above the model's above ``quantization``'s."""
        return self._calibration(self._given_calibration(model, candidate))

    def has_cpu_samples(self, model: str, candidate: str) -> bool:
        """Whether a candidate is calibrated on ``CPU_SAMPLES`` texts for want of a number in the configuration."""
        return self.is_cpu and "samples" not in self._given_calibration(model, candidate)

    def _given_calibration(self, model: str, candidate: str | None = None) -> dict[str, Any]:
        of_recipe = self.recipe(model, candidate).definition.get("calibration") if candidate else None
        merged: dict[str, Any] = {}
        for layer in (self.config.quantization.calibration, self.config.models[model].calibration):
            merged |= layer.model_dump(mode="json", exclude_unset=True) if layer else {}
        return merged | (of_recipe or {})

    def _calibration(self, given: dict[str, Any]) -> dict[str, Any]:
        default = {"samples": CPU_SAMPLES} if self.is_cpu else {}
        return Calibration(**(default | given)).model_dump(mode="json")

    def needs_sensitivity(self, model: str, candidate: str) -> bool:
        """Whether a candidate's recipe is worked out by the measured sensitivity of its model."""
        return bool(formats_to_measure(self.recipe(model, candidate).definition))

    def sensitivity_formats(self, model: str) -> list[str]:
        """Formats that a model's sensitivity is measured in, those of all recipes that are worked out by it."""
        asked = {name for r in self.releases if r.model == model for name in formats_to_measure(r.recipe.definition)}
        return sorted(asked | set(ALWAYS_MEASURED))

    def sensitivity_calibration(self, model: str) -> dict[str, Any]:
        """Calibration settings of a model's sensitivity: the model's above ``quantization``'s, whatever recipes say."""
        return self._calibration(self._given_calibration(model))

    def definition_digest(self, model: str, candidate: str, suite: str | None = None) -> str:
        """Digest of what defines a candidate, and with ``suite`` its evaluation.

        An assessment carries it, so that a failure recorded for another definition counts as unknown.
        """
        location = self.config.models[model]
        definition: dict[str, Any] = {"path": location.path, "hub": location.hub, "revision": location.revision}
        if candidate != BASELINE:
            recipe = self.recipe(model, candidate)
            definition |= {"recipe": recipe.digest}
            if recipe.checkpoint is None:
                definition |= {"calibration": self.calibration(model, candidate)}
            if self.needs_sensitivity(model, candidate):
                definition |= {"sensitivity": self.sensitivity_calibration(model)}
        if suite is not None:
            definition |= {
                "suite": self.suites[suite].model_dump(mode="json"),
                "serving": self.serving(model, candidate),
            }
            if self.imported(model, candidate, suite):
                definition["imported"] = self.import_request(model, candidate, suite)
        return digest_of(definition)


def _any_of(places: Iterable[tuple[str, ...]]) -> str:
    """A regular expression that matches any of some paths, given by their parts; without any it matches nothing."""
    return "|".join(re.escape("/".join(place)) for place in places) or "(?!)"
