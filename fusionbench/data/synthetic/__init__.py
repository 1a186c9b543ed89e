"""Drawn lesions with a known truth: a dataset for tests and first steps."""
