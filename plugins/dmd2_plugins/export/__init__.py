"""Exporters: a student in formats that other programs read. Each result is loaded back and compared."""
