"""Measurements on one GPU, where one is at hand: `python -m benchmarks.gpu`."""
