"""One token through all blocks of a transformer, its keys and values remembered; matrices in float32 or in eight bits."""
