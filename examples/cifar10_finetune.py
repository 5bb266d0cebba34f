"""CIFAR-10 with a pretrained VGG16: train a new head, then fine-tune the last block.

The network and the schedule are those of a well-known tutorial: VGG16 without its classifier at 48 x 48
pixels, a head of Flatten, Dense(1000, relu), Dropout(0.3) and Dense(10), Adam, batches of 256; 10
epochs of the head on the frozen base, then 15 epochs of everything from `block5_conv1` on.

Where this departs from the tutorial, and why:

* Images are enlarged by interpolation. The tutorial calls `np.resize`, which tiles pixels: the network
  then sees scrambled images.
* Images are preprocessed as VGG16 was trained (BGR, mean subtracted), inside the model. The tutorial
  divides by 255, which is not what the pretrained filters expect.
* The second stage goes on from the first, at a tenth of its rate. The tutorial starts it from the
  ImageNet weights and a new random head, so that the first stage is lost; `--restart` does the same.
* A tenth of the training images is held back to choose the best epoch; the test images are used once,
  at the end.

    python examples/cifar10_finetune.py --backend jax
    python examples/cifar10_finetune.py --backbone mobilenet_v2 --image-size 64 --samples 2000

ImageNet weights and images are downloaded when they are first used. Without a network: put the files
where the error says, or pass `--weights FILE` or `--weights none`.
"""

import argparse
import os
import sys
from pathlib import Path

# Where the last block of each backbone begins.
LAST_BLOCK = {
    "vgg16": "block5_conv1",
    "vgg19": "block5_conv1",
    "resnet50": "conv5_block1_1_conv",
    "resnet101": "conv5_block1_1_conv",
    "resnet152": "conv5_block1_1_conv",
    "mobilenet": "conv_dw_13",
    "mobilenet_v2": "block_16_expand",
}


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--backbone", choices=LAST_BLOCK, default="vgg16")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file of weights")
    parser.add_argument("--image-size", type=int, default=48, help="pixels")
    parser.add_argument("--samples", type=int, help="training images; all of them if not given")
    parser.add_argument("--test-samples", type=int, help="test images; all of them if not given")
    stages = ("HEAD", "LAST_BLOCK")
    parser.add_argument("--epochs", type=int, nargs=2, default=[10, 15], metavar=stages)
    parser.add_argument("--rates", type=float, nargs=2, default=[1e-3, 1e-4], metavar=stages)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--augmentation", choices=["light"], help="flip and crop the training images")
    parser.add_argument("--restart", action="store_true", help="start the second stage afresh")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("cifar10_run"), help="a folder")
    return parser.parse_args()


def build(arguments: argparse.Namespace):
    """Return the tutorial's classifier; on other backbones, average pooling and no hidden layer."""
    tutorial = arguments.backbone.startswith("vgg")
    return kt.classifier(
        arguments.backbone,
        10,
        image_size=arguments.image_size,
        weights=None if arguments.weights == "none" else arguments.weights,
        pooling="flatten" if tutorial else "avg",
        hidden_units=(1000,) if tutorial else (),
        dropout=0.3,
        seed=arguments.seed,
    )


def load_data(arguments: argparse.Namespace):
    """Return loaders of training, validation and test images."""
    last = "" if arguments.samples is None else arguments.samples
    cut = "90%" if arguments.samples is None else round(0.9 * arguments.samples)
    test = "test" if arguments.test_samples is None else f"test[:{arguments.test_samples}]"
    return [
        kt.data.load(
            "cifar10",
            split,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            shuffle=shuffle,
        )
        for split, shuffle in ((f"train[:{cut}]", True), (f"train[{cut}:{last}]", False), (test, False))
    ]


def main() -> None:
    """Run both stages and report on the test images."""
    model = build(arguments)
    train, validation, test = load_data(arguments)
    block = LAST_BLOCK[arguments.backbone]
    (head_epochs, block_epochs), (head_rate, block_rate) = arguments.epochs, arguments.rates
    head = kt.Phase("head", head_epochs, train="head", learning_rate=head_rate)
    last_block = kt.Phase(block, block_epochs, train=f"from:{block}", learning_rate=block_rate)

    # The tutorial's own way makes two runs out of two phases.
    if arguments.restart:
        runs = [([head], arguments.output / "head"), ([last_block], arguments.output)]
    else:
        runs = [([head, last_block], arguments.output)]
    for number, (phases, folder) in enumerate(runs):
        if number:
            model = build(arguments)
        kt.fine_tune(
            model,
            train,
            validation,
            phases,
            augmentation=arguments.augmentation,
            seed=arguments.seed,
            output=folder,
        )
    scores = model.evaluate(test, verbose=0, return_dict=True)
    print(f"test loss {scores['loss']:.4f}, test accuracy {scores['accuracy']:.4f}")
    print(f"written: model.keras, history.json and curves.png in {arguments.output}")


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend  # Keras reads it when it is imported
    import keras_transfer as kt

    try:
        main()
    except (ConnectionError, ValueError) as error:
        sys.exit(f"cifar10_finetune: {error}")
