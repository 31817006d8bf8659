"""The one Hub of all tests: a server on this machine, set before huggingface_hub is imported."""

from __future__ import annotations

import os
import tempfile

from hub_server import HubServer

# Before huggingface_hub is imported, which reads them once: every test has this Hub and no other, and an empty cache.
HUB = HubServer()
HOME = tempfile.TemporaryDirectory(prefix="hf-ptr-tests-")
os.environ.update(HF_ENDPOINT=HUB.url, HF_HUB_DISABLE_XET="1", HF_HOME=HOME.name)
os.environ.pop("HF_TOKEN", None)
