"""One row times a matrix, as in text generation: each number of the matrix is used once, so reading it is what takes time."""

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants, limit_rate

SHAPES = (3072, 768), (768, 3072), (50257, 768), (768, 50257)


def run(limits, size=None):
    """GB/s of the matrix, given as it is and transposed (T), and of memory merely read, in turns."""
    figures = []
    with contestants("minigrad", "numpy", "torch", "limit") as them:
        print(f"\n{'GB/s':15}" + "".join(f"{name:>9}" for name in them))
        them["limit"].prepare("nothing_but", "reading")
        for rows, columns in dict.fromkeys((size or rows, columns) for rows, columns in SHAPES):
            for transposed in (True, False):
                for name, one in them.items():
                    if name != "limit":
                        one.prepare("one_row", rows, columns, transposed)
                seconds = dict(zip(them, in_turns([one.turn for one in them.values()], 6.0), strict=True))
                limit = limit_rate("reading", seconds.pop("limit"))
                rates = {name: 4 * rows * columns / each / 1e9 for name, each in seconds.items()} | {"limit": limit}
                name = f"({rows}, {columns})" + (" T" if transposed else "")
                shown = "".join(f"{rate:9.1f}" for rate in rates.values())
                print(f"{name:<15}{shown}{100 * rates['minigrad'] / limit:7.0f}% of the limit", flush=True)
                figures.append((name, rates["minigrad"]))
    return figures, "GB/s", limits.read
