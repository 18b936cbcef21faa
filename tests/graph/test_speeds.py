"""The speed of both sides: measured where it is asked for, decided by where it is guarded, and measured anew alone."""

import yaml

LOAD = {"requests": 16, "input_tokens": 24, "output_tokens": 16, "concurrency": 4, "warmup": 4, "repeats": 3}
EVALUATED = ["evaluate baseline", "evaluate fp8"]


def measuring(project, load=LOAD, **release):
    """Put the model's servers under load; the load of the model, and keys of its only release."""
    path = project.folder / "config" / "config.yaml"
    model = yaml.safe_load(path.read_text())["models"]["tiny-llama"] | {"speed": load}
    project.configure(models={"tiny-llama": model}, releases=[{"model": "tiny-llama", "recipe": "fp8", **release}])


def decided(project):
    run = project.snakemake("verdict")
    assert run.status == 0, run.output
    return project.read("tiny-llama/fp8/verdict.json")


def test_speed_is_measured_on_both_sides_and_another_load_redoes_no_quantization(equipped):
    measuring(equipped, min_speedup=1.2)
    equipped.behave({"evaluate": {"fp8": {"tokens_per_second": 150.0}}})
    verdict = decided(equipped)
    assert verdict["decision"] == "ACCEPT" and verdict["speed"]["is_native"], verdict["detail"]
    assert "1.5 times the baseline's output tokens per second" in verdict["speed"]["sentence"]
    assert [call for call in equipped.calls() if call.startswith("evaluate")] == EVALUATED
    for side in ("baseline", "fp8"):
        assert equipped.read(f"tiny-llama/{side}/demo/speed.json")["status"] == "MEASURED"
    measuring(equipped, min_speedup=2)
    verdict = decided(equipped)
    assert (verdict["decision"], verdict["failure_class"]) == ("REGRESSION", "TOO_SLOW"), verdict["detail"]
    assert equipped.calls() == [], "the guard is the comparison's alone"
    measuring(equipped, LOAD | {"concurrency": 8})
    assert decided(equipped)["speed"]["load"]["concurrency"] == 8
    assert equipped.calls() == EVALUATED


def test_a_guard_that_an_emulated_or_failed_measurement_cannot_meet_is_no_accept(equipped):
    measuring(equipped, min_speedup=1.2)
    equipped.behave({"evaluate": {"fp8": {"tokens_per_second": 900.0, "emulation": "The format was emulated."}}})
    verdict = decided(equipped)
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")
    assert "the ratio is no speedup of the format. Of the candidate: The format was emulated" in verdict["detail"]
    run = equipped.snakemake("release")
    assert run.status == 1 and not equipped.exists("tiny-llama/fp8/release")
    equipped.behave({"evaluate": {"fp8": {"speed_failed": "3 of 16 requests were answered"}}})
    measuring(equipped, LOAD | {"repeats": 4}, min_speedup=1.2)
    verdict = decided(equipped)
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")
    assert "the measurement of the candidate failed: 3 of 16 requests were answered" in verdict["detail"]
    measuring(equipped, LOAD | {"repeats": 4})
    assert decided(equipped)["decision"] == "ACCEPT", "without the guard its scores decide alone"


def test_of_a_run_in_shards_one_server_is_measured(equipped):
    measuring(equipped)
    equipped.configure(shards=2)
    verdict = decided(equipped)
    assert verdict["decision"] == "ACCEPT" and verdict["speed"]["output_tokens_per_second"], verdict["detail"]


def test_a_guard_without_a_load_is_found_in_the_plan(project):
    project.configure(releases=[{"model": "tiny-llama", "recipe": "fp8", "min_speedup": 1.2}])
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "models.tiny-llama sets no 'speed'" in run.output and "Traceback" not in run.output
