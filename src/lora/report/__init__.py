"""A run's record turned into something a colleague can read."""
