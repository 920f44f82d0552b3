"""Every .cu file through NVIDIA's own compilers, for machines that have them: no GPU is needed to compile for one."""

import ctypes
import glob
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SOURCES = sorted(Path("kernels").glob("*/cuda.cu"))
STRICT = ["-Xptxas", "--warn-on-spills,--warn-on-local-memory-usage", "-Werror", "all-warnings", "--std=c++17"]


# attention is compiled in two ways
NVRTC = [(path, "-DTENSOR_CORES=0") for path in SOURCES] + [(Path("kernels/attention/cuda.cu"), "-DTENSOR_CORES=1")]


def variants(path, arch):
    """The defines to compile with: attention's head width, and whether by tensor cores."""
    if path.parent.name != "attention":
        return [[]]
    chosen = {"sm_75": [(64, 0)], "sm_80": [(64, 1)], "sm_90": [(64, 0), (128, 0), (128, 1)]}[arch]
    return [[f"-DHEAD_DIM={d}", f"-DTENSOR_CORES={on}"] for d, on in chosen]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.parent.name)
def test_nvcc_without_a_warning_or_a_spilled_register(path, tmp_path):
    running = []
    for arch in ("sm_75", "sm_80", "sm_90"):
        for i, defines in enumerate(variants(path, arch)):
            target = ["-cubin", f"-arch={arch}", "-o", str(tmp_path / f"{arch}{i}.cubin")]
            command = ["nvcc", *target, *STRICT, *defines, str(path)]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            if len(running) % 2 == 0:
                running[-2].wait()
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, f"{' '.join(process.args)}\n{output}"


def nvrtc():
    """The run-time compiler that CuPy uses, from a wheel or a CUDA installation, or None."""
    site = sysconfig.get_paths()["purelib"]
    for pattern in (f"{site}/nvidia/*/lib/libnvrtc.so.1*", "/usr/local/cuda/lib64/libnvrtc.so.1*"):
        for name in sorted(glob.glob(pattern)):
            if "alt" not in name:
                for part in glob.glob(str(Path(name).parent / "libnvrtc-builtins.so*")):  # it would be looked for elsewhere
                    ctypes.CDLL(part, ctypes.RTLD_GLOBAL)
                return ctypes.CDLL(name)
    return None


@pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)")
@pytest.mark.parametrize("path, defines", NVRTC, ids=lambda v: getattr(getattr(v, "parent", None), "name", v))
def test_nvrtc(path, defines):
    library = nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), b"cuda.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 3)(b"-arch=sm_90", b"--std=c++17", defines.encode())
    status = library.nvrtcCompileProgram(program, 3, options)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_the_tensor_core_kernels_use_tensor_cores(tmp_path):
    ptx = tmp_path / "matmul.ptx"
    subprocess.run(["nvcc", "-ptx", "-arch=sm_80", "--std=c++17", "kernels/matmul/cuda.cu", "-o", str(ptx)], check=True)
    kernels = dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry|\Z)", ptx.read_text(), re.S))
    assert (
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32" in kernels["matmul_tf32"]
        and "mma.sync.aligned.m16n8k8.row.col.f32.bf16" in kernels["matmul_bf16"]
    )
    assert "mma.sync" not in kernels["matmul_fp32"]
    assert all("cp.async" in kernels[name] for name in ("matmul_fp32", "matmul_tf32", "matmul_bf16"))
    if shutil.which("cuobjdump"):
        cubin = tmp_path / "matmul.cubin"
        compiled = ["nvcc", "-cubin", "-arch=sm_80", "--std=c++17", "kernels/matmul/cuda.cu", "-o", str(cubin)]
        subprocess.run(compiled, check=True)
        for name in ("matmul_tf32", "matmul_bf16"):
            sass = subprocess.run(["cuobjdump", "-sass", "-fun", name, str(cubin)], capture_output=True, text=True).stdout
            assert "HMMA" in sass
