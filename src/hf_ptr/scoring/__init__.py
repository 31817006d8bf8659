"""The label-free score: which recordings do not fit the others, without a policy (docs/calibrated.md)."""
