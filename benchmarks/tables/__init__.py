"""The tables of benchmarks/ablations.py.

table.py      what a table, a row and a cell are
rows_*.py     the tables themselves: plain data, with every hyper-parameter; parts.py what they share
cell.py       one cell: training through the engine, and its measurement
probe.py      a job that counts its CPU seconds and measures itself while it trains
scheduler.py  cells as processes, some at once, within a budget of minutes
report.py     the table as text and JSON
plots.py      the table as a picture
"""
