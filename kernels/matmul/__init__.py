"""Matrix products: plain, and as the linear layer with its bias and GELU fused."""
