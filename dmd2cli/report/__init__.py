"""What a run did, as one HTML file: the verdict in words, curves, samples, metrics, circumstances. Needs no torch."""
