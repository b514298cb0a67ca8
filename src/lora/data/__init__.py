"""Manifests, audio, sources and batches."""
