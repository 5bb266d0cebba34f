"""Transformers of KerasHub as checkpoints of Hugging Face's transformers, with stock layers here.

KerasHub hides all blocks, or those of a stage, in one layer. Files of models with its ViT, DeiT or Swin
don't open again, as their layers don't take what they say of themselves (keras-hub 0.32.0).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np


class _Family(NamedTuple):
    """How KerasHub names the weights of a family.

    Attributes:
        block: the number of a block in the path of a weight; of Swin, that of its stage, too.
        numbered: what transformers has in its place.
        first: the number of the first block.
        names: from what a path ends in to the name of a tensor; of a block, without what is numbered.
            What matches none is no part of the features, such as a token for masks.
    """

    block: str
    numbered: str
    first: int
    names: list[tuple[str, str]]


_VIT = _Family(
    r".*/(?:transformer_block|layers)_(\d+)/.*",
    "encoder.layer.{}.",
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
)
_DINOV2 = _Family(
    r".*/layers_(\d+)/.*",
    "encoder.layer.{}.",
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
)
_DINOV3 = _Family(
    r".*/layers_(\d+)/.*",
    "layer.{}.",
    0,
    [
        (r".*embeddings/(cls_token|register_tokens)", r"embeddings.\1"),
        (r".*embeddings/patch_embeddings/projection/(\w+)", r"embeddings.patch_embeddings.\1"),
        (r".*/(norm[12])/(\w+)", r"\1.\2"),
        (r".*/attention/([qkvo]_proj)/(\w+)", r"attention.\1.\2"),
        (r".*/(layer_scale[12])/lambda1", r"\1.lambda1"),
        (r".*/mlp/((?:gate|up|down)_proj)/(\w+)", r"mlp.\1.\2"),
        (r".*layernorm/(\w+)", r"norm.\1"),
    ],
)
_CLIP = _Family(
    r".*encoder_block_(\d+)/.*",
    "encoder.layers.{}.",
    0,
    [
        (r".*embedding/(class_embedding|position_ids)", r"embeddings.\1"),
        (r".*embedding/patch_embedding/(\w+)", r"embeddings.patch_embedding.\1"),
        (r".*embedding/position_embedding/embeddings", "embeddings.position_embedding.kernel"),
        (r".*pre_layer_norm/(\w+)", r"pre_layrnorm.\1"),
        (r".*/layer_norm_([12])/(\w+)", r"layer_norm\1.\2"),
        (r".*/attention/(query|key|value|attention_output)/(\w+)", r"self_attn.\1.\2"),
        (r".*/dense_([12])/(\w+)", r"mlp.fc\1.\2"),
        (r".*layer_norm/(\w+)", r"post_layernorm.\1"),
    ],
)
_SIGLIP = _Family(
    _CLIP.block,
    _CLIP.numbered,
    0,
    [
        (r".*embedding/(position_ids)", r"embeddings.\1"),
        *_CLIP.names[1:3],
        (r".*head/variable(_\d+)?", "head.probe"),  # Keras numbers it
        (r".*head/attention/(query|key|value)/(\w+)", r"head.attention.\1.\2"),
        (r".*head/attention/attention_output/(\w+)", r"head.attention.out_proj.\1"),
        (r".*head/layernorm/(\w+)", r"head.layernorm.\1"),
        (r".*head/mlp/(fc[12])/(\w+)", r"head.mlp.\1.\2"),
        (r".*/self_attn/(query|key|value|attention_output)/(\w+)", r"self_attn.\1.\2"),
        (r".*/(layer_norm[12])/(\w+)", r"\1.\2"),
        (r".*/mlp/(fc[12])/(\w+)", r"mlp.\1.\2"),
        (r".*post_layer_norm/(\w+)", r"post_layernorm.\1"),
    ],
)
_SWIN = _Family(
    r".*stage_(\d+)/blocks_(\d+)/.*",
    "encoder.layers.{}.blocks.{}.",
    0,
    [
        (r".*patch_embedding/conv_projection/(\w+)", r"embeddings.patch_embeddings.projection.\1"),
        (r".*patch_embedding/norm/(\w+)", r"embeddings.norm.\1"),
        (r".*stage_(\d+)/downsample/(norm|reduction)/(\w+)", r"encoder.layers.\1.downsample.\2.\3"),
        (r".*/norm1/(\w+)", r"layernorm_before.\1"),
        (r".*/norm2/(\w+)", r"layernorm_after.\1"),
        (r".*/attn/(relative_position_bias_table)", r"attention.self.\1"),
        (r".*/attn/attention_qkv/(\w+)", r"attention.self.qkv.\1"),
        (r".*/attn/attention_projection/(\w+)", r"attention.output.dense.\1"),
        (r".*/mlp/fc1/(\w+)", r"intermediate.dense.\1"),
        (r".*/mlp/fc2/(\w+)", r"output.dense.\1"),
        (r".*norm/(\w+)", r"layernorm.\1"),
    ],
)
_PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
# As KerasHub calls them.
_ACTIVATIONS = {"gelu_approximate": "gelu_pytorch_tanh"} | {
    name: name for name in ("gelu", "quick_gelu", "relu", "silu", "swish")
}
# For images and texts; `vision_encoder` is that for images.
_WITH_TEXT = ("CLIPBackbone", "SigLIPBackbone")


def _kind(model: keras.Model) -> str:
    """Return the name of a model's class if it is of KerasHub, else ""."""
    of_hub = type(model).__module__.startswith("keras_hub.")
    return type(model).__name__ if of_hub else ""


