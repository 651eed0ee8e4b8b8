"""The `arcface` family: aligned crops to embeddings, of any length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.backends.protocol import Backend
from app.domain import Crop, Embedding, Tensor
from app.errors import InferenceError, ModelContractError
from app.geometry.alignment import CROP_SIDE_PX
from app.geometry.tensors import normalize_rows, to_blob
from app.specs import ModelSpec


class Arcface:
    """Runs an ArcFace graph on crops. Stateless; as thread-safe as the backend it is given."""

    def __init__(self, spec: ModelSpec) -> None:
        """Create a recognizer for a registry entry of the recognition task.

        Raises:
            ModelContractError: The entry is for crops of another size than 112x112, or names no embedding length.
        """
        if (spec.input.height_px, spec.input.width_px) != (CROP_SIDE_PX, CROP_SIDE_PX):
            raise ModelContractError(
                f"ArcFace takes crops of 112x112 pixels; {spec.name} wants "
                f"{spec.input.height_px}x{spec.input.width_px}."
            )
        if spec.embedding_length is None:
            raise ModelContractError(f"{spec.name} names no embedding length.")
        self.spec = spec
        self.embedding_length = spec.embedding_length

    @classmethod
    def probe(cls, spec: ModelSpec, backend: Backend) -> Arcface:
        """Create a recognizer for the graph in `backend`, checking its answer to one grey crop.

        Args:
            spec: Its registry entry.
            backend: Owned by the calling thread for the duration of the call.

        Raises:
            ModelContractError: The graph's answer is not one row of `embedding_length` values.
            InferenceError: The run failed.
        """
        recognizer = cls(spec)
        crop = np.full((CROP_SIDE_PX, CROP_SIDE_PX, 3), 127, np.uint8)
        outputs = backend.run(recognizer._blob([crop]))
        if len(outputs) != 1 or outputs[0].size != recognizer.embedding_length or len(outputs[0]) != 1:
            found = ", ".join(str(list(output.shape)) for output in outputs)
            raise ModelContractError(
                f"{spec.name} should answer a crop with [1, {recognizer.embedding_length}]; found {found}."
            )
        return recognizer

    def run(self, backend: Backend, crops: Sequence[Crop]) -> list[Embedding]:
        """Embed crops.

        Args:
            backend: The loaded graph, owned by the calling thread.
            crops: Aligned faces, (112, 112, 3) uint8 BGR.

        Returns:
            One embedding per crop, in order. Vectors are float32 of unit length, rows of one array a run.

        Raises:
            InferenceError: The run failed, or an output is of the wrong shape, zero or not finite.
        """
        found: list[Embedding] = []
        for start in range(0, len(crops), backend.max_batch_size):
            chunk = crops[start : start + backend.max_batch_size]
            vectors, norms = normalize_rows(self._rows(backend.run(self._blob(chunk)), len(chunk)))
            if not np.isfinite(norms).all() or not norms.all():
                raise InferenceError("The recognizer's output is zero or not finite.")
            found += [Embedding(vector, norm) for vector, norm in zip(vectors, norms.tolist(), strict=True)]
        return found

    def _blob(self, crops: Sequence[Crop]) -> Tensor:
        spec = self.spec.input
        return to_blob(crops, mean=spec.mean, std=spec.std, channel_order=spec.channel_order)

    def _rows(self, outputs: Sequence[Tensor], num_crops: int) -> Tensor:
        """Return the first output as (N, L): some exports keep trailing axes of length 1."""
        shape = outputs[0].shape
        if shape[0] != num_crops or outputs[0].size != num_crops * self.embedding_length:
            raise InferenceError(f"The recognizer answered {num_crops} crops with an output of {list(shape)}.")
        return outputs[0].reshape(num_crops, self.embedding_length)
