#!/usr/bin/env python3
"""Compares the GPU rank with Hugging Face transformers on tiny models of each family.

    compare_transformers.py CUDA_LOGITS [--fp8] [--fp8-kv] [family ...]

Each model is trained for some seconds to continue sequences that follow a rule: a model of random weights has
no margins between its best tokens, so that greedy decoding would compare rounding. Reports, per
family, the mean KL divergence of teacher-forced predictions (the reference runs in fp32 on the same
bf16 weights), how often the best token agrees, and the share of prompts with the same 64 greedy
tokens. Exits 1 when KL >= 1e-3 or fewer than 95 % of the prompts agree.
"""
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

VOCAB = 256
SIZES = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=VOCAB, max_position_embeddings=512,
             tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, head_dim=64)
FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM,
                dict(sliding_window=24)),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, dict(tie_word_embeddings=True)),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {}),
}


RULES = torch.stack([torch.randperm(VOCAB, generator=torch.Generator().manual_seed(9 + i))
                     for i in range(2)])


def patterns(n, length, generator):
    """[n, length] token ids: each the image of the one before it under one of two permutations;
    the first token's last bit says which, so that it takes attention to go on."""
    out = torch.randint(0, VOCAB, (n, length), generator=generator)
    rule = RULES[out[:, 0] % 2]
    for i in range(2, length):
        out[:, i] = rule.gather(1, out[:, i - 1:i])[:, 0]
    return out


def train(family, device):
    torch.manual_seed(0)
    config_class, model_class, extra = FAMILIES[family]
    model = model_class(config_class(**{**SIZES, **extra})).to(device)
    if family == "qwen2":  # biases start at zero and would test nothing
        for name, p in model.named_parameters():
            if name.endswith("_proj.bias"):
                torch.nn.init.normal_(p, std=0.2)
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    steps = 500
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        batch = patterns(128, 48, generator).to(device)
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.to(torch.bfloat16), loss.item()


def compare(family, program, options, device):
    model, loss = train(family, device)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        generator = torch.Generator().manual_seed(2)
        prompts = [p for n in (20, 41, 64, 97) for p in patterns(10, n, generator)]
        with open(folder + "/tokens", "w") as f:
            for p in prompts:
                f.write(" ".join(str(int(t)) for t in p) + "\n")
        subprocess.run([program, folder, folder + "/tokens", folder + "/out", *options], check=True)
        logits = np.fromfile(folder + "/out.logits", dtype=np.float32).reshape(-1, VOCAB)
        greedy = [[int(t) for t in line.split()] for line in open(folder + "/out.greedy")]
    model = model.float().eval()
    kl, agree, n = 0.0, 0, 0
    with torch.no_grad():
        theirs = []
        for i in range(0, len(prompts), 10):  # ten of a length
            ids = torch.stack(prompts[i:i + 10]).to(device)
            out = model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=None,
                                 pad_token_id=0)
            theirs += out[:, ids.shape[1]:].tolist()
        same = sum(a == b for a, b in zip(theirs, greedy))
        for prompt in prompts:
            ids = prompt[None].to(device)
            reference = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
            mine = torch.from_numpy(logits[n:n + len(prompt)].astype(np.float64)).to(device)
            mine = torch.log_softmax(mine, -1)
            kl += float((reference.exp() * (reference - mine)).sum())
            agree += int((reference.argmax(-1) == mine.argmax(-1)).sum())
            n += len(prompt)
    kl, agree, same = kl / n, agree / n, same / len(prompts)
    good = kl < (1e-3 if not options else 5e-2) and same >= 0.95
    print(f'{{"family":"{family}","options":"{" ".join(options)}","loss":{loss:.3f},"kl":{kl:.2e},'
          f'"best_token_agrees":{agree:.4f},"same_greedy_64":{same:.3f},'
          f'"pass":{"true" if good else "false"}}}', flush=True)
    return good


def main():
    program = sys.argv[1]
    options = [a for a in sys.argv[2:] if a.startswith("--")]
    families = [a for a in sys.argv[2:] if not a.startswith("--")] or list(FAMILIES)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = [compare(f, program, options, device) for f in families]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