def for_images(model: keras.Model) -> keras.Model:
    """Return a model, or of one of KerasHub for images and texts that for images.

    Raises:
        ValueError: it is a classifier of KerasHub.
    """
    if _kind(model) and isinstance(getattr(model, "backbone", None), keras.Model):
        raise ValueError(
            "a backbone must come without a classifier; of one of KerasHub, pass model.backbone. "
            f"Received: backbone={model!r}"
        )
    return model.vision_encoder if _kind(model) in _WITH_TEXT else model


class Converted(NamedTuple):
    """A backbone of KerasHub as transformers has it.

    Attributes:
        settings: as in `config.json`.
        tensors: the weights by name.
    """

    settings: dict[str, Any]
    tensors: dict[str, np.ndarray]


def converted(backbone: keras.Model) -> Converted | None:
    """Return `config.json` and the tensors of a backbone of KerasHub, as transformers has them.

    Args:
        backbone: any model.

    Returns:
        What `huggingface.add_converted` takes; None if the backbone is none of ViT,
        DeiT, DINOv2, DINOv3, Swin, CLIP and SigLIP, or has a setting that transformers hasn't.

    Raises:
        ValueError: it has such a setting, and its own layers don't open again from a file.
    """
    kind = _kind(backbone)
    if kind not in _KINDS:
        return None
    family, read = _KINDS[kind]
    settings = read(backbone.get_config())
    if settings is None:
        return None
    tensors: dict[str, np.ndarray] = {}
    for variable in backbone.variables:
        name = _name(variable.path, family)
        if name is not None:
            tensors |= _tensors(name, keras.ops.convert_to_numpy(variable))
    return Converted(settings, _put_together(tensors))


def _name(path: str, family: _Family) -> str | None:
    for pattern, name in family.names:
        match = re.fullmatch(pattern, path)
        if match is not None:
            block = re.fullmatch(family.block, path)
            before, _, part = match.expand(name).rpartition(".")
            found = f"{before}.{_PARTS.get(part, part)}"
            if block is None:
                return found
            return family.numbered.format(*(int(each) - family.first for each in block.groups())) + found
    return None


