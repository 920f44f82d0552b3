"""Matrix products, and the linear layer with its bias and GELU fused."""
