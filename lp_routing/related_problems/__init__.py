"""Problems beside the linear program of routing: one a file, each with an exact answer."""
