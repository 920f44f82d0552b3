"""One decoding step: the next token of each text through all blocks of a transformer; matrices in float32 or int8."""
