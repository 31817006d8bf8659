"""How well a checkpoint does: in simulated rollouts, and on held-out recordings."""
