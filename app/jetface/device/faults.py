"""What TensorRT, CUDA, ONNX Runtime and the loader of libraries say when something is wrong, and what mends it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """A recognized cause of trouble."""

    what: str
    """What cannot be had or done: the start of a sentence."""
    why: str
    """The cause, in our words."""
    cure: str
    """What mends it: a full sentence, with the command where there is one."""
    is_memory: bool = False
    """Whether memory did not suffice: less might have."""

    @property
    def sentence(self) -> str:
        """All of it, on one line."""
        return f"{self.what}: {self.why}. {self.cure}"


CONTAINER_CURE = (
    "Start the container with it: `runtime: nvidia` on a Jetson, `--gpus all` or a device reservation in the compose "
    "file elsewhere; the compose files in `deploy/` do."
)
"""What mends a container without GPU."""


_NO_TENSORRT = "TensorRT cannot be imported"
_NO_CUDA = "CUDA does not start"

NO_KERNELS = Fault(
    "A library does not run on this GPU",
    "this version has no kernels for its generation",
    "Install a version whose support matrix lists the GPU: TensorRT 10.x for a Jetson Orin.",
)
"""What TensorRT and ONNX Runtime say where they were not built for the GPU."""

_PATTERNS: tuple[tuple[str, Fault], ...] = (
    (
        r"libnvdla_compiler\.so",
        Fault(
            _NO_TENSORRT,
            "libnvdla_compiler.so is missing or empty, which on a Jetson comes from the host",
            "Start the container with `runtime: nvidia`. If it was, the host lacks the library. With JetPack 6: `sudo "
            "apt install nvidia-l4t-dla-compiler` there, of the same version as nvidia-l4t-core, then `sudo ldconfig`. "
            "JetPack 7 has none: take the image of deploy/jetson/Dockerfile.jp7.",
        ),
    ),
    (
        r"lib(nvinfer|nvonnxparser|tensorrt)[\w-]*\.so",
        Fault(
            _NO_TENSORRT,
            "its Python package is here, its libraries are not",
            "Install the libraries of the same version: `apt install libnvinfer10 libnvinfer-plugin10 "
            "libnvonnxparsers10` on a Jetson, `pip install tensorrt-cu12-libs` elsewhere; or put their folder into "
            "LD_LIBRARY_PATH.",
        ),
    ),
    (
        r"libcuda\.so|no CUDA driver|libnvrm_gpu\.so",
        Fault(
            _NO_CUDA,
            "the driver's library is not here",
            f"{CONTAINER_CURE} Outside a container install the NVIDIA driver.",
        ),
    ),
    (
        r"lib(cudart|cublas|cublasLt|cudnn|cufft|curand|nvrtc|nvJitLink|cudla|cusparse)[\w-]*\.so",
        Fault(
            _NO_CUDA,
            "one of its libraries is not found",
            "Install the CUDA (and for ONNX Runtime the cuDNN) runtime of the version that is asked for, or put its "
            "folder into LD_LIBRARY_PATH.",
        ),
    ),
    (
        r"CUDA_ERROR_NO_DEVICE|cudaErrorNoDevice|no CUDA-capable device|(cuda ?error|error):? 100\b",
        Fault(_NO_CUDA, "there is no GPU that this process may use", f"{CONTAINER_CURE} Look at CUDA_VISIBLE_DEVICES."),
    ),
    (
        r"(?i:insufficient ?driver)|driver version is insufficient|(cuda ?error|error):? 35\b",
        Fault(
            _NO_CUDA,
            "the NVIDIA driver is missing or older than the CUDA libraries here",
            "Update the driver (580 or later for CUDA 13; 575 or later for CUDA 12.9, 525 on data-centre cards), or "
            "install the libraries of its CUDA version; on JetPack 6 that is 12.6: `pip install "
            "cuda-python==12.6.2.post1`. In a container also see that it was started with the NVIDIA runtime.",
        ),
    ),
    (
        r"system not yet initialized|SYSTEM_NOT_READY|(cuda ?error|error):? 802\b",
        Fault(_NO_CUDA, "the host's fabric manager is not up", "Start nvidia-fabricmanager on the host."),
    ),
    (
        (
            r"no kernel image is available|NoKernelImageForDevice|cudaErrorInvalidDeviceFunction|_ARCH_MISMATCH|"
            r"(cuda ?(error|failure)|error):? (98|209)\b|"
            r"(?i:unsupported (SM|compute capability))|Target GPU SM \d+ is not supported"
        ),
        NO_KERNELS,
    ),
    (
        r"compiled using NumPy 1\.x|_ARRAY_API not found|numpy\.core\.multiarray failed to import",
        Fault(
            "A library cannot be imported",
            "it was built for NumPy 1 and NumPy 2 is installed",
            'Install the older one: `pip install "numpy<2" "opencv-python-headless<=4.11.0.86"`. The wheels of '
            "onnxruntime-gpu for JetPack 6 need that.",
        ),
    ),
    (
        r"No module named '?tensorrt",
        Fault(
            _NO_TENSORRT,
            "it is not installed",
            'Install it: `apt install python3-libnvinfer` on a Jetson, `pip install "tensorrt-cu12<11"` elsewhere.',
        ),
    ),
    (
        r"No module named '?(cuda|cuda_bindings)\b",
        Fault(
            "The GPU cannot be reached from Python",
            "cuda-python is not installed",
            "Install it: `pip install cuda-python==12.6.2.post1` on JetPack 6, `pip install cuda-python` elsewhere.",
        ),
    ),
    (
        r"within workspace limit|insufficient workspace",
        Fault(
            "The engine cannot be built",
            "no kernel for one of its operators makes do with the workspace",
            "Raise TRT_WORKSPACE_BYTES, or set it to 0, which is as much as there is, and free memory on the device.",
            # Said, too, of kernels that were given the workspace and did not get the memory.
            is_memory=True,
        ),
    ),
    (
        (
            r"(?i:out of memory|OutOfMemory|insufficient memory|"
            r"cudaErrorMemoryAllocation|bad_?alloc|Failed to allocate memory|_ALLOC_FAILED)"
        ),
        Fault(
            "The device's memory does not suffice",
            "something else uses it, or the batch is too large",
            "Free memory on the device, or lower DET_BATCH_SIZE and REC_BATCH_SIZE.",
            is_memory=True,
        ),
    ),
)
"""Looked for in order: the first that is found tells the cause. Texts: NVIDIA/TensorRT issues 2913, 4258;
dusty-nv/jetson-containers 1218, 1374; OE4T/meta-tegra 1281; the `ImportError`s of the loader."""


_NEWER_OR_OLDER = "Update onnxruntime, or export the model anew with an older opset"

_MODEL_PATTERNS: tuple[tuple[str, str], ...] = (
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "its file is of ONNX IR version {0} and this ONNX Runtime reads {1}. Update onnxruntime, or save it as {1}",
    ),
    (
        r"(?i)opset (\d+) is under development and support",
        "its operators are of opset {0}, newer than this ONNX Runtime knows. " + _NEWER_OR_OLDER,
    ),
    (
        r"No Op registered for (\S+) with domain_version of (\d+)",
        "its operator {0} is not in opset {1} as this ONNX Runtime knows it. " + _NEWER_OR_OLDER,
    ),
    (
        r"(\S+?)\(-?\d+\) is not a registered function/op",
        "its operator {0} is none of ONNX's own. Export the model anew without it",
    ),
    (
        r"Could not find an implementation for (\S+?)\((\d+)\)",
        "there is no kernel for its operator {0} of version {1} here. " + _NEWER_OR_OLDER,
    ),
    (
        r"No conversion rule found for operations: ([^\n]+)",
        "there is no rule for its operators {0}. Update openvino, or export the model anew with an older opset",
    ),
    (r"(?i)protobuf parsing failed", "its file is not ONNX, or damaged. Supply it anew"),
)


def why_not_opened(text: str) -> str:
    """Say why a library does not open a model and what mends it: `: ... .`, or `.` where the message is not known.

    Args:
        text: What it says.
    """
    for pattern, words in _MODEL_PATTERNS:
        if found := re.search(pattern, text):
            return f": {words.format(*found.groups())}."
    fault = recognize(text)
    return f": {fault.why}. {fault.cure}" if fault else "."


def recognize(text: str) -> Fault | None:
    """Return what a message tells, None when nothing in it is known.

    Args:
        text: One message or many, as an exception or a log has them.
    """
    return next((fault for pattern, fault in _PATTERNS if re.search(pattern, text)), None)


def explain(text: str, *, what: str) -> Fault:
    """Return what a message tells, in its own words when it is not known.

    Args:
        text: One message or many.
        what: What could not be had, for messages that are not known.
    """
    return recognize(text) or Fault(
        what, " ".join(text.split()) or "no reason was given", "`jetface doctor` shows what is here."
    )
