"""Make the pages and figures of the documentation that follow from the code, into docs/generated; see `make docs`.

Reference of the configuration, of suites, recipes and artefacts from config/schemas; the examples as they are in
config/examples; what follows from each failure class from the table of the verdict; and examples of decisions, each a
comparison that the production code makes of two small runs, with the figure that a report shows of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from day0.base.artefacts import read_json, write_text
from day0.base.cli import EXIT_PASS, run_cli
from day0.decision.comparability import Run
from day0.decision.comparison import compare_runs
from day0.decision.failures import CONSEQUENCES
from day0.records.comparison import Comparison
from day0.records.policy import BLOCKING_TIERS
from day0.release.figures import drop_chart

SCHEMAS = Path("config/schemas")
# What a user writes; all other schemas are artefacts.
FILES = {
    "config": ("Configuration", "config/config.yaml, and each file that --configfile names"),
    "suite": ("Suites", "config/suites/NAME.yaml"),
    "recipe": ("Recipes", "config/recipes/NAME.yaml, and definitions under recipes: of the configuration"),
    "external_scores": ("Published scores", "config/external_scores.yaml, and each file that external_scores names"),
}
NUMBERS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}


def reference(schema: Mapping[str, Any], name: str, level: int) -> Iterator[str]:
    """The keys of a schema as a table, and a section for each type that it uses, with an anchor of its own."""
    yield from table(schema, schema, name)
    for kind, definition in sorted(schema.get("$defs", {}).items()):
        yield f"{'#' * level} {kind} {{ #{anchor(name, kind)} }}\n"
        if definition.get("description"):
            yield f"{sentence(definition['description'])}\n"
        if "enum" in definition:
            yield f"One of {', '.join(f'`{value}`' for value in definition['enum'])}.\n"
        yield from table(definition, schema, name)


def table(definition: Mapping[str, Any], schema: Mapping[str, Any], name: str) -> Iterator[str]:
    """The keys of a mapping: type, default and meaning."""
    properties = definition.get("properties")
    if not properties:
        return
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    required, kinds = definition.get("required", ()), schema.get("$defs", {})
    for key, value in properties.items():
        default = "**required**" if key in required else shown_default(value)
        meaning = sentence(value.get("description") or described(value, kinds))
        yield f"| `{key}` | {cell(type_of(value, name))} | {default} | {cell(meaning)} |"
    yield ""


def described(value: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """The description of the one type that a key holds, or holds in a list or mapping; else nothing."""
    inside = [value, *value.get("anyOf", ()), value.get("items"), value.get("additionalProperties")]
    named = {one["$ref"].rpartition("/")[2] for one in inside if isinstance(one, Mapping) and "$ref" in one}
    return kinds[named.pop()].get("description", "") if len(named) == 1 else ""


def shown_default(value: Mapping[str, Any]) -> str:
    """The default of a key as YAML would hold it; empty where it is the type's own."""
    default = value.get("default")
    if default is None:
        return "null" if "default" in value else ""
    text = json.dumps(default, ensure_ascii=False)
    return cell(f"`{text}`") if len(text) < 60 else "see the type"


def type_of(value: Mapping[str, Any], name: str) -> str:
    """A type in words, with links to the sections of those that have one."""
    if "$ref" in value:
        kind = value["$ref"].rpartition("/")[2]
        return f"[{kind}](#{anchor(name, kind)})"
    for key in ("anyOf", "oneOf"):
        if key in value:
            kinds = [type_of(one, name) for one in value[key] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "allOf" in value:
        return " and ".join(type_of(one, name) for one in value["allOf"])
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"list of {type_of(value['items'], name)}" if value.get("items") else "list"
    if value.get("type") == "object":
        held = value.get("additionalProperties")
        return f"mapping to {type_of(held, name)}" if isinstance(held, Mapping) and held else "mapping"
    bounds = [text.format(value[key]) for key, text in NUMBERS.items() if key in value]
    words = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}
    return " ".join([words.get(str(value.get("type")), "anything"), *bounds])


def anchor(name: str, kind: str) -> str:
    return f"{name}-{kind}".lower().replace("_", "-")


