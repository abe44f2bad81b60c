"""An oracle for tests and benchmarks: the same weights as a Llama of transformers."""

import torch

# Its parameters have other names.
STARTS = {
    "embedding.": "model.embed_tokens.",
    "blocks.": "model.layers.",
    "head.": "lm_head.",
    "norm.": "model.norm.",
}
INSIDE = {".attention_norm.": ".input_layernorm.", ".mlp_norm.": ".post_attention_layernorm."}
INSIDE |= {f".{w}.": f".self_attn.{w}_proj." for w in "qkvo"}
INSIDE |= {f".{w}.": f".mlp.{w}_proj." for w in ("gate", "up", "down")}


def llama_of(model, **special_tokens):
    """A GPT -> the same model of transformers. special_tokens: eos_token_id and the like.

    Raises ImportError without transformers.
    """
    import transformers

    cfg = model.cfg
    llama_cfg = transformers.LlamaConfig(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.n_embd,
        intermediate_size=cfg.n_hidden,
        num_hidden_layers=cfg.n_layer,
        num_attention_heads=cfg.n_head,
        num_key_value_heads=cfg.n_kv_head,
        max_position_embeddings=cfg.block_size,
        rms_norm_eps=cfg.norm_eps,
        tie_word_embeddings=cfg.tied_head,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_base},
        **special_tokens,
    )
    llama = transformers.LlamaForCausalLM(llama_cfg).to(model.cos.device, torch.float32)
    state = {}
    for name, p in model.state_dict().items():
        start = next(s for s in STARTS if name.startswith(s))
        name = STARTS[start] + name.removeprefix(start)
        for ours, theirs in INSIDE.items():
            name = name.replace(ours, theirs)
        state[name] = p
    llama.load_state_dict(state)
    return llama
