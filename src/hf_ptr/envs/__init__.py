"""Simulated environments: tasks, seeds, experts, pictures, and the processes that step them."""
