"""What torch's own schedulers say, as the reference for schedules and callbacks."""

import pytest

CASES = {
    "triangular": ("CyclicLR", {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 7}),
    "triangular2": (
        "CyclicLR",
        {"base_lr": 0.0, "max_lr": 1e-2, "step_size_up": 7, "mode": "triangular2"},
    ),
    "exp_range": (
        "CyclicLR",
        {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 7, "mode": "exp_range", "gamma": 0.99},
    ),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 10, "eta_min": 1e-6}),
    "longer": ("CosineAnnealingWarmRestarts", {"T_0": 7, "T_mult": 2}),
    "one cycle": ("OneCycleLR", {"max_lr": 1e-2, "total_steps": 200}),
    "one cycle, linear": (
        "OneCycleLR",
        {
            "max_lr": 1e-2,
            "total_steps": 150,
            "pct_start": 0.4,
            "anneal_strategy": "linear",
            "div_factor": 10.0,
            "final_div_factor": 50.0,
        },
    ),
    "no climb": ("OneCycleLR", {"max_lr": 1e-2, "total_steps": 200, "pct_start": 0.0}),
}


def torch_rates(name):
    """Return the learning rates of 200 steps, or of all steps of a schedule that ends before."""
    torch = pytest.importorskip("torch")
    scheduler_class, options = CASES[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2, momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, scheduler_class)(optimizer, **options)
    rates = []
    for left in reversed(range(options.get("total_steps", 200))):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if left:
            scheduler.step()
    return rates
