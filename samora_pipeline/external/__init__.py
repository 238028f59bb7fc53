"""Programs of others on our splits: their inputs are written, their label maps are scored by our code."""
