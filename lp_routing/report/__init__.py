"""Tables for the terminal, figures, and the HTML page; one subject a file."""
