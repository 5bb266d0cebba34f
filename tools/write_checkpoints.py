"""Write backbones/transformers/known.json: checkpoints by name, with what they are (`nox -s catalogue`).

The settings are those of each one's config.json; parameters are counted on a network of one block and of
two, as the largest have seven thousand million.
"""

import json
from pathlib import Path

import keras

from keras_transfer.backbones.transformers.settings import network_of
from keras_transfer.backbones.transformers.swin import Swin, swin
from keras_transfer.backbones.transformers.vit import vision_transformer

APACHE, MIT = "Apache-2.0", "MIT"
DINOV3 = "DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license)"
HEALTH = (
    "Health AI Developer Foundations terms "
    "(https://developers.google.com/health-ai-developer-foundations/terms)"
)
SIZES = {  # width, blocks, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def shape(size, **more):
    """Return the settings of a transformer of a usual size."""
    width, blocks, heads = SIZES[size]
    return {
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    } | more


def vit():
    """Yield repository, settings and more of each ViT, of 1,000 or 21,000 classes."""
    for size, patch, pixels in (
        *(("base", 16, 224), ("base", 16, 384), ("base", 32, 384)),
        *(("large", 16, 224), ("large", 16, 384), ("large", 32, 384)),
    ):
        settings = shape(size, model_type="vit", patch_size=patch, image_size=pixels)
        yield f"google/vit-{size}-patch{patch}-{pixels}", settings, {}
    for size, patch in (("base", 16), ("base", 32), ("large", 16), ("large", 32)):
        settings = shape(size, model_type="vit", patch_size=patch)
        yield f"google/vit-{size}-patch{patch}-224-in21k", settings, {}


def deit():
    """Yield repository, settings and more of each DeiT with a distillation token."""
    for size, pixels in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384)):
        settings = shape(size, model_type="deit", image_size=pixels)
        yield f"facebook/deit-{size}-distilled-patch16-{pixels}", settings, {}


def dinov2():
    """Yield repository, settings and more of each DINOv2 without and with registers."""
    for kind, name in (("dinov2", "dinov2"), ("dinov2_with_registers", "dinov2-with-registers")):
        for size in ("small", "base", "large", "giant"):
            settings = shape("base" if size == "giant" else size, model_type=kind, image_size=518)
            if size == "giant":
                settings |= {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
                settings["use_swiglu_ffn"] = True
            del settings["intermediate_size"]
            yield f"facebook/{name}-{size}", settings, {"input_size": 224}


def dinov3():
    """Yield repository, settings and more of each DINOv3, of photos and of satellite images."""
    plain = {"model_type": "dinov3_vit", "num_register_tokens": 4}
    gated = {"use_gated_mlp": True, "hidden_act": "silu"}
    every = {
        "vits16": shape("small"),
        "vits16plus": shape("small", **gated),
        "vitb16": shape("base"),
        "vitl16": shape("large"),
        "vith16plus": gated
        | {
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "intermediate_size": 5120,
        },
        "vit7b16": gated
        | {
            "hidden_size": 4096,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "intermediate_size": 8192,
            "query_bias": False,
            "value_bias": False,
        },
    }
    for name, settings in every.items():
        yield f"facebook/dinov3-{name}-pretrain-lvd1689m", plain | settings, {}
    satellites = {
        "preprocessing": {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}
    }
    for name in ("vitl16", "vit7b16"):
        yield f"facebook/dinov3-{name}-pretrain-sat493m", plain | every[name], satellites


SO400M = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
}
GIANT = {
    "hidden_size": 1536,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
}


