"""The Hub of all tests: a local server, configured before huggingface_hub is imported."""

from __future__ import annotations

import os
import tempfile

from hub_server import HubServer

# huggingface_hub reads these variables once, on import. Every test uses this Hub only, with an empty cache.
HUB = HubServer()
HOME = tempfile.TemporaryDirectory(prefix="hf-ptr-tests-")
os.environ.update(HF_ENDPOINT=HUB.url, HF_HUB_DISABLE_XET="1", HF_HOME=HOME.name)
os.environ.pop("HF_TOKEN", None)
