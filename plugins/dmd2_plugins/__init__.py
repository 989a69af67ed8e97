"""Our own plugins, one folder per family. They come in through the same entry points as anybody's."""