def sentence(text: str) -> str:
    """A description as a sentence: a docstring's reStructuredText as Markdown, its first letter large."""
    text = " ".join(text.replace("``", "`").split())
    return text[:1].upper() + text[1:] if text else ""


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page_of_file(name: str) -> str:
    """The reference of one kind of file that a user writes."""
    title, place = FILES[name]
    schema = read_json(SCHEMAS / f"{name}.schema.json")
    lines = [f"# Reference: {title.lower()}\n", f"{sentence(schema.get('description', ''))}\n"]
    lines += [f"File: {place}. Schema for editors: `config/schemas/{name}.schema.json`.\n"]
    return "\n".join([*lines, *reference(schema, name, 2)]) + "\n"


def page_of_artefacts() -> str:
    """The reference of all artefacts."""
    lines = [
        "# Reference: artefacts\n",
        "Each file that the graph writes below `results/`, by its schema in `config/schemas`. Where each lies, and "
        "who writes and reads it, is in [Architecture](../architecture.md#artefacts).\n",
    ]
    for path in sorted(SCHEMAS.glob("*.schema.json")):
        name = path.name.removesuffix(".schema.json")
        if name not in FILES:
            schema = read_json(path)
            lines += [f"## {schema['title']}\n", f"{sentence(schema.get('description', ''))}\n"]
            lines += [f"Schema: `{path.as_posix()}`.\n", *reference(schema, name, 3)]
    return "\n".join(lines) + "\n"


def page_of_examples() -> str:
    """The example configurations, suites, recipes and spaces, as they are."""
    lines = [
        "# Examples\n",
        "The files of the project, as they are. A configuration is passed by `--configfile`; its keys override those "
        "of `config/config.yaml`.\n",
    ]
    for title, folder in (
        ("Configurations", "examples"),
        ("Recipes", "recipes"),
        ("Spaces of a search", "spaces"),
        ("Suites", "suites"),
    ):
        lines.append(f"## {title}\n")
        for path in sorted(Path("config", folder).glob("*.yaml")):
            text = path.read_text(encoding="utf-8").rstrip()
            description = (yaml.safe_load(text) or {}).get("description")
            lines += [f"### {path.stem}\n", *([f"{sentence(description)}\n"] if description else [])]
            lines += [f'```yaml title="{path.as_posix()}"\n{text}\n```\n']
    return "\n".join(lines) + "\n"


def table_of_classes() -> str:
    """What follows from each failure class, the most severe first."""
    lines = ["| failure class | decision | what to do |", "|---|---|---|"]
    for name, consequence in CONSEQUENCES.items():
        lines.append(f"| `{name}` | {consequence.decision} | {cell(consequence.next_action)} |")
    return "\n".join(lines) + "\n"


class Asked:
    """A task of an example: questions asked, the baseline's right answers, and how many the candidate lost and won."""

    def __init__(self, questions: int, right: int, lost: int, won: int, tier: str = "critical") -> None:
        self.questions, self.right, self.lost, self.won, self.tier = questions, right, lost, won, tier

    def scores(self, candidate: bool) -> list[float]:
        baseline = [float(number < self.right) for number in range(self.questions)]
        if candidate:
            baseline[: self.lost] = [0.0] * self.lost
            baseline[self.right : self.right + self.won] = [1.0] * self.won
        return baseline


STANDARD = {
    "gsm8k": Asked(1319, 1180, 36, 33),
    "arc-challenge": Asked(1172, 690, 31, 34),
    "hellaswag": Asked(10042, 7900, 190, 182, "supporting"),
    "winogrande": Asked(1267, 960, 34, 30, "supporting"),
}
DECISIONS = {
    "accept": (
        "Nothing is lost",
        "FP8 of a model on four tasks: about 5 % of the answers change, as many for the better as for the worse. No "
        "task has to be proven within its limit by itself: the mean drop of the suite is, and no task shows a loss.",
        STANDARD,
        0.01,
    ),
    "regression": (
        "One task has lost",
        "The same suite, but gsm8k lost 66 answers and won 20. A lossless candidate would not have that by chance, and "
        "it is more than the limit: the other tasks cannot make up for it.",
        {**STANDARD, "gsm8k": Asked(1319, 1180, 66, 20)},
        0.01,
    ),
    "undecided": (
        "Too few questions",
        "The first 150 questions of each task. Scores differ by less than 1 % here, but so few samples would look the "
        "same if the candidate had lost two or three per cent. Nothing shows that it is worse, and nothing that it is "
        "not: the next action says how much more to ask.",
        {
            "gsm8k": Asked(150, 134, 5, 4),
            "arc-challenge": Asked(150, 88, 4, 5),
            "winogrande": Asked(150, 113, 5, 4, "supporting"),
        },
        0.01,
    ),
    "lower-limit": (
        "The first candidate with a narrower limit",
        "The same answers as in the first example, with `threshold: 0.001`. What 13,800 questions prove within 1 % "
        "they cannot prove within a tenth of that.",
        STANDARD,
        0.001,
    ),
}


