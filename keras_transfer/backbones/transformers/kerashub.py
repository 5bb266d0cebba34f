"""Transformers of KerasHub as checkpoints of Hugging Face's transformers, with stock layers here.

KerasHub hides all blocks in one layer. Files of models with its ViT or DeiT don't open again, as their
layers don't take what they say of themselves (keras-hub 0.32.0).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

# From the path of a weight, without the layer around all, to the name of a tensor; of the blocks the
# number comes first. What matches none is no part of the features, such as a token for masks.
_NAMES: dict[str, tuple[int, list[tuple[str, str]]]] = {
    "vit": (
        1,
        [
            (r".*/class_token", "embeddings.cls_token"),
            (r".*/distillation_token", "embeddings.distillation_token"),
            (r".*/position_embedding(/embeddings)?", "embeddings.position_embeddings"),
            (r".*/patch_embedding/(kernel|bias)", r"embeddings.patch_embeddings.projection.\1"),
            (r".*/ln_1/(\w+)", r"layernorm_before.\1"),
            (r".*/ln_2/(\w+)", r"layernorm_after.\1"),
            (r".*/mha/(query|key|value)/(\w+)", r"attention.attention.\1.\2"),
            (r".*/mha/attention_output/(\w+)", r"attention.output.dense.\1"),
            (r".*/mlp/dense(_1)?/(\w+)", r"intermediate.dense.\2"),
            (r".*/(mlp/dense_2|output_layer/output)/(\w+)", r"output.dense.\2"),
            (r".*/ln/(\w+)", r"layernorm.\1"),
        ],
    ),
    "dinov2": (
        0,
        [
            (r".*embeddings/(cls_token|register_tokens)", r"embeddings.\1"),
            (r".*embeddings/interpolated_position_embeddings", "embeddings.position_embeddings"),
            (
                r".*embeddings/patch_embeddings/projection/(\w+)",
                r"embeddings.patch_embeddings.projection.\1",
            ),
            (r".*/(norm[12])/(\w+)", r"\1.\2"),
            (r".*/attention/(query|key|value)/(\w+)", r"attention.attention.\1.\2"),
            (r".*/attention_output/(\w+)", r"attention.output.dense.\1"),
            (r".*/(layer_scale[12])/lambda1", r"\1.lambda1"),
            (r".*/mlp/(fc1|fc2|weights_in|weights_out)/(\w+)", r"mlp.\1.\2"),
            (r".*layernorm/(\w+)", r"layernorm.\1"),
        ],
    ),
}
_BLOCK = re.compile(r".*/(?:transformer_block|layers)_(\d+)/.*")
_PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def converted(backbone: keras.Model) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Return `config.json` and the tensors of a backbone of KerasHub, as transformers has them.

    Args:
        backbone: any model.

    Returns:
        What `settings.network_of` takes, and the tensors by name; None if the backbone is none of ViT,
        DeiT and DINOv2, or has a setting that transformers hasn't.
    """
    kind = type(backbone).__name__ if type(backbone).__module__.startswith("keras_hub.") else ""
    if kind not in _SETTINGS:
        return None
    settings = _SETTINGS[kind](backbone.get_config())
    if settings is None:
        return None
    first, names = _NAMES["dinov2" if kind == "DINOV2Backbone" else "vit"]
    tensors = {}
    for variable in backbone.variables:
        name = _name(variable.path, first, names)
        if name is not None:
            tensors[name] = _tensor(name, keras.ops.convert_to_numpy(variable))
    return settings, tensors


def _name(path: str, first: int, names: list[tuple[str, str]]) -> str | None:
    for pattern, name in names:
        match = re.fullmatch(pattern, path)
        if match is not None:
            block = _BLOCK.fullmatch(path)
            before, _, part = match.expand(name).rpartition(".")
            found = f"{before}.{_PARTS.get(part, part)}"
            return found if block is None else f"encoder.layer.{int(block[1]) - first}.{found}"
    return None


def _tensor(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array in the order of axes that transformers has."""
    if "patch_embeddings" in name and name.endswith("weight"):
        return array.transpose(3, 2, 0, 1)
    if "attention.attention" in name:  # a vector for each head
        array = array.reshape(*(array.shape[:1] if array.ndim == 3 else ()), -1)
    elif "attention.output" in name and array.ndim == 3:
        array = array.reshape(-1, array.shape[-1])
    return array.T if name.endswith("weight") else array


def _vit(config: Mapping[str, Any], kind: str = "vit") -> dict[str, Any] | None:
    plain = config.get("use_mlp_bias", True) and config.get("use_patch_bias", True)
    if not plain or not config.get("use_class_token", True) or not config["use_mha_bias"]:
        return None
    return {
        "model_type": kind,
        "image_size": list(config["image_shape"][:2]),
        "patch_size": list(config["patch_size"]),
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "intermediate_size": config.get("mlp_dim") or config["intermediate_dim"],
        "layer_norm_eps": config["layer_norm_epsilon"],
    }


def _dinov2(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config["apply_layernorm"] or config["use_swiglu_ffn"]:
        return None
    registers = config["num_register_tokens"]
    return {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "image_size": list(config["image_shape"][:2]),
        "patch_size": config["patch_size"],
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "mlp_ratio": config["intermediate_dim"] / config["hidden_dim"],
        "num_register_tokens": registers,
    }


_SETTINGS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "ViTBackbone": _vit,
    "DeiTBackbone": lambda config: _vit(config, "deit"),
    "DINOV2Backbone": _dinov2,
}
