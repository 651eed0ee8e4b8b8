"""Teach the recogniser.

    python -m training.train_recognizer --out .train/recognizer.pt

Loss: 1 - cosine to the teacher's embedding, and the squared difference of all similarities within the batch
(Park et al. 2019, "Relational Knowledge Distillation").
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.config import RecognizerLoss, RecognizerShape, RunConfig, read_table
from training.face_bank import FaceBank
from training.optimisation import Run, is_time_up, load_average, pick_device, place, rank, seed_pictures
from training.recognizer import RecognizerStudent
from training.recognizer_batches import draw_crops
from training.teacher import load_recognizer


def distillation_loss(student: Tensor, teacher: Tensor, relation_weight: float) -> tuple[Tensor, Tensor]:
    """Compare embeddings (N, 512) of the same crops.

    Returns:
        The loss, and the mean cosine to the teacher for the log.
    """
    student, teacher = functional.normalize(student.float()), functional.normalize(teacher.float())
    cosine = (student * teacher).sum(1).mean()
    relation = (student @ student.T - teacher @ teacher.T).square().mean()
    return 1 - cosine + relation_weight * relation, cosine


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("recognizer.toml"))
    parser.add_argument("--portraits", type=Path, default=Path("../shared/training/portraits.tar"))
    parser.add_argument("--labels", type=Path, default=Path(".train/portraits.npz"))
    parser.add_argument("--teacher", type=Path, default=Path("../shared/models/w600k_mbf_dequantized.onnx"))
    parser.add_argument("--out", type=Path, default=Path(".train/recognizer.pt"), help="checkpoint; resumed if there")
    parser.add_argument("--start-from", type=Path, default=None, help="begin with the average of this checkpoint")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="write the checkpoint and stop")
    parser.add_argument("--limit", type=int, default=None, help="use only so many portraits")
    return parser.parse_args()


def main() -> None:
    """Run or resume the training that the command line names."""
    options = parse_arguments()
    config = read_table(options.config, "run", RunConfig)
    mixture = read_table(options.config, "loss", RecognizerLoss)
    device = pick_device()
    torch.manual_seed(config.seed)
    student = RecognizerStudent(read_table(options.config, "shape", RecognizerShape))
    if options.start_from:
        load_average(student, options.start_from)
    run = Run(place(student, device), config)
    if options.out.exists():
        run.resume(options.out)
    seed_pictures(config.seed, run.step)
    bank = FaceBank.load(options.portraits, options.labels, device, options.limit)
    half = torch.float16 if device.type == "cuda" else torch.float32
    teacher = place(load_recognizer(options.teacher), device, half)
    started_s = time.monotonic()
    while run.step < config.steps and not is_time_up(run.step, started_s, options.stop_after_s):
        with torch.no_grad():
            crops = draw_crops(bank, config.batch, mixture.mixed_share)
            crops = crops.contiguous(memory_format=torch.channels_last)
            target = teacher(crops.to(half))[0]
        with torch.autocast(device.type, half, enabled=half == torch.float16):
            embedding = run.student(crops)
        loss, cosine = distillation_loss(embedding, target, mixture.relation_weight)
        run.apply(loss)
        if rank() == 0 and (run.step % 100 == 0 or run.step == config.steps):
            took_s = time.monotonic() - started_s
            print(f"step {run.step} loss {loss.item():.4f} cosine {cosine.item():.4f} {took_s:.0f} s", flush=True)
    run.save(options.out)


if __name__ == "__main__":
    main()
