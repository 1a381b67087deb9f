"""What is asked: bounds in words, the problem, its named cases, its answer's shape."""
