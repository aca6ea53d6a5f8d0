#!/usr/bin/env python3
"""Writes a model directory for measuring a service without a model: `serve --dummy-weights`.

    dummy_model.py FOLDER

The shape is Llama-3-8B's. Every one of the 128,256 token ids has a text of its own, so that each
sampled token reaches the client and TTFT and TPOT mean what they say. The weights' file has the
tensors' names and shapes and, where the file system can, no bytes.
"""
import argparse
import json
import struct
from pathlib import Path

HIDDEN, FFN, LAYERS, KV, VOCAB, SPECIAL = 4096, 14336, 32, 1024, 128256, 256


def byte_letters():
    """The letters that stand for the 256 bytes in byte-level vocabularies (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def tokenizer():
    vocab = {letter: i for i, letter in enumerate(byte_letters())}
    first_special = VOCAB - SPECIAL
    vocab |= {f"\u0120t{i}": i for i in range(len(vocab), first_special)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    special = [{"id": first_special + i, "content": f"<|s{i}|>", "single_word": False,
                "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for i in range(SPECIAL)]
    return {"version": "1.0", "added_tokens": special, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def shapes():
    yield "model.embed_tokens.weight", [VOCAB, HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [VOCAB, HIDDEN]
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", [HIDDEN]
        yield layer + "post_attention_layernorm.weight", [HIDDEN]
        for name, rows in ("q", HIDDEN), ("k", KV), ("v", KV), ("o", HIDDEN):
            yield layer + f"self_attn.{name}_proj.weight", [rows, HIDDEN]
        yield layer + "mlp.gate_proj.weight", [FFN, HIDDEN]
        yield layer + "mlp.up_proj.weight", [FFN, HIDDEN]
        yield layer + "mlp.down_proj.weight", [HIDDEN, FFN]


def write_weights(path):
    header, at = {}, 0
    for name, shape in shapes():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": VOCAB, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": VOCAB - SPECIAL,
        "eos_token_id": VOCAB - SPECIAL + 1}))
    write_weights(folder / "model.safetensors")


if __name__ == "__main__":
    main()
