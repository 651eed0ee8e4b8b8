"""What the settings say of engines, for the service and the command line."""

from __future__ import annotations

from jetface.backends.engines.files import PlanFolder
from jetface.backends.engines.kit import EngineKit
from jetface.backends.memory import MemoryGuard
from jetface.backends.providers import TensorrtOptions
from jetface.geometry.letterbox import scaled_canvas
from jetface.metrics import Metrics
from jetface.models.engines.recipe import EngineOptions, EngineRecipe, EngineRecipes, EngineSource
from jetface.models.engines.takeover import EngineLoader, TakeoverOptions
from jetface.models.graphs.parts import num_bytes
from jetface.models.loading import ModelLoader
from jetface.models.precision import Precisions
from jetface.models.weights.files import WeightsFolder
from jetface.settings import Settings

_BUILD_BYTES_PER_FILE_BYTE = 10
"""What a build takes at its most, by the size of the weights; on a Jetson that is the memory of everything else.
An estimate: TensorRT keeps the weights several times while it chooses kernels."""


def gpu_canvases_hw(settings: Settings) -> tuple[tuple[int, int], ...]:
    """Return the height and width of every canvas: on a GPU pictures are padded to these and no others."""
    width_px, height_px = settings.max_size
    return tuple(scaled_canvas((height_px, width_px), scale) for scale in settings.det_scales)


def plan_folder(settings: Settings) -> PlanFolder:
    """Return where plans are kept."""
    if not settings.trt_engine_cache_enable:
        return PlanFolder(None)
    return PlanFolder(settings.trt_engine_cache_path or settings.models_dir / "engines")


def tensorrt_options(settings: Settings) -> TensorrtOptions:
    """Return the options of ONNX Runtime's own TensorRT provider, for those who name it."""
    cache_dir = settings.trt_engine_cache_path or settings.models_dir / "engines"
    return TensorrtOptions(
        fp16=settings.force_fp16,
        cache_dir=cache_dir if settings.trt_engine_cache_enable else None,
        dla_core=settings.trt_dla_core,
    )


def precisions_of(settings: Settings) -> Precisions:
    """Return what the settings say of precisions."""
    return Precisions(
        detection=settings.det_precision,
        recognition=settings.rec_precision,
        prefers_half=settings.force_fp16,
        least_cosine=settings.int8_least_cosine,
        most_tar_loss=settings.int8_most_tar_loss,
        least_iou=settings.int8_least_iou,
    )


def engine_recipes(
    settings: Settings, weights: WeightsFolder, source: EngineSource, *, has_onnxruntime: bool
) -> EngineRecipes:
    """Return what engines are made of.

    Args:
        settings: The effective configuration.
        weights: Where weights are.
        source: What builds engines.
        has_onnxruntime: Whether ONNX Runtime may be imported on this machine, to judge engines by.
    """
    options = EngineOptions(
        precisions=precisions_of(settings),
        det_batch_size=settings.det_batch_size,
        rec_batch_size=settings.rec_batch_size,
        canvases_hw=gpu_canvases_hw(settings),
        workspace_bytes=settings.trt_workspace_bytes,
        optimization_level=settings.trt_optimization_level,
        dla_core=settings.trt_dla_core,
        reference="onnxruntime" if has_onnxruntime else "toolkit",
    )
    return EngineRecipes(weights, source, options, plan_folder(settings))


def why_no_dla(settings: Settings, kit: EngineKit | None) -> str | None:
    """Say why `TRT_DLA_CORE` puts nothing, or less than all, on a deep learning accelerator.

    An accelerator takes one input shape alone: least, usual and most of a profile must be equal, so a batch size above
    1 leaves a model to the GPU. Source: NvInfer.h of TensorRT 10.3.

    Args:
        settings: The effective configuration.
        kit: What builds engines; None where nothing does.

    Returns:
        One or two sentences with the cure; None where the setting does what it says, or is not set.
    """
    core = settings.trt_dla_core
    if core < 0 or "tensorrt" in map(str.lower, settings.ort_providers):
        return None
    nothing = f"TRT_DLA_CORE={core} puts nothing on an accelerator"
    if kit is None:
        return f"{nothing}: no engines are built here. Set it to -1."
    num_cores = kit.num_dla_cores
    if core >= num_cores:
        return (
            f"{nothing}: TensorRT {kit.facts().get('version', '')} finds {num_cores} of them here. AGX Orin has two, "
            "Orin NX one or two, Orin Nano and Thor none; TensorRT knows them up to 10.7 and from 11.4.1 on. "
            "Set it to -1."
        )
    sizes = {"DET_BATCH_SIZE": settings.det_batch_size, "REC_BATCH_SIZE": settings.rec_batch_size}
    above = [name for name, size in sizes.items() if size > 1]
    if not above:
        return None
    what = nothing if len(above) == len(sizes) else f"TRT_DLA_CORE={core} puts only a part on the accelerator"
    cure = " and ".join(f"{name}=1" for name in above)
    return f"{what}, which takes one shape alone: {' and '.join(above)} are above 1. Set {cure}."


def engine_loader(
    settings: Settings,
    recipes: EngineRecipes,
    plain: ModelLoader | None,
    *,
    max_waiting: int,
    memory: MemoryGuard,
    metrics: Metrics,
) -> EngineLoader:
    """Return what loads models on engines.

    Args:
        settings: The effective configuration.
        recipes: What engines are made of.
        plain: What answers without engines; None where nothing can.
        max_waiting: Most items in the queue of one model.
        memory: Refuses builds that would take too much.
        metrics: Where states are shown.
    """

    def require_memory(recipe: EngineRecipe) -> None:
        need_bytes = _BUILD_BYTES_PER_FILE_BYTE * num_bytes(recipe.weights)
        memory.require(need_bytes, work="build", subject=f"the engine of model {recipe.spec.name}")

    options = TakeoverOptions(
        max_waiting=max_waiting, serves_meanwhile=settings.serve_while_building, may_build=require_memory,
        most_canvases=settings.max_in_flight, load_timeout_s=settings.load_timeout_s,
    )  # fmt: skip
    return EngineLoader(recipes, plain, options, metrics)
