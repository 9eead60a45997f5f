"""What the GPU kernel should reach, without a GPU: `python benchmarks/gpu_model.py` prints Markdown tables.

The kernel is compiled for cards that this machine lacks, and its machine code read: registers, spills, and instructions
that a value takes on the usual path (deltas that change no logarithm by more than 1). Nothing here is measured. An
estimate is what the busiest part of the card allows if it never pauses: the schedulers (128 lanes a clock and SM), the
float32 pipe, the integer and compare pipe, the special-function units, or the memory, from which every tensor is read
once. It ignores how few warps the registers allow at once, and the caches, from which every program reads base three
times and B, 4 bytes for each rank and feature, twice. Liger's JSD kernel is compiled and counted in the same way
if `liger-kernel` is installed; it starts from log-probabilities, which two softmaxes have to write first.

Cards: SMs, clocks and memory are those of NVIDIA's data sheets (A100 SXM 80 GB, H100 SXM, B200); lanes a clock those
of the CUDA C++ Programming Guide, "Arithmetic Instructions", by compute capability.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lorascope.capture.recording.fused import OPTIONS, block_shape
from lorascope.capture.recording.row_kernel import measure_rows

WIDTHS = (576, 2048, 4096, 14336)
RANKS = (16, 64)
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Card(NamedTuple):
    """What a card can do."""

    name: str
    n_sm: int
    clock_ghz: float
    memory_tb: float
    """TB a second."""
    lanes: Mapping[str, int]
    """Lanes a clock and SM, by kind of instruction."""


CARDS = {
    80: Card("A100", 108, 1.41, 2.04, {"issued": 128, "float": 64, "integer": 64, "special": 16}),
    90: Card("H100", 132, 1.755, 3.35, {"issued": 128, "float": 128, "integer": 64, "special": 16}),
    100: Card("B200", 148, 1.85, 8.0, {"issued": 128, "float": 128, "integer": 64, "special": 16}),
}
FLOAT = {"FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2"}
SPECIAL = {"MUFU", "F2F", "I2F", "F2I"}
INTEGER = {*("IADD3", "LOP3", "SHF", "ISETP", "VIMNMX", "VIMNMX3", "IMNMX", "PRMT", "SEL", "LEA", "P2R", "I2FP")}
INTEGER |= {"F2FP", "FMNMX", "FMNMX3", "FSETP", "FSEL", "VIADD", "VIADDMNMX"}


class Loop(NamedTuple):
    """Places of a loop's first and last instruction."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine code of a kernel."""

    registers: int
    local_bytes: int
    """Stack and local memory of a thread."""
    instructions: tuple[str, ...]
    """Names, without operands, in order."""
    loops: tuple[Loop, ...]

    @property
    def spills(self) -> int:
        """Instructions that move registers to local memory or back."""
        return sum(name in {"LDL", "STL"} for name in self.instructions)

    @property
    def outer(self) -> list[Loop]:
        """Loops over features that lie in no other one; those over a rank alone compare nothing."""
        inside = [(a, b) for a in self.loops for b in self.loops if a != b and b.first <= a.first and a.last <= b.last]
        top = sorted({*self.loops} - {a for a, _ in inside})
        return [loop for loop in top if any(name in {"MUFU", "FMNMX", "FMNMX3"} for name in self.names(loop))]

    def names(self, loop: Loop) -> tuple[str, ...]:
        """Names of a loop's instructions, in order."""
        return self.instructions[loop.first : loop.last + 1]

    def count(self, loop: Loop, rank_values: int) -> Counter[str]:
        """Instructions of one turn; `rank_values` multiplications are a loop's within, if there is one."""
        total = Counter(self.names(loop))
        for inner in self.loops:
            if inner != loop and loop.first <= inner.first and inner.last <= loop.last:
                turn = Counter(self.names(inner))
                for name in turn:
                    total[name] += round(turn[name] * (rank_values / (turn["FFMA"] + 2 * turn["FFMA2"]) - 1))
        return total


def compile_rows(
    arch: int, width: int, *, rank: int = 0, given: str | None = "fp32", dtype: str = "bf16", is_kl: bool = False
) -> Machine:
    """The kernel for base and output of `dtype`, and a factor or delta of type `given` (None: their difference)."""
    tokens, features = block_shape(width)
    pointers = {"result": "fp32", "base": dtype, "output": dtype, "addition": given, "weight": "fp32" if rank else None}
    types = {name: f"*{kind}" for name, kind in pointers.items() if kind}
    types |= dict.fromkeys(("base_stride", "output_stride", "addition_stride", "n_tokens", "prove_every"), "i32")
    types |= dict.fromkeys(("scaling", "rounding", "eps", "smallest"), "fp32")
    constants = {"WIDTH": width, "RANK": rank, "IS_KL": is_kl, "TOKENS": tokens, "FEATURES": features}
    aligned = {*pointers, "base_stride", "output_stride", "addition_stride"}
    return compiled(measure_rows, types, constants, arch, OPTIONS, aligned)


