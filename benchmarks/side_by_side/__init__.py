"""The parts of `benchmarks.exact`: cases, solvers, one measured process, rows, table, plot."""
