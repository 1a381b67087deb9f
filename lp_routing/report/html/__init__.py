"""The report: one self-contained HTML page that says what was found, and what proves it."""
