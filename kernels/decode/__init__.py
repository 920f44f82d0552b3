"""A token of some texts through all blocks of a transformer, what they said remembered; matrices in float32 or eight bits."""
