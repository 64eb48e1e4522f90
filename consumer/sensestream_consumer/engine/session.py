"""The ONNX Runtime session: which device, which options, and how its errors are told.

The only module that imports onnxruntime, and only when a model is loaded. What the CUDA options
gave on an H100 is in docs/gpu.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sensestream_common.contract.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "choose_device",
    "lacks_memory",
    "open_session",
    "quiet_run_options",
    "runtime_version",
    "save_optimised",
    "session_device",
]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_NO_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|ALLOC_FAILED|bad_alloc", re.IGNORECASE
)
_ERRORS_ONLY, _NOTHING = 3, 4  # ONNX Runtime's log severities


def choose_device(device: str) -> str:
    """`cpu` or `cuda:<index>` for `auto`, `cpu`, `cuda` or `cuda:<index>`.

    `auto` is the first CUDA device where the installed runtime has CUDA at all, else the CPU.
    """
    if device == "cpu":
        return "cpu"
    found = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if device != "auto" and found is None:
        raise ModelError(f"device {device!r} is not known: use auto, cpu, cuda or cuda:<number>")
    available = _runtime().get_available_providers()
    if _CUDA not in available:
        if device == "auto":
            return "cpu"
        raise ModelError(
            f"device {device} was asked for and the installed ONNX Runtime has only "
            f"{', '.join(available)}: install sensestream-consumer[gpu] without the onnxruntime "
            "package beside it (the last one installed wins), or set SENSESTREAM_DEVICE=cpu"
        )
    return f"cuda:{int(found[1] or 0) if found else 0}"


def open_session(
    graph: Path,
    device: str,
    threads: int,
    *,
    content: bytes | None = None,
    gpu_mem_limit: int = 0,
    optimise: bool = True,
) -> Any:
    """A session of the graph on a device that `choose_device` gave; `ModelError` if it fails.

    `content` is what to run where that is not the file's own. `gpu_mem_limit`: bytes that the
    session's arena may take of a GPU's memory, 0 for all of it. `optimise` is for graphs that
    are not optimised already.
    """
    runtime = _runtime()
    options = _session_options(runtime, threads)
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    cuda = device != "cpu"
    if cuda and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # finds the CUDA libraries that pip installed
    try:
        session = runtime.InferenceSession(
            str(graph) if content is None else content,
            options,
            providers=_providers(device, gpu_mem_limit),
        )
    except Exception as error:  # onnxruntime raises a class of its own per status code
        raise ModelError(f"{graph} is no graph that ONNX Runtime can load: {error}") from error
    if cuda and _CUDA not in session.get_providers():
        raise ModelError(
            f"device {device} was asked for and ONNX Runtime gave "
            f"{', '.join(session.get_providers())}: its CUDA and cuDNN libraries or the driver "
            "are missing (pip install 'onnxruntime-gpu[cuda,cudnn]', then look at nvidia-smi), "
            "or set SENSESTREAM_DEVICE=cpu"
        )
    return session


def save_optimised(graph: Path, target: Path) -> None:
    """Write a graph as ONNX Runtime optimises it for this processor, its weights beside it.

    The weights are laid out as the processor's kernels want them and are mapped, not read, when
    the graph is opened: faster, and all processes that open it share one copy. (Before 1.21 ONNX
    Runtime writes them as they were.)
    """
    runtime = _runtime()
    options = _session_options(runtime, 1)
    options.optimized_model_filepath = str(target)
    for name, value in (
        ("session.optimized_model_external_initializers_file_name", f"{target.name}.data"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(name, value)
    runtime.InferenceSession(str(graph), options, providers=[_CPU])


def runtime_version() -> str:
    """The version of ONNX Runtime."""
    return str(_runtime().__version__)


def session_device(session: Any) -> str:
    """The device that a session really runs on: `cpu`, `cuda:0`."""
    if _CUDA not in session.get_providers():
        return "cpu"
    return f"cuda:{session.get_provider_options()[_CUDA].get('device_id', '0')}"


def lacks_memory(error: BaseException) -> bool:
    """Whether a run failed for want of memory, of the device or of the machine, and may not later.

    ONNX Runtime has no status of its own for it: its allocators, CUDA's and the C++ library say
    so in words.
    """
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def quiet_run_options() -> Any:
    """For a run that may fail by design: nothing of it in the log."""
    options = _runtime().RunOptions()
    options.log_severity_level = _NOTHING
    return options


def _session_options(runtime: Any, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    # Waiting threads that spin cost as much as threads that work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps the largest clip's memory for ever, per-shape plans one for each length;
    # neither gains time here.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = _ERRORS_ONLY
    return options


def _providers(device: str, gpu_mem_limit: int) -> list[Any]:
    if device == "cpu":
        return [_CPU]
    cuda = {
        "device_id": device.partition(":")[2],
        # The default, EXHAUSTIVE, tunes a convolution again at each new shape; DEFAULT falls back
        # to the slowest kernel. Either took ten times as long.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles the arena each time and never gives back.
        "arena_extend_strategy": "kSameAsRequested",
        # TensorFloat-32 keeps 10 bits of a mantissa: enough to decide a near tie by which kernel
        # a batch's shape chose. An answer must not depend on its batch neighbours.
        "use_tf32": "0",
    }
    if gpu_mem_limit:
        cuda["gpu_mem_limit"] = str(gpu_mem_limit)
    return [(_CUDA, cuda), _CPU]


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "ONNX Runtime is not installed: pip install 'sensestream-consumer[cpu]' or, on a "
            f"machine with an NVIDIA GPU, 'sensestream-consumer[gpu]' ({error})"
        ) from error
    onnxruntime.disable_telemetry_events()  # some builds collect them; speech is nobody's business
    return onnxruntime
