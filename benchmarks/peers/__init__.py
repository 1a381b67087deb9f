"""The routing functions of other projects and ours, on the same logits, through one table."""
