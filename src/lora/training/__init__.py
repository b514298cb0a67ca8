"""The objective, its alignment check and the training loop."""
