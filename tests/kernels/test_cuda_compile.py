"""NVIDIA's own compilers accept every .cu file. They need no GPU, and the tests skip if they are not installed."""

import ctypes
import glob
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from kernels import cuda_file

SOURCES = sorted(Path("kernels").glob("*/cuda.cu"))
STRICT = ["-Xptxas", "--warn-on-spills,--warn-on-local-memory-usage", "-Werror", "all-warnings", "--std=c++17"]
NVRTC = [(path, "-DTENSOR_CORES=0") for path in SOURCES] + [(Path("kernels/attention/cuda.cu"), "-DTENSOR_CORES=1")]


def variants(path, arch):
    """Lists of -D options to compile with: for attention, head widths with and without tensor cores."""
    if path.parent.name != "attention":
        return [[]]
    settings = {"sm_75": [(64, 0)], "sm_80": [(64, 1)], "sm_90": [(64, 0), (128, 0), (128, 1)]}[arch]
    return [[f"-DHEAD_DIM={width}", f"-DTENSOR_CORES={on}"] for width, on in settings]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.parent.name)
def test_nvcc_gives_no_warning_and_spills_no_register(path, tmp_path):
    running: list[tuple[list[str], subprocess.Popen]] = []
    for arch in ("sm_75", "sm_80", "sm_90"):
        for i, defines in enumerate(variants(path, arch)):
            target = ["-cubin", f"-arch={arch}", "-o", str(tmp_path / f"{arch}{i}.cubin")]
            command = ["nvcc", *target, *STRICT, *defines, str(path)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            running.append((command, process))
            if len(running) % 2 == 0:  # two at a time
                running[-2][1].wait()
    for command, process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, f"{' '.join(command)}\n{output}"


def nvrtc():
    """CuPy's run-time compiler, from a wheel or a CUDA installation; None if there is neither."""
    site = sysconfig.get_paths()["purelib"]
    for pattern in (f"{site}/nvidia/*/lib/libnvrtc.so.1*", "/usr/local/cuda/lib64/libnvrtc.so.1*"):
        for name in sorted(glob.glob(pattern)):
            if "alt" not in name:
                for part in glob.glob(
                    str(Path(name).parent / "libnvrtc-builtins.so*")
                ):  # NVRTC itself would look for it elsewhere
                    ctypes.CDLL(part, ctypes.RTLD_GLOBAL)
                return ctypes.CDLL(name)
    return None


@pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)")
@pytest.mark.parametrize("path, defines", NVRTC, ids=lambda v: getattr(getattr(v, "parent", None), "name", v))
def test_nvrtc_compiles_the_text_that_cupy_gets(path, defines):
    library, text = nvrtc(), cuda_file.read(path).encode()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"cuda.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 3)(b"-arch=sm_90", b"--std=c++17", defines.encode())
    status = library.nvrtcCompileProgram(program, 3, options)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_the_tensor_core_kernels_use_tensor_cores(tmp_path):
    nvcc, ptx = ["nvcc", "-arch=sm_80", "--std=c++17", "kernels/matmul/cuda.cu"], tmp_path / "matmul.ptx"
    subprocess.run([*nvcc, "-ptx", "-o", str(ptx)], check=True)
    kernels = dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry|\Z)", ptx.read_text(), re.S))
    for precision in ("tf32", "bf16"):
        assert f"mma.sync.aligned.m16n8k8.row.col.f32.{precision}" in kernels[f"matmul_{precision}"]
    assert "mma.sync" not in kernels["matmul_fp32"]
    assert all("cp.async" in kernels[name] for name in ("matmul_fp32", "matmul_tf32", "matmul_bf16"))
    if shutil.which("cuobjdump"):
        cubin = str(ptx.with_suffix(".cubin"))
        subprocess.run([*nvcc, "-cubin", "-o", cubin], check=True)
        for name in ("matmul_tf32", "matmul_bf16"):
            sass = subprocess.run(["cuobjdump", "-sass", "-fun", name, cubin], capture_output=True, text=True).stdout
            assert "HMMA" in sass
