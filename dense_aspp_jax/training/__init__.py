"""Training: losses, optimizer, state, checkpoints, the loop."""