def run_of(tasks: Mapping[str, Asked], candidate: bool) -> Run:
    """An assessed run as compare_runs takes it."""
    samples, scores, prints = {}, {}, {}
    for name, asked in tasks.items():
        given = asked.scores(candidate)
        samples[name] = [
            {"id": n, "repeat": 0, "prompt_digest": f"p{n}", "target_digest": f"t{n}", "answer": f"{n} {score}"}
            | {"score": score}
            for n, score in enumerate(given)
        ]
        scale = {"min": 0, "max": 1, "direction": "higher"}
        scores[name] = {"metric": "exact_match", "score": sum(given) / len(given), "stderr": None}
        scores[name] |= {"samples": len(given), "scale": scale, "tier": asked.tier}
        prints[name] = {"task_hash": name, "sampling": {"seed": 1234, "temperature": 0.0}}
    assessment = {"pass": True, "failure_class": None, "detail": "", "model": "my-model", "suite": "my-suite"}
    server = {"engine": "vllm", "engine_version": "0", "quantization": "fp8"}
    metadata = {"suite_digest": "0", "server": server, "fingerprint": prints}
    return Run(assessment | {"scores": scores}, metadata, samples)


def compared(tasks: Mapping[str, Asked], threshold: float) -> Comparison:
    """What the production code says of an example."""
    return compare_runs(run_of(tasks, False), run_of(tasks, True), {"threshold": threshold})


def decision_examples(output: Path) -> str:
    """Each example with its figure, written beside the text, and the words of its comparison."""
    lines = []
    for name, (title, text, tasks, threshold) in DECISIONS.items():
        found = compared(tasks, threshold)
        plain = found.as_plain()
        figure = drop_chart(plain["tasks"], list(tasks))
        assert figure is not None
        write_text(output / f"decision-{name}.svg", figure)
        classes = f" ({', '.join(plain['failure_classes'])})" if plain["failure_classes"] else ""
        others = ", ".join(
            f"`{criterion}`: {result['decision']}"
            for criterion, result in plain["criteria"].items()
            if criterion != plain["criterion"]
        )
        lines += [f"### {title}: {found.decision}{classes}\n", f"{text}\n"]
        lines += [f"![Drops of the tasks with their intervals and limits](generated/decision-{name}.svg)\n"]
        lines += ["| task | tier | questions | baseline | candidate | lost | won |", "|---|---|---|---|---|---|---|"]
        for task, asked in tasks.items():
            baseline, candidate = (sum(asked.scores(side)) / asked.questions for side in (False, True))
            blocks = "" if asked.tier in BLOCKING_TIERS else " (reported only)"
            lines.append(
                f"| {task} | {asked.tier}{blocks} | {asked.questions:,} | {baseline:.4f} | {candidate:.4f} | "
                f"{asked.lost} | {asked.won} |"
            )
        lines += ["", f"*Detail:* {plain['detail']}\n", f"*Next action:* {plain['next_action']}\n"]
        lines += [f"*The other criteria:* {others}.\n"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("docs/generated"))
    arguments = parser.parse_args()

    output = arguments.output_dir
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name in FILES:
        write_text(output / f"{name.replace('_', '-')}.md", page_of_file(name))
    write_text(output / "artefacts.md", page_of_artefacts())
    write_text(output / "examples.md", page_of_examples())
    write_text(output / "failure-classes.inc", table_of_classes())
    write_text(output / "decisions.inc", decision_examples(output))
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
