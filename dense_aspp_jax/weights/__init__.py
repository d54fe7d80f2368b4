"""Foreign weights: safe readers, name maps, strict conversion."""
