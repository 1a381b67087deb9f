"""A small byte-level Mixture-of-Experts language model, trained for its router logits."""
