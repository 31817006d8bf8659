"""Reports on the scores of a dataset or on a training run, for the browser, the terminal and the Hub."""

from typing import TYPE_CHECKING

from hf_ptr.utils.lazy_modules import lazy_attributes

if TYPE_CHECKING:
    from hf_ptr.report.page import write_report

__all__ = ["write_report"]
# Loaded on first use: the page draws with matplotlib, which other modules of the package do not need.
__getattr__, __dir__ = lazy_attributes(__name__, {"page": ("write_report",)})
