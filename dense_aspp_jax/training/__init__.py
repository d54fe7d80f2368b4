"""Training: configuration, augmentation, objective, optimizer, checkpoints and the training script."""
