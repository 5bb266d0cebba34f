"""The recipes by name, and where each comes from; without Keras, for the help of the command line."""

RECIPES = {
    "one_cycle": "fastai's `Learner.fine_tune`",
    "warm_restarts": "the eight steps of fast.ai's course of 2018",
    "step_decay": "PyTorch's tutorial on transfer learning",
    "faster_head": '"Dive into Deep Learning", section 14.2',
    "layerwise_decay": "the tutorials on Flowers-102",
}
