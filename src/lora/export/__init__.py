"""Adapters made into other things: averages, merged checkpoints."""
