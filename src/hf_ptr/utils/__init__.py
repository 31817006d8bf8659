"""Helpers without a domain: atomic files, safetensors, strict loading, progress bars, lazy imports."""
