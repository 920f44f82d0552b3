"""SwiGLU, the middle of a gated MLP: SiLU(gate) · up."""
