"""Base models, padding-exact encoding and adapters."""
