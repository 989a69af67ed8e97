"""dmd2-example: plugins for dmd2."""

DMD2_API = 1
"""The version of dmd2's plugin API that this package is written for."""
