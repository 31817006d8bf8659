"""The Hugging Face Hub: places that are folders here or repositories there, pushes, and cards."""
