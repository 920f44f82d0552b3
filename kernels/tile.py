"""The register tile of the matrix products."""
