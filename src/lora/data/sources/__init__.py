"""Corpora that become manifests: one module per kind, one interface (`sources.base`)."""
