"""Triton kernels without a GPU: their arithmetic in Triton's interpreter, and that they compile for the GPUs that Colab lends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed here")
if not hasattr(triton, "jit"):  # its package is there, its compiler is not
    pytest.skip("Triton does not work here", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from helpers.config import ROOT  # noqa: E402
from helpers.rows import gpu_kernels  # noqa: E402

GPUS = {75: "T4", 80: "A100", 90: "H100, H200"}
VARIANTS = {
    "move": (
        {"rows": "*i32", "ids": "*i64", "held": "*i32", "count": "i32", "words": "i32"},
        [{"BACK": back, "ROWS": 2048 // columns, "COLUMNS": columns} for back in (False, True) for columns in (1, 128, 1024)],
    ),
    "update": (
        {"rows": "*{row}", "gradient": "*fp32", "sums": "*fp32", "rate": "fp32", "seed": "i32", "D": "i32"},
        [{"ADAGRAD": adagrad, "BFLOAT16": narrow, "COLUMNS": 256} for adagrad in (False, True) for narrow in (False, True)],
    ),
}


def test_every_kernel_equals_torch_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interpreted.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-5000:] + done.stderr[-1000:]


@pytest.mark.parametrize("capability", GPUS)
def test_every_kernel_compiles_for_the_gpus_of_colab(capability, tmp_path):
    """Cross-compiled; registers and spills are printed (pytest -s), and nothing spills."""
    kernels = {name for name, what in vars(gpu_kernels).items() if isinstance(what, triton.JITFunction)}
    assert kernels == set(VARIANTS), "every kernel is compiled here"
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    for name, (signature, variants) in VARIANTS.items():
        for constants in variants:
            row = "i16" if constants.get("BFLOAT16") else "fp32"
            signed = {argument: kind.format(row=row) for argument, kind in signature.items()} | dict.fromkeys(constants, "constexpr")
            source = ASTSource(getattr(gpu_kernels, name), signature=signed, constexprs=constants)
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert len(compiled.asm["cubin"]) > 1000
            (tmp_path / "kernel.ptx").write_text(compiled.asm["ptx"])
            architecture = re.search(r".target (\w+)", compiled.asm["ptx"])[1]
            command = [ptxas, "-v", f"--gpu-name={architecture}", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            registers, spilled = re.search(r"Used (\d+) registers", told), re.search(r"(\d+) bytes spill stores", told)
            assert registers and spilled, told
            print(f"sm_{capability} ({GPUS[capability]}) {name} {constants}: {registers[1]} registers, {spilled[1]} bytes spilled")
            assert spilled[1] == "0"
