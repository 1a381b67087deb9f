"""What is asked: bounds in words, the problem, named problems, and the shape of an assignment."""
