"""Optimizers that outlive a change of what trains."""
