"""File formats of images, each as a Source: names, labels and bytes by position. Imports no torch."""
