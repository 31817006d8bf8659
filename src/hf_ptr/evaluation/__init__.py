"""Evaluation of checkpoints: success in simulated rollouts, and action error on held-out recordings."""
