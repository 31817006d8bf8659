"""Several datasets trained on together."""
