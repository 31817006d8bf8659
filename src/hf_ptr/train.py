"""`accelerate launch -m hf_ptr.train RECIPE [key=value …]`: `hf-ptr train` on several devices."""

from __future__ import annotations

import sys

from hf_ptr.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