def siglip():
    """Yield repository, settings and more of each SigLIP, SigLIP 2 and MedSigLIP."""
    every = [("siglip", "base", 16, pixels) for pixels in (224, 256, 384, 512)]
    every += [("siglip", "large", 16, pixels) for pixels in (256, 384)]
    every += [("siglip", "so400m", 14, pixels) for pixels in (224, 384)]
    every += [("siglip2", "base", 16, pixels) for pixels in (224, 256, 384, 512)]
    every += [("siglip2", "base", 32, 256)]
    every += [("siglip2", "large", 16, pixels) for pixels in (256, 384, 512)]
    every += [("siglip2", "so400m", 14, pixels) for pixels in (224, 384)]
    every += [("siglip2", "so400m", 16, pixels) for pixels in (256, 384, 512)]
    every += [("siglip2", "giant-opt", 16, pixels) for pixels in (256, 384)]
    for name, size, patch, pixels in every:
        settings = {"so400m": SO400M, "giant-opt": GIANT}.get(size) or shape(size)
        more = {"model_type": "siglip_vision_model", "patch_size": patch, "image_size": pixels}
        yield f"google/{name}-{size}-patch{patch}-{pixels}", settings | more, {}
    more = {"model_type": "siglip_vision_model", "patch_size": 14, "image_size": 448}
    yield "google/medsiglip-448", SO400M | more, {}


def clip():
    """Yield repository, settings and more of each CLIP of OpenAI and of LAION."""
    for name, size, patch, pixels in (
        ("openai/clip-vit-base-patch32", "base", 32, 224),
        ("openai/clip-vit-base-patch16", "base", 16, 224),
        ("openai/clip-vit-large-patch14", "large", 14, 224),
        ("openai/clip-vit-large-patch14-336", "large", 14, 336),
    ):
        more = {"model_type": "clip_vision_model", "patch_size": patch, "image_size": pixels}
        yield name, shape(size, **more), {}
    more = {"model_type": "clip_vision_model", "hidden_act": "gelu"}
    yield "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", shape("base", patch_size=32, **more), {}
    huge = {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
    }
    yield "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", huge | more | {"patch_size": 14}, {}


def swins():
    """Yield repository, settings and more of each Swin."""
    small, large = {"model_type": "swin"}, {"model_type": "swin", "depths": [2, 2, 18, 2]}
    base = large | {"embed_dim": 128, "num_heads": [4, 8, 16, 32]}
    huge = large | {"embed_dim": 192, "num_heads": [6, 12, 24, 48]}
    far = {"window_size": 12, "image_size": 384}
    for name, settings in (
        ("tiny-patch4-window7-224", small),
        ("small-patch4-window7-224", large),
        ("base-patch4-window7-224", base),
        ("base-patch4-window12-384", base | far),
        ("base-patch4-window7-224-in22k", base),
        ("large-patch4-window7-224", huge),
        ("large-patch4-window12-384", huge | far),
    ):
        yield f"microsoft/swin-{name}", settings, {}


def parameters(settings):
    """Return how many numbers the weights hold."""
    config = network_of(settings)

    def counted(other):
        images = keras.Input((*config.image_size, 3))
        build = swin if isinstance(config, Swin) else vision_transformer
        found = keras.Model(images, build(network_of(other), images)).count_params()
        keras.backend.clear_session()
        return found

    if isinstance(config, Swin):
        return counted(settings)
    one, two = (counted(settings | {"num_hidden_layers": blocks}) for blocks in (1, 2))
    return one + (config.depth - 1) * (two - one)


def main():
    """Write the file."""
    found = {}
    for family in (vit, deit, dinov2, dinov3, siglip, clip, swins):
        for repository, settings, more in family():
            gated = "dinov3" in repository or "medsiglip" in repository
            licence = DINOV3 if "dinov3" in repository else HEALTH if gated else APACHE
            licence = MIT if family is clip else licence
            name = repository.partition("/")[2].lower()
            found[name] = {
                "repository": repository,
                "parameters": parameters(settings),
                "licence": licence,
                "gated": gated,
                **more,
                "settings": settings,
            }
            print(name, f"{found[name]['parameters']:,}", flush=True)
    folder = Path(__file__).parent.parent / "keras_transfer" / "backbones" / "transformers"
    text = json.dumps(found, indent=1, sort_keys=False)
    (folder / "known.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
