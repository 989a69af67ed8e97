"""The papers' user study as a tool: pairs of images on a local web page, votes in SQLite, preference rates."""
