"""What a capture would write, need and take, before it starts."""
