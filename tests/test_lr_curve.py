"""Suggestions on curves whose right answers are known; no model is trained."""

import numpy as np
import pytest

import keras_transfer as kt

RATES = np.geomspace(1e-6, 1.0, 100)


def curve(knots, losses, rates=RATES, smoothed=None, **options):
    """A curve through (rate, loss) points, straight between them over log rate."""
    raw = np.interp(np.log(rates), np.log(knots), losses)
    smoothed = raw if smoothed is None else smoothed(raw)
    return kt.LRFinderResult(rates, raw, smoothed, len(rates), **options)


def falling_valley():
    return curve([1e-6, 1e-5, 1e-3, 1e-1, 1.0], [2.0, 2.0, 1.8, 0.5, 4.0])


def fastai_valley(rates, losses):
    """The algorithm as fastai has it, word for word in its loops."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lds[i] < lds[j] + 1:
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return rates[max_start + int(sections) + int(sections / 2)]


def test_steepest_is_where_the_slope_over_the_log_of_the_rate_is():
    assert 1e-3 <= falling_valley().suggest("steepest") <= 1e-1


def test_slopes_are_taken_over_the_logarithm_also_of_a_linear_sweep():
    # Over the rate itself the curve falls most steeply at the lowest rates.
    rates = np.linspace(1e-3, 1.0, 200)
    knots, losses = [1e-3, 0.03, 0.3, 1.0], [2.0, 1.9, 0.5, 0.4]
    result = curve(knots, losses, rates)
    over_rate = rates[20:-10][np.argmin(np.diff(result.losses[20:-10]) / np.diff(rates[20:-10]))]
    assert over_rate < 0.15
    log_slopes = np.diff(result.losses) / np.diff(np.log(rates))
    assert (
        log_slopes[np.searchsorted(rates, result.suggest("steepest"))] <= log_slopes[20:-10].min() + 1e-9
    )


def test_minimum_is_a_tenth_of_the_lowest():
    result = falling_valley()
    assert result.suggest("minimum") == pytest.approx(0.01, rel=0.15)


def test_valley_is_the_middle_of_the_fall():
    # It falls from 1e-5 to 1e-1, so the middle is at 1e-3.
    assert falling_valley().suggest("valley") == pytest.approx(1e-3, rel=0.3)
    assert falling_valley().suggest() == falling_valley().suggest("valley")


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05, 0.2])
def test_valley_agrees_with_fastai(rng, noise):
    for _ in range(5):
        result = curve(
            [1e-6, 1e-5, 1e-2, 1.0],
            [2.0, 2.0, 0.5, 3.0],
            smoothed=lambda raw: raw + noise * rng.standard_normal(len(raw)),
        )
        wanted = fastai_valley(RATES[10:-5], result.smoothed_losses[10:-5])
        assert result.suggest("valley") == wanted


def test_noise_moves_the_suggestions_little(rng):
    clean = falling_valley()
    noisy = kt.LRFinderResult(
        RATES, clean.losses + 0.2 * rng.standard_normal(100), clean.smoothed_losses, 100
    )
    for method in ("valley", "steepest", "minimum"):
        assert noisy.suggest(method) == clean.suggest(method)


def measured(losses, smoothing=0.98):
    """What a sweep with these losses gives."""
    weights = [smoothing ** np.arange(n, -1, -1) for n in range(len(losses))]
    smoothed = [w @ losses[: len(w)] / w.sum() for w in weights]
    return kt.LRFinderResult(RATES, losses, np.array(smoothed), len(RATES), smoothing)


def suggests(result):
    """Whether it suggests a rate, the same for all methods."""
    found = []
    for method in ("valley", "steepest", "minimum"):
        try:
            found.append(result.suggest(method))
        except ValueError as error:
            assert "must fall by more than its noise" in str(error)  # noqa: PT017  it need not raise
            assert "Received: a smoothed loss of" in str(error)  # noqa: PT017
    assert len(found) in (0, 3)
    assert ("no suggestion" in repr(result)) == (not found)
    return bool(found)


@pytest.mark.parametrize("smoothing", [0.98, 0.9, 0.5])
def test_a_loss_that_never_falls_suggests_nothing(rng, smoothing):
    assert not suggests(measured(np.ones(100), smoothing))
    noise = [suggests(measured(1.0 + 0.1 * rng.standard_normal(100), smoothing)) for _ in range(100)]
    assert sum(noise) <= 10


@pytest.mark.parametrize("smoothing", [0.98, 0.9, 0.5])
def test_a_loss_that_falls_suggests_a_rate(rng, smoothing):
    # By three times the noise of a batch, over the last half of the sweep.
    fall = np.interp(np.arange(100), [40, 90], [1.0, 0.7])
    found = [suggests(measured(fall + 0.1 * rng.standard_normal(100), smoothing)) for _ in range(50)]
    assert sum(found) >= 47


def test_a_loss_that_only_rises_suggests_nothing():
    with pytest.raises(ValueError, match="lower min_lr if it diverges at once"):
        curve([1e-6, 1.0], [1.0, 5.0]).suggest()


def test_a_curve_that_ends_at_once_suggests_nothing():
    result = kt.LRFinderResult(RATES[:12], np.ones(12), np.ones(12), 100, stopped="diverged")
    with pytest.raises(
        ValueError, match=r"needs 5 points.*Received: 12 points of 100 \(stopped: diverged\)"
    ):
        result.suggest()
    empty = kt.LRFinderResult(RATES[:0], np.ones(0), np.ones(0), 100, stopped="not finite")
    assert repr(empty) == "LRFinderResult(0 of 100 points, not finite)"
    with pytest.raises(ValueError, match="Received: 0 points of 100"):
        empty.suggest()


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match=r"'valley', 'steepest' or 'minimum'; did you mean valley\?"):
        falling_valley().suggest("vally")


def test_the_ends_count_for_nothing():
    # A drop within the first tenth, as of an average of few batches, is no valley.
    plain = falling_valley()
    smoothed = plain.smoothed_losses.copy()
    smoothed[:10] = np.linspace(50.0, 3.0, 10)
    smoothed[-5:] = -10.0
    result = kt.LRFinderResult(RATES, plain.losses, smoothed, 100)
    for method in ("valley", "steepest", "minimum"):
        assert result.suggest(method) == plain.suggest(method)


def test_repr_is_readable():
    text = repr(falling_valley())
    assert text.startswith("LRFinderResult(100 of 100 points, rates 1e-06 to 1, loss 2 to 0.5")
    assert "valley suggests 0.00" in text
    short = curve([1e-6, 1e-1], [2.0, 1.0], rates=RATES[:80], stopped="diverged")
    assert "80 of 80 points, diverged" in repr(short)
