"""Train on two hosts with a slow link between them, and compare a step's time with the prediction. As root, on Linux:

    python -m tests.two_hosts --gigabits 1 --milliseconds 10

The hosts are network namespaces, each with a network device of its own (TUN) and nothing else. What one device sends, this
process hands to the other after the delay; `tc` limits the rate. So the delay needs no netem, which many kernels lack. MPI
talks TCP over it, as between two machines; UCX_TLS forbids the shared memory that it would find. The devices count bytes.
"""

import argparse
import fcntl
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path

from chapters.bench import ranks
from chapters.ch06_gpt import GPTConfig
from chapters.ch07_scaling import Machine, parameter_count, predict_step, read_machine

ROOT = Path(__file__).parents[1]
HOSTS = ("10.77.0.1", "10.77.0.2")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
MTU = 60_000  # bytes in a packet: few packets, since Python carries each


def shell(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def namespace(number: int) -> str:
    return f"minigrad{number}"


def open_tun(name: str) -> int:
    """Make a TUN device, and return the descriptor that reads what the system sends through it."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def carry(source: int, target: int, seconds: float) -> None:
    """Hand every packet of `source` to `target`, each `seconds` after it was read."""
    packets: deque[tuple[float, bytes]] = deque()
    arrived = threading.Semaphore(0)

    def deliver() -> None:
        while True:
            arrived.acquire()
            due, packet = packets.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            with suppress(OSError):  # the device is not up yet
                os.write(target, packet)

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        packet = os.read(source, MTU + 100)
        packets.append((time.monotonic() + seconds, packet))
        arrived.release()


@contextmanager
def two_hosts(gigabits: float, milliseconds: float):
    """Two namespaces and the link between them; yields the beginning of an mpiexec command line that starts a rank on each."""
    devices = [open_tun(f"mgtun{i}") for i in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for i, host in enumerate(HOSTS):
                inside = f"ip netns exec {namespace(i)}"
                shell(f"ip netns add {namespace(i)} && ip link set mgtun{i} netns {namespace(i)} && {inside} ip link set lo up")
                shell(f"{inside} ip addr add {host}/24 dev mgtun{i} && {inside} ip link set mgtun{i} mtu {MTU} up")
                # After a pause, as between two steps, TCP would begin slowly again.
                shell(f"{inside} sysctl -qw net.ipv4.tcp_slow_start_after_idle=0")
                shell(f"{inside} tc qdisc add dev mgtun{i} root tbf rate {gigabits}gbit burst 256kb latency 500ms")
                pair = devices[i], devices[1 - i], milliseconds / 1e3
                threading.Thread(target=carry, args=pair, daemon=True).start()
            enter = Path(folder) / "enter"  # what mpiexec calls in place of ssh: enter HOST COMMAND…
            enter.write_text(
                f"#!/bin/sh\ncase $1 in {HOSTS[0]}) n={namespace(0)};; *) n={namespace(1)};; esac\nshift\n"
                'exec ip netns exec $n unshare --uts sh -c "echo $n > /proc/sys/kernel/hostname; $*"\n'
            )
            enter.chmod(0o755)
            launcher = ["-launcher", "rsh", "-launcher-exec", str(enter)]
            hosts = ["-hosts", ",".join(HOSTS), "-ppn", "1"]
            # Large messages would first ask for permission, which costs two more latencies.
            network = ["-genv", "UCX_TLS", "tcp,self", "-genv", "UCX_RNDV_THRESH", "1g"]
            yield ["ip", "netns", "exec", namespace(0), ranks.mpiexec(), *launcher, *hosts, *network]
        finally:
            for i in (0, 1):
                subprocess.run(["ip", "netns", "del", namespace(i)], check=False)


def bytes_sent(host: int) -> int:
    """The bytes that a host's device has sent so far."""
    path = f"/sys/class/net/mgtun{host}/statistics/tx_bytes"
    command = ["ip", "netns", "exec", namespace(host), "cat", path]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measured_link(start: list[str]) -> Machine:
    """Latency, bandwidth and speed as `kernels.bench collectives` measures them over the link."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "machine.json"
        program = [sys.executable, "-m", "kernels.bench", "collectives", "--threads", "1", "--json", str(file)]
        subprocess.run([*start, "-n", "2", *program], cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
        return read_machine(file)


def compare(size: str, link: Machine, start: list[str]) -> None:
    """Print a step's time alone, predicted and measured over the link, and the bytes that it sends."""
    config, rows = ranks.shape_and_batch(size)
    alone = statistics.median(ranks.measure(1, 1, size, rows=rows // 2)["seconds"] for _ in range(3))
    before = bytes_sent(0)
    together = [ranks.measure(2, 1, size, start=start) for _ in range(3)]
    sent = (bytes_sent(0) - before) / 3 / (ranks.STEPS[size] + ranks.WARM_UP)
    measured = statistics.median(result["seconds"] for result in together)
    at_the_end = statistics.median(ranks.measure(2, 1, size, overlap=False, start=start)["seconds"] for _ in range(3))
    predicted = predicted_seconds(config, link, alone)
    formula = 4 * parameter_count(config)  # 2(N − 1)/N · n for two ranks
    print(
        f"{size:<9} {1e3 * alone:6.0f} ms alone with half the batch; {1e3 * predicted:6.0f} ms predicted, "
        f"{1e3 * measured:6.0f} ms measured ({measured / predicted - 1:+.0%}), {1e3 * at_the_end:6.0f} ms without overlap; "
        f"{sent / 1e6:.2f} MB sent a step, {formula / 1e6:.2f} MB by the formula",
        flush=True,
    )


def predicted_seconds(config: GPTConfig, link: Machine, alone: float) -> float:
    """chapters/ch07_scaling's step for two ranks, with the speed at which one rank was seen to compute."""
    step = predict_step(config, link, 2, 1.0, messages=ranks.NOTES)
    return alone + step.waiting


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.two_hosts", description=__doc__.split("\n")[0])
    parser.add_argument("--gigabits", type=float, default=1.0, help="the link's rate in Gbit/s (default: 1)")
    parser.add_argument("--milliseconds", type=float, default=10.0, help="a packet's delay in ms, each way (default: 10)")
    options = parser.parse_args()
    with two_hosts(options.gigabits, options.milliseconds) as start:
        link = measured_link(start)
        for size in ("main job", "tiny", "book"):
            compare(size, link, start)


if __name__ == "__main__":
    main()
