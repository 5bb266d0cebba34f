"""Tiny checkpoints in the files of transformers, and what their networks compute, in NumPy and float64.

Names and shapes are those that transformers 5.24 writes; they are spelled out here once more, so that a
wrong name in the package shows.
"""

import json
import math

import numpy as np

WIDTH, INNER, HEADS = 16, 24, 2
SIDE = 4  # of the grid of patches that a checkpoint is made for
_COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "image_size": 4 * SIDE,
    "patch_size": 4,
    "layer_norm_eps": 1e-3,  # large, so that it shows
}
CONFIGS = {
    "vit": {"model_type": "vit", **_COMMON},
    "deit": {"model_type": "deit", **_COMMON, "hidden_act": "relu"},
    "dinov2": {"model_type": "dinov2", **_COMMON, "mlp_ratio": 2},
    "dinov2_giant": {
        "model_type": "dinov2_with_registers",
        **_COMMON,
        "mlp_ratio": 2,
        "num_register_tokens": 3,
        "use_swiglu_ffn": True,
    },
    "dinov3": {"model_type": "dinov3_vit", **_COMMON, "num_register_tokens": 2},
    "dinov3_gated": {
        "model_type": "dinov3_vit",
        **_COMMON,
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "num_register_tokens": 4,
        "rope_theta": 50.0,
    },
    "clip": {"model_type": "clip_vision_model", **_COMMON},
    "siglip": {"model_type": "siglip_vision_model", **_COMMON},
    "siglip_tokens": {"model_type": "siglip_vision_model", **_COMMON, "vision_use_head": False},
    "swin": {
        "model_type": "swin",
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 3,
        "mlp_ratio": 1.5,
        "use_absolute_embeddings": True,
        "layer_norm_eps": 1e-3,
    },
}
_STYLES = {
    "vit": ("encoder.layer.{}.", "layernorm_before", "layernorm_after"),
    "dinov2": ("encoder.layer.{}.", "norm1", "norm2"),
    "dinov3": ("layer.{}.", "norm1", "norm2"),
    "clip": ("encoder.layers.{}.", "layer_norm1", "layer_norm2"),
}
_ATTENTION = {
    "vit": [f"attention.attention.{part}" for part in ("query", "key", "value")]
    + ["attention.output.dense"],
    "dinov3": [f"attention.{part}_proj" for part in "qkvo"],
    "clip": [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")],
}


def style_of(kind):
    """Return by which of four ways a family names its weights."""
    return {"deit": "vit", "dinov2_giant": "dinov2", "dinov3_gated": "dinov3"}.get(
        kind, "clip" if kind.startswith("siglip") else kind
    )


def _linear(name, outputs, inputs, bias=True):
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name, channels=WIDTH):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def shapes(kind):
    """Return the shapes of all tensors of a checkpoint by name."""
    if kind == "swin":
        return _of_swin()
    style, patches = style_of(kind), SIDE**2
    conv = {
        "dinov3": "embeddings.patch_embeddings",
        "clip": "embeddings.patch_embedding",
    }.get(style, "embeddings.patch_embeddings.projection")
    found = {f"{conv}.weight": (WIDTH, 3, 4, 4)}
    if kind != "clip":
        found[f"{conv}.bias"] = (WIDTH,)
    if style == "clip":
        tokens = int(kind == "clip")
        found["embeddings.position_embedding.weight"] = (patches + tokens, WIDTH)
        if tokens:
            found |= {"embeddings.class_embedding": (WIDTH,)} | _norm("pre_layrnorm")
    else:
        found["embeddings.cls_token"] = (1, 1, WIDTH)
        if style != "dinov3":
            tokens = 1 + (kind == "deit")
            found["embeddings.position_embeddings"] = (1, patches + tokens, WIDTH)
    if kind == "deit":
        found["embeddings.distillation_token"] = (1, 1, WIDTH)
    if "num_register_tokens" in CONFIGS[kind]:
        found["embeddings.register_tokens"] = (1, CONFIGS[kind]["num_register_tokens"], WIDTH)
    for index in range(2):
        found |= _block_shapes(kind, style, index)
    found |= _norm(
        {"vit": "layernorm", "dinov2": "layernorm", "dinov3": "norm"}.get(style, "post_layernorm")
    )
    if kind == "siglip":
        found |= {"head.probe": (1, 1, WIDTH), "head.attention.in_proj_weight": (3 * WIDTH, WIDTH)}
        found |= {"head.attention.in_proj_bias": (3 * WIDTH,)}
        found |= _linear("head.attention.out_proj", WIDTH, WIDTH) | _norm("head.layernorm")
        found |= _linear("head.mlp.fc1", INNER, WIDTH) | _linear("head.mlp.fc2", WIDTH, INNER)
    return found


