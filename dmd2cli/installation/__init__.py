"""Is what is installed what was tested, and if an import fails, what mends it?

`tested` compares versions, `problem` explains exceptions; neither imports the package it speaks of.
"""
