"""Operators of Adin MLOps: each starts a piece of work under a key of its own, and finds it again on a retry."""
