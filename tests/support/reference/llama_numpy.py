#!/usr/bin/env python3
"""Reference logits of a GGUF llama model: numpy only, float64, written plainly.

Independent of the C++ code: own GGUF parser, own dequantisation, no KV cache. Used to produce
tests/data/smollm2_reference.json:

  llama_numpy.py MODEL.gguf tests/data/smollm2_prompts.json tests/data/smollm2_reference.json

The prompts file holds {"prompts": [{"name": ..., "tokens": [...]}]}. For every position of every
prompt the output holds the best token, the best logits with their ids, the range (max - min) and
the log-sum-exp of all logits, and the logits of a fixed set of ids.
"""
import json
import struct
import sys

import numpy as np

N_BEST = 8
N_PROBES = 8  # fixed token ids whose logits are recorded at each position


class Gguf:
    """Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

    SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path):
        self.data = np.memmap(path, np.uint8, "r")
        self.at = 0
        assert bytes(self.take(4)) == b"GGUF"
        (version,) = self.unpack("I")
        assert version in (2, 3)
        n_tensors, n_values = self.unpack("QQ")
        self.meta = {}
        for _ in range(n_values):
            key = self.string()
            self.meta[key] = self.value(self.unpack("I")[0])
        infos = []
        for _ in range(n_tensors):
            name = self.string()
            (n_dims,) = self.unpack("I")
            dims = self.unpack(f"{n_dims}Q")
            kind, offset = self.unpack("IQ")
            infos.append((name, dims[::-1], kind, offset))
        align = self.meta.get("general.alignment", 32)
        start = (self.at + align - 1) // align * align
        self.tensors = {n: (shape, kind, start + o) for n, shape, kind, o in infos}

    def take(self, n):
        self.at += n
        return self.data[self.at - n : self.at]

    def unpack(self, fmt):
        return struct.unpack("<" + fmt, bytes(self.take(struct.calcsize("<" + fmt))))

    def string(self):
        return bytes(self.take(self.unpack("Q")[0])).decode("utf-8")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            item, n = self.unpack("IQ")
            return [self.value(item) for _ in range(n)]
        return self.unpack(self.SCALARS[kind])[0]

    def load(self, name):
        """One tensor, dequantised to float64."""
        shape, kind, at = self.tensors[name]
        n = int(np.prod(shape))
        if kind == 0:  # F32
            x = self.data[at : at + 4 * n].view("<f4").astype(np.float64)
        elif kind == 1:  # F16
            x = self.data[at : at + 2 * n].view("<f2").astype(np.float64)
        elif kind == 3:  # Q4_1: scale, minimum, 16 bytes; low nibbles are elements 0..15
            b = self.data[at : at + n // 32 * 20].reshape(-1, 20)
            d = np.ascontiguousarray(b[:, 0:2]).view("<f2").astype(np.float64)
            m = np.ascontiguousarray(b[:, 2:4]).view("<f2").astype(np.float64)
            q = np.concatenate([b[:, 4:] & 15, b[:, 4:] >> 4], axis=1)
            x = q * d + m
        elif kind == 8:  # Q8_0: scale, 32 signed bytes
            b = self.data[at : at + n // 32 * 34].reshape(-1, 34)
            d = np.ascontiguousarray(b[:, 0:2]).view("<f2").astype(np.float64)
            x = np.ascontiguousarray(b[:, 2:]).view(np.int8) * d
        else:
            raise ValueError(f"{name}: tensor type {kind} is not implemented")
        return x.reshape(shape)


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x, theta):
    """x [tokens, heads, dim], interleaved pairs (2i, 2i + 1): GGUF permutes llama's q and k."""
    n, _, dim = x.shape
    angle = np.arange(n)[:, None] * theta ** (-np.arange(0, dim, 2) / dim)[None, :]
    c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
    out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
    return out


def forward(gguf, weights, tokens):
    """Logits of all positions, [len(tokens), vocabulary]."""
    meta = gguf.meta
    heads = meta["llama.attention.head_count"]
    kv_heads = meta["llama.attention.head_count_kv"]
    eps = meta["llama.attention.layer_norm_rms_epsilon"]
    theta = meta["llama.rope.freq_base"]
    n = len(tokens)
    hidden = weights["token_embd.weight"][tokens]
    causal = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(meta["llama.block_count"]):
        w = lambda name: weights[f"blk.{i}.{name}.weight"]
        x = rms_norm(hidden, w("attn_norm"), eps)
        q = rotate((x @ w("attn_q").T).reshape(n, heads, -1), theta)
        k = rotate((x @ w("attn_k").T).reshape(n, kv_heads, -1), theta)
        v = (x @ w("attn_v").T).reshape(n, kv_heads, -1)
        mixed = np.empty_like(q)
        for h in range(heads):
            g = h * kv_heads // heads
            scores = q[:, h] @ k[:, g].T / np.sqrt(q.shape[2]) + causal
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, h] = p / p.sum(axis=1, keepdims=True) @ v[:, g]
        hidden = hidden + mixed.reshape(n, -1) @ w("attn_output").T
        x = rms_norm(hidden, w("ffn_norm"), eps)
        gate = x @ w("ffn_gate").T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (x @ w("ffn_up").T)) @ w("ffn_down").T
    x = rms_norm(hidden, weights["output_norm.weight"], eps)
    return x @ weights.get("output.weight", weights["token_embd.weight"]).T


def main():
    model_path, prompts_path, out_path = sys.argv[1:4]
    gguf = Gguf(model_path)
    assert gguf.meta["general.architecture"] == "llama"
    weights = {name: gguf.load(name) for name in gguf.tensors}
    vocab = weights["token_embd.weight"].shape[0]
    probes = [int(x) for x in np.linspace(0, vocab - 1, N_PROBES)]
    prompts = []
    for prompt in json.load(open(prompts_path))["prompts"]:
        logits = forward(gguf, weights, prompt["tokens"])
        positions = []
        for row in logits:
            best = np.argsort(-row, kind="stable")[:N_BEST]
            top = row.max()
            positions.append(
                {
                    "best": [[int(t), round(float(row[t]), 5)] for t in best],
                    "range": round(float(top - row.min()), 5),
                    "lse": round(float(top + np.log(np.exp(row - top).sum())), 5),
                    "probes": [round(float(row[t]), 5) for t in probes],
                }
            )
        prompts.append({"name": prompt["name"], "tokens": prompt["tokens"], "positions": positions})
    lines = [
        json.dumps({k: p[k] for k in ("name", "tokens")})[:-1]
        + ', "positions": [\n'
        + ",\n".join(json.dumps(x, separators=(",", ":")) for x in p["positions"])
        + "]}"
        for p in prompts
    ]
    with open(out_path, "w") as out:
        out.write(f'{{"probe_ids": {probes}, "prompts": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
