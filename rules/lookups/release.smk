# What the rules of release.smk look up.
import shlex


def get_materials(wildcards):
    """What a release was made by, besides its model and the scripts: suite, calibration data, locks of its stages."""
    release = get_release(wildcards)
    is_made = release.recipe.kind not in ("imported", "search")  # a search without a winner made no checkpoint
    quantize = ["quantize"] if is_made else []
    stages = [*quantize, "serve", *(HARNESSES[name].environment for name in get_harnesses(release.suite))]
    return [
        # Its meaning is the evaluations' parameter: what changes it makes the evidence anew, and so the bundle.
        ancient(get_suite_file(release.suite)),
        *PLAN.suites[release.suite].data_files,
        *(get_calibration_files(release.model, release.candidate) if is_made else []),
        *map(get_environment_definition, stages),
    ]


def get_card_template(wildcards):
    """The template of a release's model card: the configuration's, else the project's own."""
    return get_release(wildcards).card.template or get_own("scripts/templates/model_card.md.jinja")


def get_published(dry_run):
    """The releases that the target publish takes along, by whether it only shows what it would do."""
    return [r for r in PLAN.targets if r.publish and r.publish["dry_run"] == dry_run]


def get_publish_input(wildcards):
    """Bundles whose publication is shown, and records of those that are published."""
    shown, done = get_published(dry_run=True), get_published(dry_run=False)
    if not shown + done:
        sys.exit(
            "error: no release says where it is to be published; give 'publish' in the configuration or in a release, "
            "with 'hub' (a repository id) or 'folder'; nothing was started"
        )
    return {
        "bundles": [f"results/{r.model}/{r.name}/release/SHA256SUMS" for r in shown],
        "published": [f"results/{r.model}/{r.name}/published.json" for r in done],
    }


def get_publish_commands():
    """Commands of the target publish: what would be done, and what was."""
    shown = [
        f"python {OWN_SCRIPTS}/publish.py --dry-run --bundle results/{r.model}/{r.name}/release"
        f" --destination {shlex.quote(get_text(r.publish))}"
        for r in get_published(dry_run=True)
    ]
    done = [
        f"python {OWN_SCRIPTS}/publish.py --show results/{r.model}/{r.name}/published.json"
        for r in get_published(dry_run=False)
    ]
    return " && ".join(shown + done)