def _block_shapes(kind, style, index):
    block, norm1, norm2 = _STYLES[style]
    found = _norm(norm1) | _norm(norm2)
    for place, name in enumerate(_ATTENTION["vit" if style == "dinov2" else style]):
        found |= _linear(name, WIDTH, WIDTH, bias=not (style == "dinov3" and place == 1))
    if kind == "dinov2_giant":
        found |= _linear("mlp.weights_in", 48, WIDTH) | _linear("mlp.weights_out", WIDTH, 24)
    elif style == "dinov3":
        found |= _linear("mlp.up_proj", INNER, WIDTH) | _linear("mlp.down_proj", WIDTH, INNER)
        if kind == "dinov3_gated":
            found |= _linear("mlp.gate_proj", INNER, WIDTH)
    else:
        first, last = (
            ("intermediate.dense", "output.dense") if style == "vit" else ("mlp.fc1", "mlp.fc2")
        )
        inner = 2 * WIDTH if kind == "dinov2" else INNER
        found |= _linear(first, inner, WIDTH) | _linear(last, WIDTH, inner)
    if style in ("dinov2", "dinov3"):
        found |= {"layer_scale1.lambda1": (WIDTH,), "layer_scale2.lambda1": (WIDTH,)}
    return {block.format(index) + name: shape for name, shape in found.items()}


def _of_swin():
    found = {"embeddings.patch_embeddings.projection.weight": (8, 3, 4, 4)}
    found |= {"embeddings.patch_embeddings.projection.bias": (8,)} | _norm("embeddings.norm", 8)
    found["embeddings.position_embeddings"] = (1, 64, 8)
    for stage, heads in enumerate((2, 4)):
        width = 8 * 2**stage
        for place in range(2):
            block = _norm("layernorm_before", width) | _norm("layernorm_after", width)
            for part in ("query", "key", "value"):
                block |= _linear(f"attention.self.{part}", width, width)
            block["attention.self.relative_position_bias_table"] = (25, heads)
            block |= _linear("attention.output.dense", width, width)
            block |= _linear("intermediate.dense", int(1.5 * width), width)
            block |= _linear("output.dense", width, int(1.5 * width))
            begin = f"encoder.layers.{stage}.blocks.{place}."
            found |= {begin + name: shape for name, shape in block.items()}
    found |= _norm("encoder.layers.0.downsample.norm", 32)
    found |= _linear("encoder.layers.0.downsample.reduction", 16, 32, bias=False)
    return found | _norm("layernorm", 16)


