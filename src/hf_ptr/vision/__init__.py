"""Vision towers: functions for towers of any kind, and EfficientNet-Lite0."""
