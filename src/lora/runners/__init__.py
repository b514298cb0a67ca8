"""Whole jobs, one module each; every one reads like a table of contents."""