def tensors_of(kind):
    """Return random tensors of a checkpoint."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.3, shape).astype("float32") for name, shape in shapes(kind).items()}


def write_tensors(path, tensors):
    """Write a file of safetensors."""
    header, begin = {}, 0
    for name, array in tensors.items():
        kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}[str(array.dtype)]
        end = begin + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_checkpoint(folder, kind, prefix="", tensors=None, config=None):
    """Write a checkpoint, and return its tensors without the prefix."""
    folder.mkdir(exist_ok=True)
    tensors = tensors_of(kind) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] if config is None else config))
    write_tensors(folder / "model.safetensors", {prefix + name: t for name, t in tensors.items()})
    return tensors


# What the networks compute


def _normed(x, t, name, epsilon=1e-3):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * t[f"{name}.weight"] + t[f"{name}.bias"]


def _dense(x, t, name):
    return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0.0)


_erf = np.vectorize(math.erf)
_ACTIVATIONS = {
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def _attended(q, k, v, heads, turn=lambda x: x, bias=0.0):
    """Return attention of (..., tokens, channels), head by head."""
    size, found = q.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = turn(q[..., part]) @ np.swapaxes(turn(k[..., part]), -1, -2) / math.sqrt(size)
        scores = scores + (bias if np.isscalar(bias) else bias[..., head, :, :])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    return np.concatenate(found, -1)


def _patches(images, kernel, bias):
    """Return the patches of images as (batch, rows, columns, channels)."""
    batch, height, width, _ = images.shape
    cut = images.reshape(batch, height // 4, 4, width // 4, 4, 3)
    return np.einsum("bryckd,odyk->brco", cut, kernel) + bias


def _turn(grid, prefix, theta):
    """Return the function that turns vectors as complex numbers, by where their patches are."""

    def turn(x):
        size, rows, columns = x.shape[-1], *grid
        y, z = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1 for n in grid], indexing="ij")
        frequencies = 1 / theta ** (np.arange(size // 4) / (size // 4))
        place = np.stack([y, z], -1).reshape(rows * columns, 2, 1)
        angles = (2 * np.pi * place * frequencies).reshape(rows * columns, -1)
        numbers = (x[:, prefix:, : size // 2] + 1j * x[:, prefix:, size // 2 :]) * np.exp(1j * angles)
        turned = np.concatenate([numbers.real, numbers.imag], -1)
        return np.concatenate([x[:, :prefix], turned], 1)

    return turn


def reference(kind, tensors, images, positions=None):
    """Return the features that a checkpoint's network gives.

    Args:
        kind: the key of its configuration.
        tensors: its tensors.
        images: as the network takes them.
        positions: the table of its patches' positions, if not its own.
    """
    t = {name: array.astype("float64") for name, array in tensors.items()}
    if kind == "swin":
        return _reference_of_swin(t, images, positions)
    config, style = CONFIGS[kind], style_of(kind)
    conv = next(name for name, array in t.items() if array.ndim == 4)
    x = _patches(images.astype("float64"), t[conv], t.get(conv.replace("weight", "bias"), 0.0))
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, -1, WIDTH)
    names = ["embeddings.cls_token", "embeddings.class_embedding", "embeddings.distillation_token"]
    tokens = [t[name].reshape(1, WIDTH) for name in names if name in t]
    table = next((t[n].reshape(-1, WIDTH) for n in t if "position_embedding" in n), None)
    if table is not None:
        tokens = [token + row for token, row in zip(tokens, table, strict=False)]
        x = x + (table[len(tokens) :] if positions is None else positions)
    tokens += [t["embeddings.register_tokens"][0]] if "embeddings.register_tokens" in t else []
    prefix = sum(map(len, tokens))
    if tokens:
        before = np.broadcast_to(np.concatenate(tokens), (batch, prefix, WIDTH))
        x = np.concatenate([before, x], 1)
    if kind == "clip":
        x = _normed(x, t, "pre_layrnorm")
    turn = (
        (lambda x: x)
        if style != "dinov3"
        else _turn((rows, columns), prefix, config.get("rope_theta", 100))
    )
    for index in range(2):
        x = _block(kind, style, t, x, index, turn)
    last = {"vit": "layernorm", "dinov2": "layernorm", "dinov3": "norm"}.get(style, "post_layernorm")
    x = _normed(x, t, last)
    return _pooled(t, x) if kind == "siglip" else x


def _activation(kind):
    usual = {"clip": "quick_gelu", "siglip": "gelu_pytorch_tanh", "siglip_tokens": "gelu_pytorch_tanh"}
    return _ACTIVATIONS[CONFIGS[kind].get("hidden_act", usual.get(kind, "gelu"))]


def _block(kind, style, t, x, index, turn):
    block, norm1, norm2 = _STYLES[style]
    block = block.format(index)
    query, key, value, output = (block + n for n in _ATTENTION["vit" if style == "dinov2" else style])
    y = _normed(x, t, block + norm1)
    y = _attended(*(_dense(y, t, name) for name in (query, key, value)), HEADS, turn)
    x = x + _dense(y, t, output) * t.get(f"{block}layer_scale1.lambda1", 1.0)
    y = _normed(x, t, block + norm2)
    if kind == "dinov2_giant":
        gate, y = np.split(_dense(y, t, f"{block}mlp.weights_in"), 2, -1)
        y = _dense(_ACTIVATIONS["silu"](gate) * y, t, f"{block}mlp.weights_out")
    elif style == "dinov3":
        inner = _dense(y, t, f"{block}mlp.up_proj")
        if kind == "dinov3_gated":
            inner = _activation(kind)(_dense(y, t, f"{block}mlp.gate_proj")) * inner
        else:
            inner = _activation(kind)(inner)
        y = _dense(inner, t, f"{block}mlp.down_proj")
    else:
        first, last = (
            ("intermediate.dense", "output.dense") if style == "vit" else ("mlp.fc1", "mlp.fc2")
        )
        y = _dense(_activation(kind)(_dense(y, t, block + first)), t, block + last)
    return x + y * t.get(f"{block}layer_scale2.lambda1", 1.0)


def _pooled(t, x):
    weights, biases = (np.split(t[f"head.attention.in_proj_{part}"], 3) for part in ("weight", "bias"))
    probe = np.broadcast_to(t["head.probe"], (len(x), 1, WIDTH))
    query, key, value = (
        each @ w.T + b for each, w, b in zip((probe, x, x), weights, biases, strict=True)
    )
    x = _dense(_attended(query, key, value, HEADS), t, "head.attention.out_proj")
    y = _normed(x, t, "head.layernorm")
    y = _dense(_ACTIVATIONS["gelu_pytorch_tanh"](_dense(y, t, "head.mlp.fc1")), t, "head.mlp.fc2")
    return (x + y)[:, 0]


def _reference_of_swin(t, images, positions):
    kernel = "embeddings.patch_embeddings.projection"
    x = _patches(images.astype("float64"), t[f"{kernel}.weight"], t[f"{kernel}.bias"])
    x = _normed(x, t, "embeddings.norm", 1e-5)
    table = t["embeddings.position_embeddings"] if positions is None else positions
    x = x + table.reshape(1, *x.shape[1:3], 8)
    for stage, heads in enumerate((2, 4)):
        if stage:
            x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
            x = np.concatenate([x[:, r::2, c::2] for c in (0, 1) for r in (0, 1)], -1)
            x = _normed(x, t, "encoder.layers.0.downsample.norm", 1e-5)
            x = _dense(x, t, "encoder.layers.0.downsample.reduction")
        for place in range(2):
            x = _swin_block(t, x, f"encoder.layers.{stage}.blocks.{place}.", heads, place)
    return _normed(x, t, "layernorm")


def _swin_block(t, x, block, heads, place):
    """Each token attends to those of its window: they are looked for pair by pair, in the whole map."""
    window, shift = 3, place * (min(x.shape[1:3]) > 3)
    y = _normed(x, t, f"{block}layernorm_before")
    batch, rows, columns, width = y.shape
    y = np.pad(y, ((0, 0), (0, -rows % window), (0, -columns % window), (0, 0)))
    height, length = y.shape[1:3]
    # Behind the shift a window may hold both ends of the map: these don't see one another.
    at = np.stack(np.meshgrid(np.arange(height), np.arange(length), indexing="ij"), -1).reshape(-1, 2)
    moved = (at - shift) % (height, length)
    same = (moved[:, None] // window == moved // window).all(-1)
    wrapped = at < shift
    apart = same & (wrapped[:, None] != wrapped).any(-1)
    offset = moved[:, None] % window - moved % window + window - 1
    places = offset[..., 0] * (2 * window - 1) + offset[..., 1]
    table = t[f"{block}attention.self.relative_position_bias_table"]
    bias = np.where(same, table[places].transpose(2, 0, 1), -np.inf) - 100.0 * apart
    y = y.reshape(batch, -1, width)
    parts = (_dense(y, t, f"{block}attention.self.{part}") for part in ("query", "key", "value"))
    y = _dense(_attended(*parts, heads, bias=bias), t, f"{block}attention.output.dense")
    x = x + y.reshape(batch, height, length, width)[:, :rows, :columns]
    y = _normed(x, t, f"{block}layernorm_after")
    y = _ACTIVATIONS["gelu"](_dense(y, t, f"{block}intermediate.dense"))
    return x + _dense(y, t, f"{block}output.dense")
