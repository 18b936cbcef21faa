"""What the text of the rules must hold to."""

import re
from pathlib import Path

import pytest

RULES = sorted((Path(__file__).parents[2] / "rules").glob("*.smk"))
HEAD = re.compile(
    r"^ *(?:use rule (?P<base>\w+) as (?P<derived>\w+) with|(?:rule|checkpoint) (?P<name>\w+)):$", re.MULTILINE
)
ON_COMPUTE_NODES = {
    "check_preflight",
    "build_environment",
    "fetch_example_packages",
    "make_example_model",
    "wrap_image",
    "train_demo_model",
    "describe_source",
    "measure_sensitivity",
    "quantize_candidate",
    "import_checkpoint",
    "evaluate_run",
    "evaluate_shard",
    "merge_shards",
    "import_run",
    "bundle_release",
}


def blocks_of(text):
    """Name of each rule: name of the rule that it is derived from ("" where it is none), and its text."""
    heads = list(HEAD.finditer(text))
    ends = [*(head.start() for head in heads), len(text)][1:]
    return {
        head["derived"] or head["name"]: (head["base"] or "", text[head.end() : end])
        for head, end in zip(heads, ends, strict=True)
    }


BLOCKS = {name: block for path in RULES for name, block in blocks_of(path.read_text()).items()}


@pytest.mark.parametrize("name", [name for name, (base, _) in BLOCKS.items() if base])
def test_a_derived_rule_runs_where_its_base_does(name):
    """Snakemake's `use rule` does not take over `localrule`: a gate of seconds became a job of the cluster."""
    base, text = BLOCKS[name]
    assert ("localrule: True" in text) == ("localrule: True" in BLOCKS[base][1])


def test_only_what_reads_weights_or_asks_a_server_is_a_job_of_the_cluster():
    assert {name for name, (_, text) in BLOCKS.items() if "localrule: True" not in text} == ON_COMPUTE_NODES
