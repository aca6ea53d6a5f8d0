#!/usr/bin/env python3
"""Compares the GPU rank with Hugging Face transformers on tiny models of each family.

    compare_transformers.py CUDA_LOGITS [--modes MODE,...] [CASE ...]

Each model is trained for some seconds to continue sequences that follow a rule: a model of random
weights has no margins between its best tokens, so that greedy decoding would compare rounding. It is
then run in every mode (weights and KV in bf16 or fp8, see MODES), fp8 models also from directories
as compressed-tensors and ModelOpt write them. The reference runs in fp32 on the very weights that the
file means and, where the rank computes with fp8 activations or KV, rounds those the same way: what
is left is what the kernels do wrong.

Prints one JSON line a case and mode: the mean KL divergence of teacher-forced predictions, the same
against the unrounded model, how often the best token agrees, and the share of prompts with the same
64 greedy tokens. Where prompts part, `margins` are the nats by which the reference prefers its token
to the rank's, and `noise` is the root mean square of what its preference for the best token over the
second one changes by: margins of that size are ties. With --self the reference is also held against
itself, once more with everything between its operations stored in bf16, as ranks store it, and its
arithmetic still in fp32 (`self_greedy_64`, `self_margins`, `self_noise`): what any rank of bf16
activations must be expected to lose. It changes no verdict. Exits 1 when a KL is 1e-3 or more or fewer than 95 % of the prompts agree; modes
with fp8 KV are reported only.
"""
import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

import quantised_checkpoint as quantised

VOCAB = 256
SIZES = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=3, vocab_size=VOCAB,
             max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=64)


def heads(query, kv, size):
    return dict(num_attention_heads=query, num_key_value_heads=kv, head_dim=size)