def _tensors(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield an array in the order of axes that transformers has, under the names that it has there."""
    *before, layer, part = name.split(".")
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif part in ("weight", "bias") and "position_embedding" not in name:
        if layer in ("query", "key", "value"):  # a vector for each head
            array = array.reshape(*(array.shape[:1] if part == "weight" else ()), -1)
        elif array.ndim == 3:  # what attention gives
            array = array.reshape(-1, array.shape[-1])
        array = array.T
    if layer == "qkv":
        for each, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
            yield ".".join([*before, each, part]), third
    elif "self_attn" in before:
        short = {"attention_output": "out"}.get(layer, layer[0])
        yield ".".join([*before, f"{short}_proj", part]), array
    else:
        yield name, array


def _put_together(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors with those in one that are in one there."""
    for part in ("weight", "bias"):  # of SigLIP's pooling
        of_pool = [f"head.attention.{each}.{part}" for each in ("query", "key", "value")]
        if of_pool[0] in tensors:
            thirds = [tensors.pop(name) for name in of_pool]
            tensors[f"head.attention.in_proj_{part}"] = np.concatenate(thirds)
    # CLIP has numbers of positions among its weights: in one that is built without a file all are 0.
    numbers = tensors.pop("embeddings.position_ids", None)
    if numbers is not None:
        table = tensors["embeddings.position_embedding.weight"]
        tensors["embeddings.position_embedding.weight"] = table[numbers.reshape(-1)]
    return tensors


def _vit(config: Mapping[str, Any], kind: str = "vit") -> dict[str, Any] | None:
    for name in ("use_class_token", "use_patch_bias", "use_mha_bias", "use_mlp_bias"):
        if not config.get(name, True):
            instead = f"{kind}-base-{'distilled-' if kind == 'deit' else ''}patch16-224"
            raise _refused(f"{name} must be true", instead, f"{name}=False")
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


def _dinov3(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config["hidden_activation"] not in _ACTIVATIONS:
        return None
    biases = ("query", "key", "value", "proj", "mlp")
    return {
        "model_type": "dinov3_vit",
        "image_size": list(config["image_shape"][:2]),
        "patch_size": config["patch_size"],
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "intermediate_size": config["intermediate_dim"],
        "hidden_act": _ACTIVATIONS[config["hidden_activation"]],
        "layer_norm_eps": config["layer_norm_eps"],
        "rope_theta": config["rope_theta"],
        "num_register_tokens": config["num_register_tokens"],
        "use_gated_mlp": config["use_gated_mlp"],
        **{f"{name}_bias": config[f"use_{name}_bias"] for name in biases},
    }


def _clip(config: Mapping[str, Any], kind: str = "clip") -> dict[str, Any] | None:
    usual = 1e-6 if kind == "siglip" else 1e-5  # SigLIP's last norm has it, whatever the others have
    other_norms = config.get("layer_norm_epsilon", usual) != usual
    other_end = config.get("intermediate_output_index") is not None
    if other_norms or other_end or config["intermediate_activation"] not in _ACTIVATIONS:
        return None
    return {
        "model_type": f"{kind}_vision_model",
        "image_size": list(config["image_shape"][:2]),
        "patch_size": config["patch_size"],
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "intermediate_size": config["intermediate_dim"],
        "hidden_act": _ACTIVATIONS[config["intermediate_activation"]],
        "layer_norm_eps": usual,
    }


def _swin(config: Mapping[str, Any]) -> dict[str, Any]:
    instead = "swin-tiny-patch4-window7-224"
    for name, wanted in (("patch_norm", True), ("data_format", "channels_last")):
        if config[name] != wanted:
            raise _refused(f"{name} must be {wanted!r}", instead, f"{name}={config[name]!r}")
    window, shape = config["window_size"], tuple(config["image_shape"])
    sides = [size // config["patch_size"] for size in shape[:2]]
    for depth in config["depths"]:
        if depth > 1 and min(sides) > window and any(side % window for side in sides):
            raise _refused(
                f"the map of each stage must be made of whole windows of {window} tokens, as otherwise "
                "KerasHub shifts before it pads, unlike the published networks",
                instead,
                f"image_shape={shape}",
            )
        sides = [side // 2 for side in sides]
    return {
        "model_type": "swin",
        "image_size": list(shape[:2]),
        "patch_size": config["patch_size"],
        "embed_dim": config["embed_dim"],
        "depths": list(config["depths"]),
        "num_heads": list(config["num_heads"]),
        "window_size": window,
        "mlp_ratio": config["mlp_ratio"],
        "qkv_bias": config["qkv_bias"],
    }


def _refused(wanted: str, instead: str, received: str) -> ValueError:
    return ValueError(
        f"of this backbone of KerasHub, whose own layers don't open again from a file, {wanted}. Take "
        f"one of kt.list_backbones('transformers'), such as {instead!r}. Received: {received}"
    )


_KINDS: dict[str, tuple[_Family, Callable[[Mapping[str, Any]], dict[str, Any] | None]]] = {
    "ViTBackbone": (_VIT, _vit),
    "DeiTBackbone": (_VIT, lambda config: _vit(config, "deit")),
    "DINOV2Backbone": (_DINOV2, _dinov2),
    "DINOV3Backbone": (_DINOV3, _dinov3),
    "SwinTransformerBackbone": (_SWIN, _swin),
    "CLIPVisionEncoder": (_CLIP, _clip),
    "SigLIPVisionEncoder": (_SIGLIP, lambda config: _clip(config, "siglip")),
}
