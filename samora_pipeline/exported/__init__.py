"""Exported models: what they consist of, and the checks before one is used."""
