"""Configurations that would run, leak, destroy or mean something else: all refused at planning."""

import copy
import json
import time
from pathlib import Path

import pytest
import yaml

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.plan.check import check_configuration_file, make_plan
from day0.plan.config import KvCacheDtype, Serving
from day0.serving.server_options import TABLE, choices_of, read_arguments

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
DEFAULT |= {
    "defaults": {"suite": "demo", "expected_disagreement_rate": 0.01},
    "releases": [{"model": "tiny-llama", "recipe": "fp8"}],
}
MODEL = {"path": "results/demo/model"}


def mistakes(**changes):
    """What planning says of the default configuration with these keys; "" where it plans it."""
    raw = copy.deepcopy(DEFAULT) | copy.deepcopy(changes)
    try:
        make_plan(raw, is_produced=lambda path: path.startswith("results/demo"), root=ROOT)
    except UnusableInput as error:
        return str(error)
    return ""


def of_server(**serving):
    return mistakes(models={"tiny-llama": MODEL | {"serving": serving}})


OWN, LOOPBACK, OTHER = "the evaluate stage sets this", "listens on loopback", "something else than the checkpoint"
CODE, RANKS = "runs code that changes what the model answers", "set serving.data_parallel_size instead"
ARGUMENTS = [
    (["--port", "8000"], OWN),
    (["--port=8000"], OWN),
    (["--por", "8000"], OWN),
    (["--host=0.0.0.0"], OWN),
    (["--hos=0.0.0.0"], OWN),
    (["--served_model_name", "x"], OWN),
    (["--served-model", "x"], OWN),
    (["--model=/other"], OWN),
    (["--api_key", "x"], OWN),
    (["--api-k=x"], OWN),
    (["--seed", "1"], OWN),
    (["--see=1"], OWN),
    (["--node_rank=1"], OWN),
    (["--master_addr", "x"], OWN),
    (["--headless"], OWN),
    (["--headl"], OWN),
    (["--generation-config", "auto"], OWN),
    (["--generation_config=auto"], OWN),
    (["--override-generation-config", '{"temperature": 1}'], OWN),
    (["--override-generation-config.temperature", "1"], OWN),
    (["--override_generation_config.temperature=1"], OWN),
    (["-tp", "4"], "set serving.tensor_parallel_size"),
    (["-tp=4"], "set serving.tensor_parallel_size"),
    (["--tensor_parallel_size=4"], "set serving.tensor_parallel_size"),
    (["--tensor-parallel", "4"], "set serving.tensor_parallel_size"),
    (["-pp", "2"], "set serving.pipeline_parallel_size"),
    (["-dp", "2"], "set serving.data_parallel_size"),
    (["--max_model_len", "10"], "set serving.max_model_len"),
    (["--max-model=10"], "set serving.max_model_len"),
    (["--dtype=float16"], "set serving.dtype"),
    (["--dtyp", "half"], "set serving.dtype"),
    (["--kv_cache_dtype", "fp8"], "set serving.kv_cache_dtype"),
    (["--trust-remote-code"], "the model's own trust_remote_code"),
    (["--trust_remote_code"], "the model's own trust_remote_code"),
    (["--trust-rem"], "the model's own trust_remote_code"),
    (["--no-trust-remote-code"], "the model's own trust_remote_code"),
    (["--uds", "/tmp/x"], LOOPBACK),
    (["--uds=/tmp/x"], LOOPBACK),
    (["--middleware", "os.system"], LOOPBACK),
    (["--middle=os.system"], LOOPBACK),
    (["--grpc"], LOOPBACK),
    (["--root_path=/x"], LOOPBACK),
    (["--ssl-keyfile", "x"], LOOPBACK),
    (["--hf-token", "x"], "a secret does not belong"),
    (["--hf_token=x"], "a secret does not belong"),
    (["--hf-tok"], "a secret does not belong"),
    (["--config", "x.yaml"], "would bring arguments"),
    (["--config=x.yaml"], "would bring arguments"),
    (["--load-format", "pt"], "expected auto or safetensors"),
    (["--load_format=pt"], "expected auto or safetensors"),
    (["--load-form", "dummy"], "expected auto or safetensors"),
    (["--load-format", "npcache"], "expected auto or safetensors"),
    (["--load-format", "tensorizer"], "expected auto or safetensors"),
    (["--tokenizer", "other"], OTHER),
    (["--tokenizer=other"], OTHER),
    (["--revision", "x"], OTHER),
    (["--hf_config_path=x"], OTHER),
    (["--enable_lora"], OTHER),
    (["--lora-modules", "a=b"], OTHER),
    (["--logits-processors", "x"], "runs code"),
    (["--logits_proc", "x"], "runs code"),
    (["--default-mm-loras", '{"image": "x"}'], OTHER),
    (["--quantization", "fp8"], OTHER),
    (["-q=fp8"], OTHER),
    (["--quantization_config.method", "fp8"], OTHER),
    (["--model-class-overrides", '{"A": "b:C"}'], OTHER),
    (["--runner=pooling"], OTHER),
    (["--conv", "embed"], OTHER),
    (["--skip_tokenizer_init"], OTHER),
    (["--weight-transfer-config", '{"backend": "nccl"}'], OTHER),
    (["--kv-events-config", '{"endpoint": "tcp://*:5557"}'], LOOPBACK),
    (["--kv_events_config.endpoint=tcp://*:5557"], LOOPBACK),
    (["--kv-transfer-config.kv_port", "1"], LOOPBACK),
    (["--ec-transfer-config", "{}"], LOOPBACK),
    (["--ssl-ca", "x"], LOOPBACK),
    (["--grpc-port=1"], LOOPBACK),
    (["--data-parallel-address", "0.0.0.0"], RANKS),
    (["-dpa=0.0.0.0"], RANKS),
    (["-dpn", "1"], RANKS),
    (["--data_parallel_hybrid_lb"], RANKS),
    (["-dph"], RANKS),
    (["--worker-cls", "a.B"], CODE),
    (["--worker_ext=a.B"], CODE),
    (["--scheduler-cls=a.B"], CODE),
    (["--io-processor-plugin", "x"], CODE),
    (["--log-config-file", "x"], OWN),
    (["--logging_config", "x"], OWN),
    (["--", "--port", "1"], "belongs to none"),
    (["--enforce-eager", "--", "/another/model"], "belongs to none"),
    (["-h"], OWN),
    (["--help"], OWN),
    (["--enforce-eager", "--port", "1"], OWN),
    (["--gpu-memory-utilization", "0.9", "--uds=x"], LOOPBACK),
    (["--enforce-eager", "/another/model"], "belongs to no option"),
    (["/another/model"], "belongs to no option"),
    (["--max"], "ambiguous"),
    (["--gpu-memory-utilization"], "expected one argument"),
]


