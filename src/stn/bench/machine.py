"""What results depend on besides the code."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "asimd", "sve")
VARIABLES = (
    "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES",
    "LD_PRELOAD", "STN_LEVEL",
)  # fmt: skip
LIBRARIES = ("torch-stn", "kornia", "monai", "torch-interpol", "opencv-python-headless", "triton")


def describe(device: str) -> dict:
    """The machine and its software, for the head of a results file."""
    flags = set(re.findall(r"\w+", _cpuinfo("flags") or _cpuinfo("Features")))
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "isa": [flag for flag in FLAGS if flag in flags],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def kind_of(machine: dict) -> str:
    """The device; on a CPU whose kernels are held back, the instruction set too: "cpu-avx2"."""
    level = machine["environment"].get("STN_LEVEL")
    return machine["device"] + (f"-{level}" if level else "")


def has_avx512(machine: dict) -> bool:
    """Whether the native kernels run on AVX-512."""
    level = machine["environment"].get("STN_LEVEL", "avx512")
    return "avx512f" in machine["isa"] and level == "avx512"


def file_name(machine: dict, quick: bool) -> str:
    """Such as "cpu-amd-epyc.json"."""
    words = f"{kind_of(machine)} {machine['name']}" + (" quick" if quick else "")
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json"


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    found = re.search(rf"^{field}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