# name: (family, what it has besides SIZES). Query heads a KV head: 1, 2, 4, 8, 16.
CASES = {
    "llama": ("llama", dict(**heads(4, 2, 64), tie_word_embeddings=False)),
    "llama3-rope": ("llama", dict(**heads(4, 4, 128), tie_word_embeddings=True,
                                  rope_parameters=LLAMA3_ROPE)),
    "mistral": ("mistral", dict(**heads(8, 2, 64), tie_word_embeddings=False, sliding_window=24)),
    "qwen2": ("qwen2", dict(**heads(8, 1, 64), tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(**heads(16, 1, 128), tie_word_embeddings=False)),
}

# name: (kind of directory, options of cuda_logits, fp8 activations, fp8 KV)
MODES = {
    "bf16": ("plain", [], False, False),
    "fp8": ("plain", ["--fp8"], True, False),
    "fp8-kv": ("plain", ["--fp8-kv"], False, True),
    "fp8+kv": ("plain", ["--fp8", "--fp8-kv"], True, True),
    "ct-channel": ("ct-channel", ["--stored"], True, False),
    "ct-channel-as-bf16": ("ct-channel", [], False, False),
    "ct-tensor": ("ct-tensor", ["--stored"], True, False),
    "modelopt+kv": ("modelopt", ["--stored", "--fp8-kv"], True, True),
    # With the kernels that are fastest rather than the library's guesses; not run unless named.
    "bf16-tuned": ("plain", ["--tune"], False, False),
    "fp8-tuned": ("plain", ["--fp8", "--tune"], True, False),
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


def train(name, device, steps):
    torch.manual_seed(0)
    family, extra = CASES[name]
    config_class, model_class = CLASSES[family]
    model = model_class(config_class(**SIZES, **extra)).to(device)
    for parameter, p in model.named_parameters():  # start where they would test nothing
        if parameter.endswith("_proj.bias"):
            torch.nn.init.normal_(p, std=0.2)
        if parameter.endswith("norm.weight"):
            torch.nn.init.normal_(p, mean=1.0, std=0.1)
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        batch = patterns(128, 48, generator).to(device)
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.to(torch.bfloat16).eval(), loss.item()


class Fp8Cache(transformers.DynamicCache):
    """Keys and values as they come back from e4m3, each layer with its scales."""

    def __init__(self, config, scales):
        super().__init__(config=config)
        self.scales = scales

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        k, v = self.scales[layer_idx] if self.scales else (1.0, 1.0)
        return super().update(quantised.round_to(key_states, k),
                              quantised.round_to(value_states, v), layer_idx, *args, **kwargs)


class Reference:
    """The model in fp32, with the roundings that the rank makes on purpose."""

    def __init__(self, model, weights, fp8_activations, fp8_kv, kv_scales):
        self.model = copy.deepcopy(model).float()
        self.fp8_kv, self.kv_scales = fp8_kv, kv_scales
        for name, module in self.model.named_modules():
            if not isinstance(module, torch.nn.Linear) or name == "lm_head":
                continue
            if name in weights:
                module.weight.data = weights[name].to(module.weight)
            if fp8_activations:
                module.register_forward_pre_hook(
                    lambda _, args: (quantised.round_tokens(args[0]), *args[1:]))

    def store_bf16(self):
        """From now on what lies between the operations is rounded to bf16."""
        def rounded(x):
            return x.bfloat16().float() if torch.is_tensor(x) and x.is_floating_point() else x

        def after(_module, _args, out):
            return (rounded(out[0]), *out[1:]) if isinstance(out, tuple) else rounded(out)

        def before(_module, args):
            return (rounded(args[0]), *args[1:])

        layers = {type(self.model.model.layers[0])}
        for name, module in self.model.named_modules():
            if name == "lm_head":
                module.register_forward_pre_hook(before)
            elif isinstance(module, (torch.nn.Linear, torch.nn.Embedding, *layers)):
                module.register_forward_hook(after)
            elif name.endswith("layernorm"):
                module.register_forward_pre_hook(before)  # the residual
            if name.endswith("o_proj"):
                module.register_forward_pre_hook(before, prepend=True)
        return self

    def greedy(self, prompts, n):
        """n tokens a prompt; prompts of one length."""
        cache = self.cache() or transformers.DynamicCache(config=self.model.config)
        ids, out = prompts, []
        for _ in range(n):
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            ids = logits[:, -1:].argmax(-1)
            out.append(ids)
        return torch.cat(out, 1)

    def cache(self):
        return Fp8Cache(self.model.config, self.kv_scales) if self.fp8_kv else None

    def log_probabilities(self, ids):
        out = self.model(input_ids=ids, past_key_values=self.cache(), use_cache=self.fp8_kv)
        return torch.log_softmax(out.logits.double(), -1)


def run_rank(program, folder, tokens, options):
    """Logits [positions, vocabulary] and greedy tokens of every prompt."""
    out = str(folder) + ".out"
    subprocess.run([program, str(folder), tokens, out, *options], check=True, timeout=60)
    logits = np.fromfile(out + ".logits", dtype=np.float32).reshape(-1, VOCAB)
    with open(out + ".greedy") as f:
        return logits, [[int(t) for t in line.split()] for line in f]


def preference(log_probabilities, of):
    """By how much the first of the tokens `of` [..., 2] is preferred to the second."""
    pair = log_probabilities.gather(-1, of)
    return pair[..., 0] - pair[..., 1]


def partings(want, tokens):
    """Whether each prompt's tokens are those of the reference, and where not by how much it
    prefers its own at the first difference. want [prompts, tokens, vocabulary]."""
    best = want.argmax(-1)
    differs = best != tokens
    margins = []
    for row in differs.any(1).nonzero()[:, 0].tolist():
        at = int(differs[row].int().argmax())
        margins.append(float(want[row, at, best[row, at]] - want[row, at, tokens[row, at]]))
    return int((~differs).all(1).sum()), margins


@torch.no_grad()
def compare(reference, plain, prompts, logits, greedy, device):
    """The reference sees a prompt with the rank's 64 tokens behind it: where it would have chosen
    each of them, it would have made the same ones."""
    kl, kl_plain, agree, same, noise, margins, n = 0.0, 0.0, 0, 0, 0.0, [], 0
    for i in range(0, len(prompts), 10):  # ten of a length
        length = len(prompts[i])
        tokens = torch.tensor(greedy[i:i + 10]).to(device)
        ids = torch.cat([torch.stack(prompts[i:i + 10]).to(device), tokens], 1)
        want = reference.log_probabilities(ids)
        agreeing, parted = partings(want[:, length - 1:-1], tokens)
        same, margins = same + agreeing, margins + parted
        want, exact = want[:, :length], plain.log_probabilities(ids[:, :length])
        mine = logits[n:n + 10 * length].reshape(10, length, VOCAB).astype(np.float64)
        mine = torch.log_softmax(torch.from_numpy(mine).to(device), -1)
        kl += float((want.exp() * (want - mine)).sum())
        kl_plain += float((exact.exp() * (exact - mine)).sum())
        agree += int((want.argmax(-1) == mine.argmax(-1)).sum())
        first_two = want.topk(2).indices
        noise += float((preference(want, first_two) - preference(mine, first_two)).square().sum())
        n += 10 * length
    return dict(kl=float(f"{kl / n:.2e}"), kl_unrounded=float(f"{kl_plain / n:.2e}"),
                best_token_agrees=round(agree / n, 4), same_greedy_64=round(same / len(prompts), 3),
                margins=[round(m, 4) for m in sorted(margins)], noise=round((noise / n) ** 0.5, 4))


@torch.no_grad()
def compare_self(reference, stored, prompts, device):
    same, noise, margins, n = 0, 0.0, [], 0
    for i in range(0, len(prompts), 10):
        asked = torch.stack(prompts[i:i + 10]).to(device)
        length = asked.shape[1]
        tokens = stored.greedy(asked, 64)
        ids = torch.cat([asked, tokens], 1)
        want = reference.log_probabilities(ids)
        agreeing, parted = partings(want[:, length - 1:-1], tokens)
        same, margins = same + agreeing, margins + parted
        want = want[:, :length]
        first_two = want.topk(2).indices
        again = stored.log_probabilities(ids)[:, :length]
        noise += float((preference(want, first_two) - preference(again, first_two)).square().sum())
        n += 10 * length
    return dict(self_greedy_64=round(same / len(prompts), 3),
                self_margins=[round(m, 4) for m in sorted(margins)],
                self_noise=round((noise / n) ** 0.5, 4))


def run_case(name, program, modes, steps, with_itself):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    begin = time.monotonic()
    model, loss = train(name, device, steps)
    generator = torch.Generator().manual_seed(2)
    prompts = [p for n in (20, 41, 64, 97) for p in patterns(10, n, generator)]
    plain = Reference(model, {}, False, False, None)
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "tokens").write_text("".join(" ".join(map(str, p.tolist())) + "\n" for p in prompts))
        stored = {}  # kind of directory -> its weights and KV scales
        for mode in modes:
            kind, options, fp8_activations, fp8_kv = MODES[mode]
            if kind not in stored:
                stored[kind] = quantised.write(kind, model, root / kind,
                                               prompts[0][None].to(device))
            weights, kv_scales = stored[kind]
            if kind == "plain":
                weights = quantised.by_channel(model)[0] if fp8_activations else {}
            elif not fp8_activations:
                weights = {k: w.to(torch.bfloat16) for k, w in weights.items()}
            reference = Reference(model, weights, fp8_activations, fp8_kv, kv_scales)
            line = dict(case=name, mode=mode, loss=round(loss, 3))
            try:
                logits, greedy = run_rank(program, root / kind, str(root / "tokens"), options)
                line.update(compare(reference, plain, prompts, logits, greedy, device))
                passed = line["kl"] < 1e-3 and line["same_greedy_64"] >= 0.95
                if with_itself:
                    stored_bf16 = Reference(model, weights, fp8_activations, fp8_kv, kv_scales)
                    line.update(compare_self(reference, stored_bf16.store_bf16(), prompts, device))
                line["pass"] = passed or ("reported" if fp8_kv else False)
            except (subprocess.SubprocessError, ValueError) as error:
                line.update({"error": str(error), "pass": False})
            good = good and bool(line["pass"])
            line["seconds"] = round(time.monotonic() - begin, 1)  # since the case began
            print(json.dumps(line), flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--modes", default=",".join(m for m in MODES if "tuned" not in m))
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--self", dest="with_itself", action="store_true",
                        help="hold the reference against itself in bf16, too")
    arguments = parser.parse_args()
    results = [run_case(case, arguments.program, arguments.modes.split(","), arguments.steps,
                        arguments.with_itself)
               for case in arguments.cases or CASES]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
