"""proxyctl: label a container, and nginx serves it."""

__version__ = "0.1.0"