def compiled(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], arch: int, options: dict[str, Any], aligned: set[str]
) -> Machine:
    """A kernel's machine code; arguments that have no type are constants, None by default."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(place,): constants.get(name) for place, name in enumerate(names) if name not in types},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name in types},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["cubin"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        usage = _told("cuobjdump", "--dump-resource-usage", path)
        return _read(usage, _told("nvdisasm", "-c", path))


def _told(tool: str, option: str, path: Path) -> str:
    return subprocess.run([TOOLS / tool, option, path], capture_output=True, text=True, check=True).stdout


def _read(usage: str, listing: str) -> Machine:
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    lines, labels = [], {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line):
            lines.append(instruction[1])
    jumps = [(place, re.search(r"^BRA\b.*`\((\.L_\w+)\)", line)) for place, line in enumerate(lines)]
    back = [Loop(labels[jump[1]], place) for place, jump in jumps if jump and labels[jump[1]] < place]
    names = tuple(line.split()[0].split(".")[0] for line in lines)
    return Machine(found["REG"], found["STACK"] + found["LOCAL"], names, tuple(back))


def counts_a_value(machine: Machine, width: int, rank: int) -> dict[str, float]:
    """Instructions a value by kind, where every delta is small and no output is compared."""
    tokens, features = block_shape(width)
    n_values = tokens * features // (32 * OPTIONS["num_warps"])  # of a thread, a turn
    n_turns = -(-width // features)
    scans = [loop for loop in machine.outer if "MUFU" not in machine.names(loop)]  # none if its few turns are unrolled
    sums, _, *others = [loop for loop in machine.outer if loop not in scans]
    terms = min(others[:2], key=lambda loop: loop.last - loop.first)  # the other one takes deltas of any size
    turn = sum((machine.count(loop, rank * n_values) for loop in (*scans, sums, terms)), Counter())
    in_loops = {place for loop in machine.outer for place in range(loop.first, loop.last + 1)}
    once = Counter(name for place, name in enumerate(machine.instructions) if place not in in_loops)
    total = Counter({name: n_turns * n for name, n in turn.items()}) + once
    return _by_kind(total, tokens * width / (32 * OPTIONS["num_warps"]))


def _by_kind(total: Counter[str], n_values: float) -> dict[str, float]:
    kinds = {"issued": set(total), "float": FLOAT, "integer": INTEGER, "special": SPECIAL}
    return {kind: sum(total[name] for name in names) / n_values for kind, names in kinds.items()}


def rates(counts: Mapping[str, float], n_bytes: float, arch: int) -> dict[str, float]:
    """G values a second that each part of a card allows."""
    card = CARDS[arch]
    clocks = card.n_sm * card.clock_ghz
    found = {kind: clocks * card.lanes[kind] / n for kind, n in counts.items()}
    return found | {"memory": 1000 * card.memory_tb / n_bytes}


def liger(arch: int, width: int) -> tuple[Machine, dict[str, float]]:
    """Liger's JSD kernel on float32 log-probabilities, and its instructions a value by kind."""
    from liger_kernel.ops.jsd import _jsd_kernel

    size, n_warps = triton.next_power_of_2(width), 16 if width > 2048 else 8
    types = {name: "*fp32" for name in _jsd_kernel.arg_names if name.endswith("_ptr") and name != "label_ptr"}
    types |= {name: "i32" for name in _jsd_kernel.arg_names if name.endswith("_stride")} | {"label_ptr": "*i64"}
    types |= {"n_non_ignore": "i32", "n_cols": "i32"}
    constants = {"beta": 0.5, "ignore_index": -100, "BLOCK_SIZE": size, "HAS_LABEL": False}
    machine = compiled(
        _jsd_kernel,
        types,
        constants,
        arch,
        {"num_warps": n_warps, "enable_fp_fusion": True},
        {*types} - {"n_non_ignore"},
    )
    return machine, _by_kind(Counter(machine.instructions), width / (32 * n_warps))


def rows(arch: int) -> Iterator[tuple[str, int, Machine, dict[str, float], float]]:
    """What is compared: (name, width, machine code, instructions a value, bytes a value)."""
    for width in WIDTHS:
        yield "delta given", width, (m := compile_rows(arch, width)), counts_a_value(m, width, 0), 2 + 2 + 4
        m = compile_rows(arch, width, given=None)
        yield "output - base", width, m, counts_a_value(m, width, 0), 2 + 2
        for rank in RANKS:
            m = compile_rows(arch, width, rank=rank, given="bf16")
            yield f"rank {rank}", width, m, counts_a_value(m, width, rank), 2 + 2 + 2 * rank / width
        try:
            m, counts = liger(arch, width)
        except ImportError:
            continue
        yield "Liger's JSD", width, m, counts, 4 * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, choices=CARDS, nargs="+", default=[90])
    for arch in parser.parse_args().arch:
        print(f"\n{CARDS[arch].name} (sm_{arch}), G values a second\n")
        print("| width | from | registers | spilled bytes | instructions a value | issue | float32 | integer | special"
              " | memory | estimate |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
        for name, width, machine, counts, n_bytes in rows(arch):
            found = rates(counts, n_bytes, arch)
            cells = [width, name, machine.registers, machine.local_bytes, f"{counts['issued']:.0f}"]
            cells += [f"{rate:.0f}" for rate in (*found.values(), min(found.values()))]
            print("|", *" | ".join(map(str, cells)).split("\n"), "|")


if __name__ == "__main__":
    main()
