"""What proxyctl promises in figures, measured side by side on a real engine: `python -m benchmarks [NAME...] [--short]`."""