@pytest.mark.parametrize(("arguments", "said"), ARGUMENTS, ids=[" ".join(row[0]) for row in ARGUMENTS])
def test_an_argument_that_may_not_be_is_refused_in_every_spelling(arguments, said):
    assert said in of_server(extra_arguments=arguments)


ALLOWED = [
    ["--gpu-memory-utilization", "0.9"],
    ["--gpu_memory_utilization=0.9"],
    ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    ["--load-format", "safetensors"],
    ["--load_format=auto"],
    ["-O3"],
    ["-O", "2"],
    ["--compilation-config.level", "3"],
    ["--max-num-seqs=64"],
    ["--an-option-of-a-later-version", "1"],
    ["--kv-cache-dtype-skip-layers", "0", "1"],
]


@pytest.mark.parametrize("arguments", ALLOWED, ids=" ".join)
def test_what_the_engine_may_be_told_is_let_through(arguments):
    assert Serving(extra_arguments=arguments).extra_arguments == arguments


def test_the_table_is_of_the_locked_engine_and_the_choices_are_its_own():
    assert f"vllm=={read_json(TABLE)['version']}" in (ROOT / "envs" / "serve.cuda.lock").read_text()
    assert KvCacheDtype.__args__ == choices_of("--kv-cache-dtype")
    assert set(Serving.model_fields["dtype"].annotation.__args__) <= set(choices_of("--dtype"))
    assert read_arguments(["--tensor_par", "4"])[0].option == "--tensor-parallel-size"


