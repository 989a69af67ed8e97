"""One file per command: parse, make a Recipe, call the engine once."""
