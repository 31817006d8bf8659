"""The Hugging Face Hub: sources (path or repo id), datasets, pushes and cards."""
