"""What of a model folder goes into a checkpoint beside the weights, and which chat template is used."""

import json

from day0.source.side_files import carry_side_files, effective_chat_template, merged_config, side_files


def test_the_config_is_the_sources_with_the_declaration():
    merged = merged_config(
        {"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}},
        {"dtype": "bfloat16", "quantization_config": {"quant_algo": "FP8"}},
    )
    assert merged == {"torch_dtype": "bfloat16", "quantization_config": {"quant_algo": "FP8"}}


def test_side_files(tmp_path):
    kept = ["tokenizer.json", "chat_template.jinja", "LICENSE", "sub/vocab.txt", "generation_config.json"]
    left = [
        "model.safetensors",
        "config.json",
        "README.md",
        "pytorch_model.bin",
        ".git/x",
        "model.safetensors.index.json",
    ]
    for name in [*kept, *left, "modeling_x.py"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert side_files(tmp_path, trust_remote_code=False) == sorted(kept)
    assert side_files(tmp_path, trust_remote_code=True) == sorted([*kept, "modeling_x.py"])


def test_the_effective_chat_template(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "a"}]}')
    assert effective_chat_template(tmp_path) == "a"
    (tmp_path / "chat_template.jinja").write_text("b")
    assert effective_chat_template(tmp_path) == "b"


def test_a_checkpoint_holds_the_sources_files_and_the_exports_weights_and_declarations(tmp_path):
    source, checkpoint = tmp_path / "source", tmp_path / "checkpoint"
    (source / "sub").mkdir(parents=True)
    (checkpoint / "folder").mkdir(parents=True)
    (source / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "bfloat16"}))
    exported = {"model_type": "rewritten", "quantization_config": {"quant_algo": "FP8"}}
    (checkpoint / "config.json").write_text(json.dumps(exported))
    for name in ("tokenizer.json", "sub/vocab.txt", "model.safetensors", "modeling_x.py"):
        (source / name).write_text("of the source")
    for name in ("tokenizer.json", "hf_quant_config.json", "model.safetensors", "README.md", "folder/x"):
        (checkpoint / name).write_text("of the export")
    (checkpoint / "model.safetensors").chmod(0o600)
    carry_side_files(source, checkpoint, trust_remote_code=False)
    held = {str(path.relative_to(checkpoint)): path for path in checkpoint.rglob("*") if path.is_file()}
    names = ["config.json", "hf_quant_config.json", "model.safetensors", "sub/vocab.txt", "tokenizer.json"]
    assert sorted(held) == names
    config = json.loads(held.pop("config.json").read_text())
    assert config == {"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": {"quant_algo": "FP8"}}
    of_source = {name for name, path in held.items() if path.read_text() == "of the source"}
    assert of_source == {"sub/vocab.txt", "tokenizer.json"}
    assert held["model.safetensors"].stat().st_mode & 0o777 == 0o644
    carry_side_files(source, checkpoint, trust_remote_code=True)
    assert (checkpoint / "modeling_x.py").is_file()
