"""What a network is made of, by the `config.json` of Hugging Face's transformers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from keras_transfer._lib.checks import did_you_mean, is_whole, one_of
from keras_transfer.backbones.transformers.parts import ACTIVATIONS
from keras_transfer.backbones.transformers.swin import Swin
from keras_transfer.backbones.transformers.vit import VisionTransformer

Config = VisionTransformer | Swin

# What a configuration leaves out: these are the defaults of transformers 5.24.
_VIT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
_DINOV2 = _VIT | {
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "use_swiglu_ffn": False,
}
_DINOV3 = _VIT | {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 6,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
    "num_register_tokens": 0,
}
_CLIP = _VIT | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = _VIT | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True}
_SWIN = {
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
}
_WITH_TEXT = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


def vision_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the network for images, of which a larger one may be a part.

    Raises:
        ValueError: there is none, or it is of an unknown kind.
    """
    kind = config.get("model_type")
    if kind in _WITH_TEXT:
        inner = config.get("vision_config")
        if not isinstance(inner, Mapping):
            inner = {}  # all of it as usual
        return {**inner, "model_type": _WITH_TEXT[kind]}
    if kind in ("clip_text_model", "siglip_text_model"):
        raise ValueError(
            "a backbone must take images; this is the part for texts alone. "
            f"Received: model_type={kind!r}"
        )
    if kind not in _READ:
        known = [*_READ, *_WITH_TEXT]
        raise ValueError(
            f"model_type must be {one_of(known)}{did_you_mean(str(kind), known)} "
            f"Received: model_type={kind!r}"
        )
    return dict(config)


def network_of(config: Mapping[str, Any]) -> Config:
    """Return what a network is made of.

    Dropout and stochastic depth are left out: they are no part of what was learned, but of how the next
    training goes.

    Args:
        config: what `vision_part` gives.

    Raises:
        ValueError: a value makes no sense, or is of something that isn't known here.
    """
    defaults, read = _READ[config["model_type"]]
    given = {name: config.get(name, value) for name, value in defaults.items()}
    for name, usual in defaults.items():
        _check(name, given[name], usual)
    if given["num_channels"] != 3:
        raise ValueError(
            f"num_channels must be 3, of images in RGB. Received: num_channels={given['num_channels']!r}"
        )
    if given["hidden_act"] not in ACTIVATIONS:
        raise ValueError(
            f"hidden_act must be {one_of(ACTIVATIONS)}. Received: hidden_act={given['hidden_act']!r}"
        )
    return read(given, config)


def _check(name: str, value: Any, usual: Any) -> None:
    """Raise if a value isn't of the kind of the usual one."""
    if name in ("image_size", "patch_size"):
        right = _is_size(value)
        kind = "a positive integer, or two"
    elif isinstance(usual, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(usual, list):
        right = isinstance(value, (list, tuple)) and bool(value) and all(map(_is_count, value))
        kind = "a list of positive integers"
    elif isinstance(usual, str):
        right, kind = isinstance(value, str), "a name"
    elif isinstance(usual, int) and name not in ("mlp_ratio", "num_register_tokens"):
        right, kind = _is_count(value), "a positive integer"
    else:
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
        kind = "a number of at least 0"
    if not right:
        raise ValueError(f"{name} must be {kind}. Received: {name}={value!r}")


def _is_count(value: Any) -> bool:
    return is_whole(value) and value > 0


def _is_size(value: Any) -> bool:
    return _is_count(value) or (
        isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value))
    )


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return int(height), int(width)


def _shared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all but Swin have in common."""
    width, heads = given["hidden_size"], given["num_attention_heads"]
    if width % heads:
        raise ValueError(
            "hidden_size must be a multiple of num_attention_heads. "
            f"Received: hidden_size={width}, num_attention_heads={heads}"
        )
    return {
        "image_size": _pair(given["image_size"]),
        "patch": _pair(given["patch_size"]),
        "width": width,
        "depth": given["num_hidden_layers"],
        "heads": heads,
        "mlp_width": given["intermediate_size"],
        "activation": given["hidden_act"],
        "epsilon": given["layer_norm_eps"],
    }


def _biases(given: Mapping[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(("query_bias", "key_bias", "value_bias"), given["qkv_bias"])


def _vit(given: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
    tokens = 2 if config["model_type"] == "deit" else 1
    return VisionTransformer(**_shared(given), **_biases(given), class_tokens=tokens)


def _dinov2(given: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
    with_registers = config["model_type"] == "dinov2_with_registers"
    width = int(given["hidden_size"] * given["mlp_ratio"])
    gated = given["use_swiglu_ffn"]
    if gated:  # as many weights as without a gate, and a multiple of 8
        width = (int(width * 2 / 3) + 7) // 8 * 8
    return VisionTransformer(
        **_shared(given)
        | {"mlp_width": width, "activation": "silu" if gated else given["hidden_act"]}
        | _biases(given),
        registers=int(config.get("num_register_tokens", 4)) if with_registers else 0,
        layer_scale=True,
        gated=gated,
        # Only those with registers were trained and published so.
        antialias=with_registers,
    )


def _dinov3(given: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
    shared = _shared(given)
    if shared["width"] // shared["heads"] % 4:
        raise ValueError(
            "hidden_size must be a multiple of 4 for each of num_attention_heads. Received: "
            f"hidden_size={shared['width']}, num_attention_heads={shared['heads']}"
        )
    return VisionTransformer(
        **shared,
        registers=int(given["num_register_tokens"]),
        positions="rotary",
        theta=float(given["rope_theta"]),
        layer_scale=True,
        gated=given["use_gated_mlp"],
        query_bias=given["query_bias"],
        key_bias=given["key_bias"],
        value_bias=given["value_bias"],
        output_bias=given["proj_bias"],
        mlp_bias=given["mlp_bias"],
    )


def _clip(given: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
    return VisionTransformer(**_shared(given), norm_first=True, patch_bias=False)


def _siglip(given: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
    end: Literal["tokens", "pooled"] = "pooled" if given["vision_use_head"] else "tokens"
    return VisionTransformer(**_shared(given), class_tokens=0, end=end)


def _swin(given: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
    depths, heads = tuple(given["depths"]), tuple(given["num_heads"])
    widths = [given["embed_dim"] * 2**stage for stage in range(len(depths))]
    if len(heads) != len(depths) or any(w % h for w, h in zip(widths, heads, strict=True)):
        raise ValueError(
            f"num_heads must be a divisor of the channels of each stage, {widths}. "
            f"Received: num_heads={list(heads)}"
        )
    return Swin(
        image_size=_pair(given["image_size"]),
        patch=_pair(given["patch_size"]),
        width=given["embed_dim"],
        depths=depths,
        heads=heads,
        window=given["window_size"],
        mlp_ratio=given["mlp_ratio"],
        activation=given["hidden_act"],
        epsilon=given["layer_norm_eps"],
        attention_bias=given["qkv_bias"],
        positions=given["use_absolute_embeddings"],
    )


_READ: dict[str, tuple[dict[str, Any], Callable[[Mapping[str, Any], Mapping[str, Any]], Config]]] = {
    "vit": (_VIT, _vit),
    "deit": (_VIT, _vit),
    "dinov2": (_DINOV2, _dinov2),
    "dinov2_with_registers": (_DINOV2, _dinov2),
    "dinov3_vit": (_DINOV3, _dinov3),
    "clip_vision_model": (_CLIP, _clip),
    "siglip_vision_model": (_SIGLIP, _siglip),
    "swin": (_SWIN, _swin),
}
