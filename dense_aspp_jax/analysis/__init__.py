"""What a trained network does: similarity, layer removal, receptive field, the report."""
