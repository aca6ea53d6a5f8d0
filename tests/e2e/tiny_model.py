"""A Hugging Face directory with a small random Llama, for tests of what `serve` says to it."""
import json
import random
import shutil
import struct
from pathlib import Path

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer" / "smollm.json"
HIDDEN, HEADS, KV_HEADS, FFN = 64, 4, 2, 96


def _vocab():
    tokenizer = json.loads(TOKENIZER.read_text())
    ids = list(tokenizer["model"]["vocab"].values())
    return max(ids + [t["id"] for t in tokenizer["added_tokens"]]) + 1


def tensors():
    """name -> shape"""
    kv = HIDDEN // HEADS * KV_HEADS
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": [_vocab(), HIDDEN],
        layer + "input_layernorm.weight": [HIDDEN],
        layer + "self_attn.q_proj.weight": [HIDDEN, HIDDEN],
        layer + "self_attn.k_proj.weight": [kv, HIDDEN],
        layer + "self_attn.v_proj.weight": [kv, HIDDEN],
        layer + "self_attn.o_proj.weight": [HIDDEN, HIDDEN],
        layer + "post_attention_layernorm.weight": [HIDDEN],
        layer + "mlp.gate_proj.weight": [FFN, HIDDEN],
        layer + "mlp.up_proj.weight": [FFN, HIDDEN],
        layer + "mlp.down_proj.weight": [HIDDEN, FFN],
        "model.norm.weight": [HIDDEN],
    }


def write(folder, shapes=None, dtypes=None, config=None):
    """`shapes`, `dtypes`: by tensor name, instead of what belongs there; a shape None = left out."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": 1, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": _vocab(), "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1, **(config or {})}))
    chance = random.Random(1)
    header, data = {}, b""
    for name, shape in {**tensors(), **(shapes or {})}.items():
        if shape is None:
            continue
        count = 1
        for size in shape:
            count *= size
        dtype = (dtypes or {}).get(name, "F32")
        size = {"F32": 4, "I64": 8, "F64": 8, "BOOL": 1}[dtype]
        values = (struct.pack(f"<{count}f", *(chance.uniform(-0.1, 0.1) for _ in range(count)))
                  if dtype == "F32" else bytes(count * size))
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder
