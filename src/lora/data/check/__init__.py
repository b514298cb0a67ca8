"""The doctor: what is wrong with manifests, found before training and without a model."""
