"""`accelerate launch -m hf_ptr.score DATASET …`: `hf-ptr score` on several devices, with the same scores."""

from __future__ import annotations

import sys

from hf_ptr.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
