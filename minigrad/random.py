"""Seeded generators. Everything random in the project is drawn from one that is passed along, or from the default one."""

import numpy as np


class Generator:
    """A seeded source of random numbers, with a state that can be saved and restored.

    numpy: the numpy.random.Generator (PCG64) inside, to draw from directly. Numbers are always drawn on the CPU, so that a
    seed means the same thing on every device.
    """

    def __init__(self, seed=0):
        self.manual_seed(seed)

    def manual_seed(self, seed):
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"a seed is a whole number of at least 0, got {seed!r}")
        self.numpy = np.random.Generator(np.random.PCG64(int(seed)))
        return self

    def draw_seed(self):
        """A fresh 64-bit seed, for what generates its own numbers from one (dropout)."""
        return int(self.numpy.integers(2**64, dtype=np.uint64))

    def get_state(self):
        """The state as a dict that JSON can hold."""
        return self.numpy.bit_generator.state

    def set_state(self, state):
        try:
            self.numpy.bit_generator.state = state
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not a generator state as get_state() returns it: {error}") from error
        return self


default_generator = Generator(0)


def manual_seed(seed):
    """Seed the default generator, and return it to be passed along."""
    return default_generator.manual_seed(seed)
