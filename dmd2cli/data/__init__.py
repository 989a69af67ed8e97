"""Data: datasets addressed by position, and the batches they become."""
