"""Training on several datasets, possibly of different robots."""