SERVING = [
    ({"kv_cache_dtype": "fp9"}, "kv_cache_dtype: found 'fp9'"),
    ({"kv_cache_dtype": "$(id)"}, "kv_cache_dtype: found '$(id)'"),
    ({"kv_cache_dtype": ""}, "kv_cache_dtype: found ''"),
    ({"kv_cache_dtype": "FP8"}, "kv_cache_dtype: found 'FP8'"),
    ({"dtype": "int3"}, "dtype: found 'int3'"),
    ({"container": {"image": "x", "runtime": "sh"}}, "runtime: found 'sh'"),
    ({"container": {"image": "--privileged"}}, "image: found '--privileged'; the runtime would take it for an option"),
    ({"container": {"image": "a\nb"}}, "image: found"),
    ({"container": {"image": " "}}, "image: found"),
    ({"container": {"image": "x", "python": "-v/:/h"}}, "python: found '-v/:/h'; the runtime would take it"),
    ({"container": {"image": "x", "python": ""}}, "python: found"),
]


@pytest.mark.parametrize(("serving", "said"), SERVING)
def test_a_choice_is_one_that_there_is(serving, said):
    assert said in of_server(**serving)


OF_CONTAINERS = [
    (["--network", "bridge"], OWN),
    (["--net=host"], OWN),
    (["--name=x"], OWN),
    (["--rm=false"], OWN),
    (["--entrypoint", "sh"], OWN),
    (["--detach"], OWN),
    (["-d"], OWN),
    (["-itd"], OWN),
    (["-p", "0.0.0.0:1:1"], OWN),
    (["-p1:1"], OWN),
    (["-P"], OWN),
    (["--publish=1:1"], OWN),
    (["--env", "HF_TOKEN=abc"], "HF_TOKEN: a secret does not belong"),
    (["--env=HF_TOKEN=abc"], "HF_TOKEN: a secret does not belong"),
    (["-eHF_TOKEN=abc"], "HF_TOKEN: a secret does not belong"),
    (["another-image"], "expected options of docker"),
    (["--pull=never", "--"], "expected options of docker"),
]


@pytest.mark.parametrize(("arguments", "said"), OF_CONTAINERS, ids=[" ".join(row[0]) for row in OF_CONTAINERS])
def test_what_the_stage_tells_a_runtime_itself_is_refused(arguments, said):
    assert said in of_server(container={"image": "x", "runtime": "docker", "arguments": arguments})


@pytest.mark.parametrize("runtime", ["docker", "apptainer"])
def test_what_a_runtime_may_be_told_is_let_through(runtime):
    own = {"docker": ["-v/data:/data", "--env", "HF_HOME=/hf"], "apptainer": ["-p", "--bind", "/data"]}[runtime]
    assert of_server(container={"image": "docker://host:5000/a@sha256:0", "runtime": runtime, "arguments": own}) == ""


FLAGS = [
    "--acc=x",
    "--parti=x",
    "-Abob",
    "--chd=/x",
    "--array=1-9",
    "-a1-9",
    "--wrap=id",
    "--wait",
    "-W",
    "--test-only",
]


@pytest.mark.parametrize("flag", [*FLAGS, "--", "-", "bare", "--mem_per_cpu=1\0"])
def test_a_flag_of_sbatch_that_the_executor_sets_is_refused_in_every_spelling(flag):
    assert "cluster.extra" in mistakes(cluster={"extra": [flag]})


@pytest.mark.parametrize("flag", ["--mem-bind=local", "--nice=100", "--exclusive=user", "--time-min=5", "-xnode1"])
def test_other_flags_of_sbatch_are_let_through(flag):
    assert mistakes(cluster={"extra": [flag]}) == ""


VARIABLES = {
    "VLLM_SERVER_DEV_MODE": CODE,
    "VLLM_ALLOW_INSECURE_SERIALIZATION": CODE,
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": OTHER,
    "VLLM_USE_MODELSCOPE": OTHER,
    "VLLM_LOOPBACK_IP": LOOPBACK,
    "VLLM_PORT": LOOPBACK,
    "VLLM_LOGGING_CONFIG_PATH": "reads the server's log",
    "A=B": "is no name of a variable",
    "A B": "is no name of a variable",
    "": "is no name of a variable",
    "1A": "is no name of a variable",
    "A\n": "is no name of a variable",
}


