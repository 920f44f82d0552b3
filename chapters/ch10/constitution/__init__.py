"""Constitutional AI: principles in a text file, a critic, and a model tuned by what the critic says."""
