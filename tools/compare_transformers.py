"""Compare the transformers of this package with those of Hugging Face's transformers, on random weights.

transformers is no dependency of the project and this is no test of CI. In an environment of its own:

    pip install -e ".[torch,jax,tensorflow]" transformers==5.24.0
    KERAS_BACKEND=torch python tools/compare_transformers.py
    KERAS_BACKEND=jax python tools/compare_transformers.py
    KERAS_BACKEND=tensorflow python tools/compare_transformers.py

transformers itself needs torch, whatever computes here. Each line has the norm of the difference over
that of what transformers gives, for images of one size. The script fails where that is above 1e-5.
"""

import contextlib
import os
import tempfile

os.environ.setdefault("KERAS_BACKEND", "torch")
import torch  # noqa: I001  before TensorFlow
import keras
import numpy as np
import transformers

from keras_transfer.backbones.transformers.huggingface import add_checkpoint, find_checkpoint

LIMIT = 1e-5
SIZES = ((32, 32), (48, 32), (24, 40))
COMMON = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
INNER = {**COMMON, "intermediate_size": 80}
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 3],
    "num_heads": [2, 4],
    "window_size": 3,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 99,
}
# A class of transformers, and the settings of its configuration.
MODELS = {
    "ViT": ("ViTModel", INNER),
    "ViT, classifier": ("ViTForImageClassification", INNER),
    "DeiT": ("DeiTForImageClassificationWithTeacher", INNER),
    "DINOv2": ("Dinov2Model", COMMON),
    "DINOv2, SwiGLU": ("Dinov2Model", {**COMMON, "use_swiglu_ffn": True}),
    "DINOv2, registers": ("Dinov2WithRegistersModel", {**COMMON, "num_register_tokens": 4}),
    "DINOv2, classifier": ("Dinov2WithRegistersForImageClassification", COMMON),
    "DINOv3": ("DINOv3ViTModel", {**INNER, "num_register_tokens": 4}),
    "DINOv3, gated": ("DINOv3ViTModel", {**INNER, "use_gated_mlp": True, "hidden_act": "silu"}),
    "CLIP, images": ("CLIPVisionModel", INNER),
    "CLIP, projection": ("CLIPVisionModelWithProjection", INNER),
    "CLIP": ("CLIPModel", {"vision_config": INNER, "text_config": TEXT}),
    "SigLIP, images": ("SiglipVisionModel", INNER),
    "SigLIP": ("SiglipModel", {"vision_config": INNER, "text_config": TEXT}),
    "SigLIP, no head": ("SiglipVisionModel", {**INNER, "vision_use_head": False}),
    "Swin": ("SwinModel", SWIN),
    "Swin, positions": ("SwinForImageClassification", {**SWIN, "use_absolute_embeddings": True}),
}


def expected_of(model, images):
    """Return the features that a model of transformers gives for images with their channels last."""
    for name in ("vit", "deit", "dinov2_with_registers", "swin", "vision_model"):
        model = getattr(model, name, model)
    resizes = "DINO" not in type(model).__name__.upper()  # those do so by themselves
    with torch.no_grad():
        given = torch.tensor(images.transpose(0, 3, 1, 2))
        found = model(given, **({"interpolate_pos_encoding": True} if resizes else {}))
        if getattr(model, "use_head", False):
            return found.pooler_output.numpy()
        tokens = found.last_hidden_state
        if "CLIP" in type(model).__name__:
            tokens = model.post_layernorm(tokens)
        return tokens.numpy()


def compared(name, folder):
    """Yield a size and the difference there, for each size."""
    kind, settings = MODELS[name]
    cls = getattr(transformers, kind)
    model = cls(cls.config_class(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    checkpoint = find_checkpoint(folder)
    for size in SIZES:
        # A new one each time: Swin of transformers remembers the sizes that it has seen.
        model = cls.from_pretrained(folder).eval()
        images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
        expected = expected_of(model, images)
        inputs = keras.Input((*size, 3))
        ours = keras.Model(inputs, add_checkpoint(checkpoint, inputs).features)
        found = keras.ops.convert_to_numpy(ours.predict_on_batch(images)).reshape(expected.shape)
        yield size, np.linalg.norm(found - expected) / np.linalg.norm(expected)


def main():
    """Print a line for each network."""
    transformers.logging.set_verbosity_error()
    with contextlib.suppress(AttributeError):
        transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    largest = 0.0
    print(f"transformers {transformers.__version__}, keras {keras.__version__}", end=" ")
    print(f"on {keras.backend.backend()}")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found = dict(compared(name, folder))
        largest = max(largest, *found.values())
        told = ", ".join(f"{height}x{width} {by:.1e}" for (height, width), by in found.items())
        print(f"{name:20} {told}", flush=True)
    print(f"largest: {largest:.1e}")
    raise SystemExit(int(largest > LIMIT))


if __name__ == "__main__":
    main()