@pytest.mark.parametrize("name", VARIABLES, ids=ascii)
def test_a_variable_of_the_server_that_may_not_be_is_refused(name):
    assert VARIABLES[name] in of_server(environment={name: "1"})


UNWRITABLE = {
    "argument": {"models": {"tiny-llama": MODEL | {"serving": {"extra_arguments": ["--max-num-seqs", "4\0"]}}}},
    "variable": {"models": {"tiny-llama": MODEL | {"serving": {"environment": {"A": "a\0b"}}}}},
    "flag": {"cluster": {"gpu_extra": ["--wckey=a\0"]}},
    "name": {"mlflow": {"tracking_uri": "sqlite:///x", "experiment": "\0"}},
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_text_that_no_command_line_can_hold_is_refused_with_its_place(name):
    said = mistakes(**UNWRITABLE[name])
    assert "which no command line and no file's name can hold" in said and said.count("\n") == 1


REPOSITORIES = ["../x", "a/..", "./.", "-/-", "a/b.git", "a/b--c", "a/" + "b" * 97, "ä/b", "a", "a/b/c", "a/b\n"]


@pytest.mark.parametrize("name", REPOSITORIES, ids=ascii)
def test_a_repository_that_no_hub_takes_is_refused(name):
    assert "is no repository id" in mistakes(publish={"hub": name})
    assert "is no repository id" in mistakes(models={"tiny-llama": {"hub": name, "revision": "a" * 40}})


def test_a_repository_is_checked_with_its_fields_filled_in():
    release = {"model": "tiny-llama", "recipe": "fp8"}
    assert mistakes(publish={"hub": "a/{model}-{release}"}) == ""
    for name in ("a--b", "a.", "b" * 96):
        said = mistakes(publish={"hub": "a/x{release}"}, releases=[release | {"name": name}])
        assert "releases[0].publish" in said and "is no repository id" in said, name


def test_a_name_of_what_the_graph_makes_itself_is_reserved(tmp_path):
    assert "is reserved" in mistakes(models={"index.html": MODEL}, releases=[{"model": "index.html", "recipe": "fp8"}])
    for name in ("source.json", "logs", "preflight.ok"):
        assert "is reserved" in mistakes(releases=[{"model": "tiny-llama", "recipe": "fp8", "name": name}])
        recipes = {name: {"preset": "fp8"}}
        assert "is reserved" in mistakes(recipes=recipes, releases=[{"model": "tiny-llama", "recipe": name}])
    for name in ("checkpoint", "release", "logs"):
        assert "is reserved" in mistakes(releases=[{"model": "tiny-llama", "recipe": "fp8", "suite": name}])


SECRET_NAMES = ("HF_TOKEN", "GITHUB_PAT", "REGISTRY_AUTH", "API_KEY", "DB_PASSWORD", "DB_PASSWD", "X_PASS", "MYAPIKEY")
SECRET_NAMES += ("AWS_SECRET_ACCESS_KEY", "SESSION_COOKIE", "PROXY_AUTHORIZATION", "azure_credentials", "TOKENS", "PAT")
SECRET_NAMES += ("HFTOKEN", "githubToken", "CLIENTSECRET", "APIKEYS", "TOKEN2", "JWT", "PROXY_PASSWD")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_variable_that_is_named_like_a_secret_is_refused(name):
    said = of_server(environment={name: "abcdefg"})
    assert f"{name}: a secret does not belong in a file" in said and "abcdefg" not in said


@pytest.mark.parametrize(
    "name", ["VLLM_ATTENTION_BACKEND", "PATH", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PATTERN", "AUTHOR"]
)
def test_a_variable_that_is_no_secret_is_let_through(name):
    assert of_server(environment={name: "1"}) == ""


X = "aB3dE5gH7jK9mN1pQ3sT5vW7y"
SECRET_VALUES = {
    "hub": f"hf_{X}",
    "github": f"ghp_{X}",
    "github, fine": f"github_pat_{X}",
    "gitlab": f"glpat-{X}",
    "api": f"sk-{X}",
    "nvidia": f"nvapi-{X}",
    "slack": f"xoxb-{X}",
    "aws": "AKIAABCDEFGHIJKLMNOP",
    "web token": f"eyJhbGciOiJIUzI1NiJ9.{X}.{X}",
    "user in an address": "https://user:pass@example.org/x",
    "token in an address": f"https://example.org/x?token={X}",
    "signature in an address": f"https://example.org/x?a=1&sig={X}",
    "key in an address": f"https://example.org/x?X-Amz-Signature={X}",
    "private token in an address": f"https://example.org/x?private_token={X}",
    "token after an address": f"https://example.org/x#access_token={X}",
    "address without a scheme": "//user:pass@example.org/x",
    "google": f"AIza{X}0123456789",
    "azure": f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={X}==",
    "databricks": "dapi0123456789abcdef0123456789abcdef",
    "header": f"Authorization: Bearer {X}",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
}
PLACES = {
    "environment": lambda text: {"models": {"tiny-llama": MODEL | {"serving": {"environment": {"NOTE": text}}}}},
    "argument": lambda text: {"models": {"tiny-llama": MODEL | {"serving": {"extra_arguments": ["--x", text]}}}},
    "builder": lambda text: {"builder": f"urn:{text}"},
    "dataset": lambda text: {"quantization": {"calibration": {"dataset": text}}},
    "published": lambda text: {"publish": {"folder": text}},
    "flags of sbatch": lambda text: {"cluster": {"extra": [f"--wckey={text}"]}},
}


@pytest.mark.parametrize("kind", sorted(SECRET_VALUES))
def test_a_value_that_looks_like_a_secret_is_refused_wherever_it_stands(kind):
    for place, changes in PLACES.items():
        said = mistakes(**changes(SECRET_VALUES[kind]))
        assert "a secret does not belong in a file" in said, place


NAMES = [
    "a b",
    "a{b}",
    "a\nb",
    "a" * 300,
    "",
    "../x",
    "/x",
    "a;b",
    "$(id)",
    "-x",
    ".x",
    "a\tb",
    "ä",
    "a\x00",
    "a/b",
    "nul\u202e",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_folders_is_refused_with_its_place(name):
    assert "releases[0].name" in mistakes(releases=[{"model": "tiny-llama", "recipe": "fp8", "name": name}])
    models = {name: MODEL}
    assert "models" in mistakes(models=models, releases=[{"model": name, "recipe": "fp8"}])


PATHS = {
    "models": lambda path: {"models": {"tiny-llama": {"path": path}}},
    "checkpoint": lambda path: {"releases": [{"model": "tiny-llama", "recipe": "fp8", "checkpoint": path}]},
    "calibration": lambda path: {"quantization": {"calibration": {"dataset": path}}},
    "external_scores": lambda path: {"external_scores": path},
    "containers": lambda path: {"containers": {"quantize": {"image": path}}},
    "publish": lambda path: {"publish": {"folder": path}},
    "card.template": lambda path: {"card": {"template": path}},
    "mounts": lambda path: {"containers": {"mounts": [path]}},
    "mlflow": lambda path: {"mlflow": {"tracking_uri": path}},
}
NO_PATHS = {
    "empty": "",
    "blank": " ",
    "line": "a\nb",
    "nul": "a\x00b",
    "a part": "x" * 300,
    "all": "/".join("yyyy" * 999),
}


@pytest.mark.parametrize("place", sorted(PATHS))
@pytest.mark.parametrize("name", sorted(NO_PATHS))
def test_a_path_that_is_none_is_refused_with_its_place_in_one_sentence(place, name):
    first, *others = mistakes(**PATHS[place](NO_PATHS[name])).splitlines()[1:]
    assert place in first and "found" in first and len(first) < 500, first
    # Without a destination its release cannot be published either.
    assert [other for other in others if "names no destination" not in other] == []


@pytest.mark.parametrize("folder", ["a{b", "a}b", "{model", "{{model}}", "a{", "{model}{", "{}"])
def test_a_brace_that_holds_no_name_is_refused_with_its_place(folder):
    said = mistakes(publish={"folder": folder})
    assert said.splitlines()[1].startswith("  publish: "), said
    assert "cannot be filled in" in said or "braces stand around model and release only" in said, said


DESTINATIONS = [
    "/",
    ".",
    "..",
    "results",
    "./results/",
    "results/tiny-llama",
    "results/{model}/{release}/release",
    "/etc",
]
DESTINATIONS += ["config", "results/../results", "~", "/root", "/home", "/tmp", "scripts", ".git", "envs"]


@pytest.mark.parametrize("folder", DESTINATIONS)
def test_a_destination_that_would_destroy_something_is_refused(folder):
    said = mistakes(publish={"folder": folder})
    assert "publish" in said and folder.format(model="tiny-llama", release="fp8") in said, said


NO_RESULTS = {
    "a link to nowhere": (lambda path: path.symlink_to("nowhere/there"), "a link to nowhere/there, where no folder is"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "a link to results, where no folder is"),
    "a link to a file": (lambda path: path.symlink_to("/etc/hosts"), "a link to /etc/hosts, where no folder is"),
    "a file": (lambda path: path.touch(), "is a file; expected a folder, or nothing"),
}


@pytest.mark.parametrize("kind", sorted(NO_RESULTS))
def test_results_that_are_no_folder_are_named_before_anything_starts(tmp_path, kind):
    make, said = NO_RESULTS[kind]
    make(tmp_path / "results")
    with pytest.raises(UnusableInput) as caught:
        make_plan(DEFAULT, is_produced=lambda path: path.startswith("results/demo"), root=tmp_path, project=ROOT)
    assert f"results: {said}" in str(caught.value) or f"results: is {said}" in str(caught.value)


def test_results_may_be_a_link_to_a_folder_or_not_exist(tmp_path):
    for name in ("config", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_plan(DEFAULT, is_produced=lambda path: path.startswith("results/demo"), root=tmp_path)
    (tmp_path / "results").symlink_to("/tmp")
    make_plan(DEFAULT, is_produced=lambda path: path.startswith("results/demo"), root=tmp_path)


def test_two_releases_do_not_share_a_destination():
    releases = [{"model": "tiny-llama", "recipe": name} for name in ("fp8", "nvfp4")]
    said = mistakes(publish={"folder": "/srv/released"}, releases=releases)
    assert "the destination of another release" in said
    assert mistakes(publish={"folder": "/srv/released/{model}-{release}"}, releases=releases) == ""


BOMB = "a0: &a0 x\n" + "".join(f"a{i + 1}: &a{i + 1} [" + ", ".join([f"*a{i}"] * 9) + "]\n" for i in range(12))
FILES = {
    "a key twice": ("builder: urn:a\nbuilder: urn:b\n", "stands in lines 1 and 2"),
    "a key twice within": ("models:\n  a: {path: x, path: y}\n", "stands twice in line 2"),
    "a bomb": (BOMB, "more than"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "nests deeper"),
    "a tag": ("a: !!python/object/apply:os.system [id]\n", "is not known here"),
    "two documents": ("a: 1\n---\nb: 2\n", "expected a single document"),
    "no mapping": ("- a\n", "expected a YAML mapping"),
    "no text": (b"\xff\xfe\x00", "UTF-8"),
    "itself": ("a: &a [*a]\n", "stands within itself"),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_configuration_file_that_means_two_things_is_refused_at_once(tmp_path, name):
    text, said = FILES[name]
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = time.process_time()
    with pytest.raises(UnusableInput) as caught:
        check_configuration_file(file)
    assert said in str(caught.value) and str(file) in str(caught.value)
    assert time.process_time() - began < 1


def test_a_json_configuration_with_a_key_twice_is_refused(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"builder": "urn:a", "builder": "urn:b"}')
    with pytest.raises(UnusableInput, match="stands twice"):
        check_configuration_file(file)


def test_the_default_configuration_is_sound():
    """The faults are refused for what they are."""
    assert mistakes() == "" and json.dumps(DEFAULT)
