"""The Gaussian error linear unit, exact and in GPT-2's tanh form."""
