"""Runs: recipe, data, policy and trainer of a training run."""
