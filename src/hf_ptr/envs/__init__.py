"""Simulated environments: protocols, Meta-World, LIBERO, RoboCasa, rendering, and recording of demonstrations."""
