"""Which finished pixels guide this frame, how strongly, and the final paste."""
