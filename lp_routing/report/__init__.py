"""What people look at: tables on the terminal, figures, and the HTML page; one subject a file."""
