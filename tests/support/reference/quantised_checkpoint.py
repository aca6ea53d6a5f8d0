"""Writes a Hugging Face model as fp8 checkpoints in the formats that are in use.

    write(kind, model, path, sample) -> (weights, kv_scales)

`kind`: "plain" as it is; "ct-channel" as llm-compressor writes FP8_DYNAMIC (compressed-tensors: one
scale a channel, activations quantised per token as they come); "ct-tensor" as it writes FP8 (one
scale a tensor, for activations too); "modelopt" as NVIDIA's ModelOpt writes FP8 with an FP8 KV cache
(hf_quant_config.json, scalar fp32 scales). `sample` [1, tokens] calibrates what is static. Returned:
what the file's matrices mean, fp32 by module name, and the (k, v) scales of every layer or None.
"""
import json
from pathlib import Path

import safetensors.torch
import torch

LARGEST = 448.0  # of e4m3
TINY = 1e-12


def round_to(x, scale):
    """x as e4m3 codes times scale, saturating."""
    codes = (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return (codes.float() * scale).to(x.dtype)


def round_tokens(x):
    """Activations: one scale a token."""
    largest = x.float().abs().amax(-1, keepdim=True)
    return round_to(x, torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest)))


def linear_layers(model):
    return {name: module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def quantise(weight, scale):
    codes = (weight.float() / scale.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return codes, codes.float() * scale.float()


def by_channel(model, scale_type=torch.float32):
    """Weights, codes and scales [rows, 1] of every linear layer."""
    weights, codes, scales = {}, {}, {}
    for name, module in linear_layers(model).items():
        largest = module.weight.float().abs().amax(1, keepdim=True).clamp(min=TINY)
        scales[name] = (largest / LARGEST).to(scale_type)
        codes[name], weights[name] = quantise(module.weight, scales[name])
    return weights, codes, scales


def by_tensor(model, scale_type, shape):
    weights, codes, scales = {}, {}, {}
    for name, module in linear_layers(model).items():
        largest = module.weight.float().abs().max().clamp(min=TINY)
        scales[name] = (largest / LARGEST).to(scale_type).reshape(shape)
        codes[name], weights[name] = quantise(module.weight, scales[name])
    return weights, codes, scales


@torch.no_grad()
def calibrate(model, sample):
    """Largest input of every linear layer, largest key and value of every layer."""
    inputs, hooks = {}, []
    for name, module in linear_layers(model).items():
        hooks.append(module.register_forward_pre_hook(
            lambda _, args, name=name: inputs.update({name: args[0].float().abs().max()})))
    cache = model(input_ids=sample, use_cache=True).past_key_values
    for hook in hooks:
        hook.remove()
    return inputs, [(layer.keys.float().abs().max(), layer.values.float().abs().max())
                    for layer in cache.layers]


def save(model, path, tensors, quantization_config):
    """The model's directory with the linear layers' weights replaced by `tensors`."""
    model.config.architectures = [type(model).__name__]  # as save_pretrained() of the model sets it
    model.config.save_pretrained(path)
    model.generation_config.save_pretrained(path)
    state = {name: t.contiguous() for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    state.update(tensors)
    safetensors.torch.save_file({n: t.cpu() for n, t in state.items()},
                                Path(path) / "model.safetensors", metadata={"format": "pt"})
    if quantization_config is not None:
        file = Path(path) / "config.json"
        config = json.loads(file.read_text())
        config["quantization_config"] = quantization_config
        file.write_text(json.dumps(config, indent=2))


def compressed_tensors_config(channel):
    def arguments(dynamic, strategy, observer):
        return {"actorder": None, "block_structure": None, "dynamic": dynamic, "group_size": None,
                "num_bits": 8, "observer": observer, "observer_kwargs": {}, "strategy": strategy,
                "symmetric": True, "type": "float"}
    return {
        "config_groups": {"group_0": {
            "format": "float-quantized",
            "input_activations": arguments(True, "token", None) if channel
            else arguments(False, "tensor", "minmax"),
            "output_activations": None,
            "targets": ["Linear"],
            "weights": arguments(False, "channel" if channel else "tensor", "minmax")}},
        "format": "float-quantized", "global_compression_ratio": None, "ignore": ["lm_head"],
        "kv_cache_scheme": None, "quant_method": "compressed-tensors",
        "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {},
        "version": "0.12.2"}


def write(kind, model, path, sample):
    if kind == "plain":
        model.save_pretrained(path)
        return {}, None
    tensors, kv_scales = {}, None
    inputs, kv = calibrate(model, sample)
    if kind == "ct-channel":
        weights, codes, scales = by_channel(model, torch.bfloat16)
    elif kind == "ct-tensor":
        weights, codes, scales = by_tensor(model, torch.bfloat16, [1])
        for name, largest in inputs.items():
            tensors[name + ".input_scale"] = (largest / LARGEST).to(torch.bfloat16).reshape(1)
    else:
        weights, codes, scales = by_tensor(model, torch.float32, [])
        for name, largest in inputs.items():
            tensors[name + ".input_scale"] = largest / LARGEST
        kv_scales = []
        for i, (k, v) in enumerate(kv):
            attention = f"model.layers.{i}.self_attn."
            tensors[attention + "k_proj.k_scale"] = k / LARGEST
            tensors[attention + "v_proj.v_scale"] = v / LARGEST
            kv_scales.append((float(k / LARGEST), float(v / LARGEST)))
    for name in codes:
        tensors[name + ".weight"] = codes[name]
        tensors[name + ".weight_scale"] = scales[name]
    modelopt = kind == "modelopt"
    save(model, path, tensors,
         None if modelopt else compressed_tensors_config(kind == "ct-channel"))
    if modelopt:
        (Path(path) / "hf_quant_config.json").write_text(json.dumps({
            "producer": {"name": "modelopt", "version": "0.33.0"},
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                             "exclude_modules": ["lm_head"]}}, indent=4))
    return weights, kv_scales
