"""Scoring: error counts from texts, and what an evaluation set can and cannot show about them."""
