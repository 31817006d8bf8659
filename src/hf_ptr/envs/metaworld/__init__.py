"""Meta-World: its tasks, control modes, simulated operators and environment."""
