"""What a job of `predict` is made of: its inputs, its batches, its state, and what an earlier one left."""
