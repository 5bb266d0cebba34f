"""Which tests run on one backend only, and why that is enough.

A test that isn't named here runs on all three. A place is a file of this folder, or a class or a
function in one; all tests whose names begin with it are meant. `pytest --everywhere` runs all of them on
each backend, as `nox -s nightly` does.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
# In this order where the backend of a group is not installed.
CHEAPEST_FIRST = ("torch", "jax", "tensorflow")


class Group(NamedTuple):
    """Tests that run on one backend.

    Attributes:
        backend: which one.
        reason: why no other can change what they find.
        places: files, classes and functions.
        but: those of them that run on all the same.
    """

    backend: str
    reason: str
    places: tuple[str, ...]
    but: tuple[str, ...] = ()


EXAMPLES = (
    "an example is a script of public calls, each tested on all; your_own_loop.py and svm_on_features.py"
    " run on each"
)
GROUPS = (
    Group(
        "torch",
        "reads, draws, orders or mixes images in NumPy, OpenCV and Pillow; no tensor is made",
        (
            "data/test_augmentation.py",
            "data/test_class_names.py",
            "data/test_color.py",
            "data/test_geometry.py",
            "data/test_grouped.py::TestDivided",
            "data/test_grouped.py::TestFolds",
            "data/test_grouped.py::TestGroupPattern",
            "data/test_grouped.py::TestNamesThatLookLikeSeries",
            "data/test_grouped.py::TestSplit",
            "data/test_grouped.py::TestTheGroupsOfALoader",
            "data/test_hierarchies.py",
            "data/test_images.py",
            "data/test_kept.py",
            "data/test_looking.py",
            "data/test_mixing.py",
            "data/test_pixels.py",
            "data/test_sharding.py",
            "data/test_transforms.py",
            "test_imbalance.py::TestSampling",
            "test_imbalance.py::TestWords::test_are_said",
        ),
    ),
    Group(
        "torch",
        "a loader makes NumPy arrays, in threads of its own; what `fit` makes of them runs on each",
        (
            "data/test_loader.py",
            "data/test_ranges.py",
            "data/test_reading_ahead.py",
            "test_multi_label.py::TestLoader",
            "test_data_arguments.py",
        ),
        but=(
            "data/test_loader.py::test_an_epoch_that",
            "data/test_loader.py::test_an_error_in_the_data",
            "data/test_loader.py::test_class_weight_in_fit",
            "data/test_loader.py::test_evaluate_moves_on",
            "data/test_loader.py::test_fit_",
            "data/test_loader.py::test_predict_in",
            "data/test_reading_ahead.py::test_an_error_comes_through_fit",
            "data/test_ranges.py::test_what_a_model_takes",
            "data/test_reading_ahead.py::test_fit_is_served",
            "test_data_arguments.py::test_of_what_keras_reads",
            "test_data_arguments.py::test_values_of_another_range_are_told_once[fine_tune",
        ),
    ),
    Group(
        "torch",
        "fetches, unpacks, finds, writes and divides files",
        (
            "data/test_archives.py",
            "data/test_datasets.py",
            "data/test_directory.py",
            "data/test_directory_problems.py",
            "data/test_flowers.py",
            "data/test_folders.py",
            "data/test_hotdog.py",
            "data/test_layout.py",
            "data/test_sources.py",
            "data/test_splits.py",
            "data/test_tables.py",
            "data/test_ways.py",
            "faults/test_fuzz.py",
            "features/test_growth.py",
            "features/test_shards.py",
            "backbones/test_transformers.py::TestHub",
            "backbones/test_transformers.py::test_damaged_files",
            "backbones/test_transformers.py::test_files_elsewhere",
            "backbones/test_transformers.py::test_no_weights_that_could",
            "test_arrays.py",
            "test_backbones.py::TestImageNetWeights",
            "test_backbones.py::TestWeightsFromAFile",
            "test_cached_backbones.py",
            "test_calibration.py::TestFiles",
            "test_files.py",
            "test_heads.py::TestClassNames",
            "test_heads.py::TestDamagedFiles",
            "test_network.py",
            "test_origin.py",
        ),
        but=("data/test_ways.py::test_a_network_learns",),
    ),
    Group(
        "torch",
        "words, options and tables of the command line; what it calls is tested on each",
        ("cli/",),
        but=(
            "cli/test_backend.py",
            "cli/test_starting.py::test_a_dry_run",
            "cli/test_starting.py::test_garbage",
            "cli/test_starting.py::test_predict_",
            "cli/test_starting.py::test_train_",
        ),
    ),
    Group(
        "torch",
        "pictures, pages and tables made of numbers that are there, and source that is read as text",
        (
            "reports/",
            "test_house.py",
            "test_suite.py",
        ),
    ),
    Group(
        "torch",
        "code of pages and docstrings; what it calls is tested on each",
        (
            "test_docstrings.py",
            "test_documentation.py",
        ),
    ),
    Group(
        "torch",
        "each module is imported where other backends and extras are missing, as in the sessions `solo`",
        ("test_imports.py::test_every_module",),
    ),
    Group(
        "torch",
        "names of the package, which are there before a backend is imported",
        ("test_imports.py::test_dir_shows", "test_imports.py::test_the_package_alone"),
    ),
    Group(
        "torch",
        "`verbose` is read, and lines are printed, by one function for all; a fit on each",
        ("test_verbose.py::test_its_meaning", "test_verbose.py::test_what_it_must_be"),
        but=("test_verbose.py::test_its_meaning_is_the_same[fine_tune",),
    ),
    Group(
        "torch",
        "arithmetic in NumPy, SciPy and scikit-learn",
        (
            "backbones/test_transformers.py::test_positions_are",
            "features/test_compared.py",
            "features/test_head_choice.py",
            "features/test_linear_head.py::TestCrossValidation",
            "features/test_linear_head.py::TestFitOfFeatures",
            "test_calibration.py::TestArguments",
            "test_calibration.py::TestError",
            "test_calibration.py::TestSets",
            "test_calibration.py::TestTemperature",
            "test_intervals.py",
            "test_label_scores.py",
            "test_lr_curve.py",
            "test_tasks.py",
        ),
        but=("test_tasks.py::test_training",),
    ),
    Group(
        "torch",
        "walks over Keras' graph of layers, which is made before a backend computes anything",
        (
            "backbones/test_transformers.py::test_each_block",
            "backbones/test_transformers.py::test_two_backbones",
            "features/test_cost.py",
            "inference/test_translation.py::test_all_norms",
            "inference/test_translation.py::test_norms_before",
            "optimizers/test_multipliers.py",
            "test_freezing.py::TestErrors",
            "test_freezing.py::TestFit::test_of_the_large_networks",
            "test_freezing.py::TestFlags",
            "test_freezing.py::TestFreezeTo",
            "test_freezing.py::TestNothingChanged",
            "test_freezing.py::TestTable",
            "test_freezing.py::TestUnfreezeLayers",
            "test_freezing.py::TestWhatChanged",
            "test_graph.py",
            "test_groups.py",
            "test_groups_properties.py",
            "test_selection.py",
        ),
        but=("optimizers/test_multipliers.py::test_in_phases",),
    ),
    Group(
        "torch",
        "arguments are checked, and messages made, before anything is computed",
        (
            "backbones/test_transformers.py::test_configurations",
            "backbones/test_transformers.py::test_sizes_that",
            "backbones/test_transformers.py::test_the_usual",
            "backbones/test_transformers.py::test_weights_of_another",
            "backbones/test_transformers.py::test_what_is_no",
            "callbacks/test_learning_rates.py::TestErrors",
            "callbacks/test_lr_finder_callback.py::test_arguments",
            "features/test_linear_head.py::TestRefused",
            "test_averages.py::TestRefused",
            "test_backbones.py::TestNames",
            "test_head_replacement.py::TestErrors",
            "test_heads.py::TestBadArguments",
            "test_heads.py::TestSeveralFeatures::test_bad_ones",
            "test_heads.py::TestSeveralFeatures::test_flattened",
            "test_heads.py::TestSeveralFeatures::test_layers_of",
            "test_heads.py::TestSeveralFeatures::test_one_earlier",
            "test_imports.py::test_a_missing_extra",
            "test_multi_label.py::TestModels::test_a_new_head",
            "test_multi_label.py::TestRefused",
            "training/test_averaging.py::TestRefused",
            "training/test_starting_point.py::TestRefused",
            "training/test_phase.py",
        ),
    ),
    Group(
        "torch",
        "a classifier is a graph of stock layers; that each preprocesses and predicts is tested on each",
        ("test_heads.py::TestNamedBackbones", "test_heads.py::TestPreprocessing::test_can_be_left"),
        but=(
            "test_heads.py::TestNamedBackbones::test_the_same_numbers_as_plain_keras[mobilenet_v2",
            "test_heads.py::TestNamedBackbones::test_the_same_numbers_as_plain_keras[resnet50",
            "test_heads.py::TestNamedBackbones::test_the_same_numbers_as_plain_keras[vgg16",
        ),
    ),
    Group(
        "torch",
        "compares what all backends write or read, from one of them",
        (
            "backbones/test_transformers.py::test_files_open",
            "inference/test_translation.py::test_each_backend",
        ),
    ),
    Group(
        "torch",
        "which images, layers, files and lines are in hand is decided above the backend; numbers are"
        " tested on each",
        ("features/test_one_pass.py", "training/test_low_rank.py"),
        but=(
            "features/test_one_pass.py::test_each_image",
            "features/test_one_pass.py::test_it_keeps",
            "training/test_low_rank.py::test_a_run_that_was_stopped",
            "training/test_low_rank.py::test_all_that_is_frozen",
            "training/test_low_rank.py::test_an_average",
            "training/test_low_rank.py::test_files_open_in_stock_keras_as_plain_layers[True",
            "training/test_low_rank.py::test_half_precision",
            "training/test_low_rank.py::test_kernels_move",
            "training/test_low_rank.py::test_slots",
            "training/test_low_rank.py::test_steps_of_sgd",
        ),
    ),
    Group(
        "torch",
        "cases of one kind, which take the same way through a backend: one of each kind runs on each",
        (
            "backbones/test_transformers.py::test_onnx_runtime",
            "backbones/test_transformers.py::test_other_forms",
            "callbacks/test_gradual_unfreezing.py",
            "callbacks/test_learning_rates.py::TestEveryStep::test_is_that_of_torch",
            "inference/test_folded.py::test_it_gives",
            "inference/test_translation.py::test_it_gives",
            "features/test_linear_head.py::test_ants_and_bees",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part",
            "test_applications.py",
            "test_calibration.py::TestForgetting",
            "test_catalogue.py",
            "test_freezing.py::TestFit::test_moves_exactly_what_was_promised",
            "test_head_replacement.py::TestInitFrom::test_from_imagenet",
            "test_head_replacement.py::TestEnding::test_as_an_activation",
            "test_head_replacement.py::TestPart::test_is_replaced",
            "test_head_replacement.py::test_file_opens",
            "test_heads.py::TestFiles",
            "test_lr_finder.py",
            "test_multi_label.py::TestEvaluation::test_it_prints",
            "test_multi_label.py::TestLinearHead::test_c_is_chosen",
            "test_multi_label.py::TestLinearHead::test_what_it_refuses",
            "test_multi_label.py::TestModels::test_it_ends",
            "test_multi_label.py::TestThresholds",
            "test_multi_label.py::test_metrics",
            "test_multi_label.py::test_mixed",
            "test_recompiling.py",
            "test_several_backbones.py",
            "test_views.py",
            "training/test_averaging.py::test_averaged_weights_are",
            "training/test_averaging.py::test_batch_norm_is",
            "training/test_starting_point.py::test_equals_a_penalty",
        ),
        but=(
            "backbones/test_transformers.py::test_onnx_runtime_gives_the_same[dinov3_gated",
            "backbones/test_transformers.py::test_onnx_runtime_gives_the_same[siglip]",
            "backbones/test_transformers.py::test_onnx_runtime_gives_the_same[swin",
            "callbacks/test_gradual_unfreezing.py::TestInFineTune::test_best_weights",
            "callbacks/test_gradual_unfreezing.py::test_a_group_costs",
            "callbacks/test_gradual_unfreezing.py::test_equals_separate_fits",
            "callbacks/test_gradual_unfreezing.py::test_predictions",
            "callbacks/test_learning_rates.py::TestEveryStep::test_is_that_of_torch[longer",
            "inference/test_folded.py::test_it_gives_what_the_model_gives[MobileNetV2",
            "inference/test_folded.py::test_it_gives_what_the_model_gives[ResNet50]",
            "inference/test_translation.py::test_it_gives_what_keras_gives[ConvNeXtTiny",
            "inference/test_translation.py::test_it_gives_what_keras_gives[EfficientNetB0",
            "inference/test_translation.py::test_it_gives_what_keras_gives[MobileNetV2",
            "inference/test_translation.py::test_it_gives_what_keras_gives[NASNetMobile",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[accumulation",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[ema",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[exclusions",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[jit",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[plain",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[schedule]",
            "optimizers/test_layerwise_fit.py::test_equals_a_fit_for_each_part[several",
            "test_applications.py::test_every_application[MobileNetV2",
            "test_applications.py::test_every_application[NASNetMobile",
            "test_calibration.py::TestForgetting::test_by_training_with_keras",
            "test_catalogue.py::TestList::test_facts_are_those_of_the_network[NASNetMobile",
            "test_freezing.py::TestFit::test_moves_exactly_what_was_promised[conv2",
            "test_freezing.py::TestFit::test_moves_exactly_what_was_promised[head",
            "test_head_replacement.py::TestEnding::test_as_an_activation[softmax-6",
            "test_head_replacement.py::TestEnding::test_as_an_activation[sigmoid-1",
            "test_head_replacement.py::TestPart::test_is_replaced_and_the_rest_shared[head",
            "test_heads.py::TestFiles::test_a_saved_classifier",
            "test_lr_finder.py::test_a_step_left_out",
            "test_lr_finder.py::test_a_training_step_of_its_own",
            "test_lr_finder.py::test_every_point",
            "test_lr_finder.py::test_every_sweep_and_fit_has_a_step_of_its_own[rate1",
            "test_lr_finder.py::test_fit_is_the_same_after_a_sweep[ema",
            "test_lr_finder.py::test_fit_is_the_same_after_a_sweep[layers",
            "test_lr_finder.py::test_it_stops_where_the_loss_diverges",
            "test_lr_finder.py::test_layers_keep",
            "test_lr_finder.py::test_metrics_are_not",
            "test_lr_finder.py::test_no_trace",
            "test_lr_finder.py::test_nothing_reads_on",
            "test_lr_finder.py::test_several_steps",
            "test_recompiling.py::TestFiles::test_go_on",
            "test_recompiling.py::test_every_direction",
            "test_recompiling.py::TestOptions::test_mixed_float16_keeps",
            "test_recompiling.py::TestOptions::test_run_eagerly",
            "test_recompiling.py::test_freezing",
            "test_recompiling.py::test_moving",
            "test_recompiling.py::test_unfreezing_mid_training[nadam",
            "test_several_backbones.py::TestNumbers::test_each_gives_what_it_gives_alone[mobilenet-",
            "test_several_backbones.py::TestNumbers::test_the_last",
            "test_several_backbones.py::TestNumbers::test_weights",
            "test_several_backbones.py::TestUse::test_called_by_itself",
            "test_several_backbones.py::TestUse::test_fine_tuning",
            "test_several_backbones.py::TestUse::test_it_is_exported",
            "test_views.py::TestFiles::test_export",
            "test_views.py::TestTraining::test_equals_plain_keras",
            "test_views.py::TestTraining::test_the_frozen_part",
            "test_views.py::TestViews",
            "training/test_averaging.py::test_averaged_weights_are_validated_and_the_best_are_kept[EMA",
            "training/test_averaging.py::test_batch_norm_is_measured_anew[True-EMA",
            "training/test_starting_point.py::test_equals_a_penalty_in_the_loss[adam]",
            "training/test_starting_point.py::test_equals_a_penalty_in_the_loss[accumulating",
            "training/test_starting_point.py::test_equals_a_penalty_in_the_loss[layerwise",
        ),
    ),
    Group(
        "tensorflow",
        "Keras builds it on TensorFlow and JAX only",
        (
            "inference/test_translation.py::test_it_gives_what_keras_gives[NASNetMobile",
            "test_applications.py::test_every_application[NASNetMobile",
            "test_catalogue.py::TestList::test_facts_are_those_of_the_network[NASNetMobile",
        ),
    ),
    Group(
        "torch",
        "the guard compares flags in Python before a step is made; the steps run on each",
        ("test_guard.py",),
        but=(
            "test_guard.py::TestALentTrainFunction",
            "test_guard.py::TestCopies::test_from_files",
            "test_guard.py::TestError::test_comes_before_anything_moves_and_is_over_after_recompile[freeze_b",
            "test_guard.py::TestError::test_comes_before_anything_moves_and_is_over_after_recompile[unfreeze-",
            "test_guard.py::TestError::test_whatever",
        ),
    ),
    Group(
        "torch",
        "what is known of a cache, and what becomes of its files; features of each backend are "
        "compared on it",
        ("features/test_cache.py",),
        but=(
            "features/test_cache.py::test_changed_weights",
            "features/test_cache.py::test_features_are_what",
            "features/test_cache.py::test_half_the_size",
            "features/test_cache.py::test_other_networks",
            "features/test_cache.py::test_views_are_the_augmented",
        ),
    ),
    Group(
        "torch",
        "decides by scores, which each backend gives to within rounding",
        (
            "features/test_advice.py",
            "features/test_linear_head.py::TestC::",
            "features/test_ranking.py",
            "test_automatic.py",
            "test_automatic_resuming.py",
            "test_automatic_time.py",
            "test_recipes.py",
        ),
        but=(
            "features/test_ranking.py::TestRanking::test_has_the_better_first[logme",
            "test_automatic.py::TestMirrorImages::test_the_head_is_fitted",
            "test_automatic.py::TestTrain::test_probabilities_are",
            "test_automatic_resuming.py::TestResuming::test_gives_what_it_would_have_given[every",
            "test_automatic_time.py::test_the_pace",
        ),
    ),
    Group(
        "torch",
        "the order of phases, files and messages of a run, in Python that no backend sees; "
        "weights, optimizers, seeds and errors inside a step are tested on each",
        (
            "callbacks/test_snapshots.py",
            "faults/test_faults.py",
            "faults/test_kills.py",
            "training/test_fine_tune.py",
            "training/test_frozen_part.py",
            "training/test_memory.py",
            "training/test_mixed_images.py",
            "training/test_resuming.py",
            "training/test_told.py",
        ),
        but=(
            "callbacks/test_snapshots.py::test_weights_at_the_end",
            "faults/test_faults.py::test_no_memory_after_unfreezing[memory",
            "training/test_fine_tune.py::test_a_failing_first_step",
            "training/test_fine_tune.py::test_a_loss_that_is_no_number",
            "training/test_fine_tune.py::test_a_range_test_changes",
            "training/test_fine_tune.py::test_an_exception_loses_nothing[second phase",
            "training/test_fine_tune.py::test_an_optimizer_goes_on",
            "training/test_fine_tune.py::test_equals_plain_keras",
            "training/test_fine_tune.py::test_going_back",
            "training/test_fine_tune.py::test_label_formats",
            "training/test_fine_tune.py::test_only_the_phase",
            "training/test_fine_tune.py::test_repeatable",
            "training/test_fine_tune.py::test_takes_what_fit",
            "training/test_fine_tune.py::test_tensorflow_",
            "training/test_frozen_part.py::test_batch_norm_that_trains_behind",
            "training/test_frozen_part.py::test_dropout_behind",
            "training/test_frozen_part.py::test_layerwise",
            "training/test_frozen_part.py::test_one_pass_serves",
            "training/test_frozen_part.py::test_weights_metrics",
            "training/test_mixed_images.py::test_arrays_of_either",
            "training/test_mixed_images.py::test_it_is_plain_keras",
            "training/test_resuming.py::test_bit_for_bit[ema-stops7",
            "training/test_resuming.py::test_bit_for_bit[gradual-stops4",
            "training/test_resuming.py::test_bit_for_bit[three-",
            "training/test_told.py::test_a_callback_changes",
            "training/test_told.py::test_checkpoints_are_whole_and_open_everywhere[activation-True",
            "training/test_told.py::test_early_stopping",
            "training/test_told.py::test_tensorboard",
            "training/test_told.py::test_the_rate",
            "training/test_memory.py::test_building",
            "training/test_memory.py::test_nothing_of_a_phase_lives_in_the_next[auto",
        ),
    ),
    Group(
        "torch",
        "16 bits are Keras' policies, the same layers on each backend; one test of each kind of "
        "step runs on each",
        ("test_mixed_precision.py",),
        but=(
            "test_mixed_precision.py::test_pixels",
            "test_mixed_precision.py::TestFineTune::test_it_is_near_float32[mixed_float16",
            "test_mixed_precision.py::TestFineTune::test_the_loss_is_scaled_by_what_the_layers_compute_in[mixed_float16",
            "test_mixed_precision.py::test_a_classifier[mixed_float16",
            "test_mixed_precision.py::test_a_range_test[mixed_float16",
            "test_mixed_precision.py::test_recompiling_around_layerwise_rates[mixed_float16",
        ),
    ),
    Group(
        "torch",
        "arguments are compared in Python before anything is computed",
        ("test_arguments.py", "test_class_weights.py"),
    ),
    Group(
        "torch",
        "KerasHub makes models of Keras' layers, and Ray starts this package's own processes",
        (
            "features/test_extraction.py",
            "test_hub.py",
        ),
    ),
    Group(
        "torch",
        "compares the three backends with each other, so that one session is enough",
        (
            "backends/test_agreement.py",
            "backends/test_gpu.py::test_no_gpu",
            "backends/test_gpu.py::test_the_check_before",
            "backends/test_moved_runs.py",
            "test_examples_flowers.py::test_own_loop_is_the_same",
        ),
    ),
    Group(
        "torch",
        "one pair of backends, the second of which reads what the first wrote; all pairs in the night",
        (
            "backends/test_layerwise_between_backends.py::test_a_plain_optimizer",
            "backends/test_layerwise_between_backends.py::test_slots_are",
            "backends/test_portability.py",
        ),
    ),
    Group(
        "torch",
        EXAMPLES,
        (
            "test_examples.py::test_cifar10",
            "test_examples.py::test_several_devices",
            "test_examples_flowers.py::test_flowers",
            "test_examples_photos.py::TestAntsAndBees",
            "test_examples_photos.py::TestHotdog",
        ),
    ),
    Group(
        "jax",
        EXAMPLES,
        ("test_examples.py::test_quickstart",),
    ),
    Group(
        "tensorflow",
        EXAMPLES,
        ("test_examples.py::test_lr_tools",),
    ),
)


def alone(place: str) -> Group | None:
    """Return the group that a test, or a whole file, belongs to; None if it runs everywhere."""
    for group in GROUPS:
        if place.startswith(group.places) and not place.startswith(group.but or "::"):
            # A file of which some tests run on each must be read on each.
            return None if any(each.startswith(f"{place}::") for each in group.but) else group
    return None


def runs_here(group: Group, backend: str) -> bool:
    """Whether the tests of a group run on a backend: on their own, else on the cheapest there is."""
    order = (group.backend, *CHEAPEST_FIRST)
    return backend == next(name for name in order if find_spec(name))


def every_place() -> Iterator[str]:
    """Yield all places of the table."""
    for group in GROUPS:
        yield from (*group.places, *group.but)
