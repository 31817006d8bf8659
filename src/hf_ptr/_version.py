"""The version, apart from the package's exports: modules that these import read it too."""

__version__ = "0.2.0"
