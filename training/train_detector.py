"""Teach the detector.

    python -m training.train_detector --out .train/detector.pt

Every anchor learns the teachers' score (quality focal loss, Li et al. 2020) and, where they see a face, box (GIoU,
Rezatofighi et al. 2019) and landmarks (mean distance over box side).
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.config import DetectorLoss, DetectorShape, RunConfig, read_table
from training.detector import DetectorStudent
from training.detector_canvases import CanvasPainter, worsen
from training.detector_targets import SEEN_FROM, LevelTarget, make_targets
from training.face_bank import FaceBank, load_backgrounds
from training.losses import box_loss
from training.optimisation import Run, is_time_up, load_average, pick_device, place, rank, seed_pictures
from training.teacher import load_detector

BACKGROUND_PX = 320
FEWEST_FACES = 4.0  # a stride that sees fewer in a batch is not blown up


def level_loss(maps: tuple[Tensor, ...], target: LevelTarget) -> Tensor:
    """Sums (4,) at one stride: the score, box and landmark terms, and the scores of the faces seen.

    Args:
        maps: The student's score logits (N, 2, h, w), boxes (N, 8, h, w), landmarks (N, 20, h, w).
        target: What the teachers say there.
    """
    logits, boxes, landmarks = (m.float() for m in maps)
    difference = (logits.sigmoid() - target.scores).square()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target.scores, reduction="none")
    score_term = (difference * cross_entropy).sum()
    # Every anchor is counted, with weight 0 where no face is seen: to pick the others out, the GPU would have to wait.
    seen = (target.scores > SEEN_FROM)[:, :, None]
    weight = target.scores * seen[:, :, 0]
    wanted = torch.where(seen, target.boxes, 1.0)  # distances mean nothing where no face is seen
    found = boxes.reshape(wanted.shape)
    rows = [values.movedim(2, -1).reshape(-1, 4) for values in (found, wanted)]
    box_term = (weight.flatten() * box_loss(*rows)).sum()
    side = (wanted.sum(2, keepdim=True) / 2).clamp(min=0.5)
    points = landmarks.reshape(target.landmarks.shape)
    distance = ((points - torch.where(seen, target.landmarks, 0.0)) / side).abs().mean(2)
    return torch.stack([score_term, box_term, (weight * distance).sum(), weight.sum()])


def mean_terms(levels: list[tuple[Tensor, ...]], targets: list[LevelTarget], *, balance: bool) -> Tensor:
    """The score, box and landmark terms (3,) for one face: the mean over all faces, or over the strides' means."""
    sums = torch.stack([level_loss(maps, target) for maps, target in zip(levels, targets, strict=True)])
    if not balance:
        sums = sums.sum(0, keepdim=True)
    return (sums[:, :3] / sums[:, 3:].clamp(min=FEWEST_FACES)).mean(0)


def learn(student: DetectorStudent, blob: Tensor, targets: list[LevelTarget], *, balance: bool) -> Tensor:
    """The three terms (3,) for one batch of canvases; the student runs in half precision on a GPU."""
    with torch.autocast(blob.device.type, torch.float16, enabled=blob.is_cuda):
        levels = student.maps(blob)
    return mean_terms(levels, targets, balance=balance)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("detector.toml"))
    parser.add_argument("--portraits", type=Path, default=Path("../shared/training/portraits.tar"))
    parser.add_argument("--backgrounds", type=Path, default=Path("../shared/training/backgrounds.tar"))
    parser.add_argument("--labels", type=Path, default=Path(".train/portraits.npz"))
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models"), help="folder of the two detectors")
    parser.add_argument("--out", type=Path, default=Path(".train/detector.pt"), help="checkpoint; resumed if there")
    parser.add_argument("--start-from", type=Path, default=None, help="begin with the average of this checkpoint")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="write the checkpoint and stop")
    parser.add_argument("--limit", type=int, default=None, help="use only so many portraits and backgrounds")
    parser.add_argument("--compile", action="store_true", help="compile canvases, teachers and student")
    return parser.parse_args()


def main() -> None:
    """Run or resume the training that the command line names."""
    options = parse_arguments()
    config = read_table(options.config, "run", RunConfig)
    weights = read_table(options.config, "loss", DetectorLoss)
    device = pick_device()
    torch.manual_seed(config.seed)
    student = DetectorStudent(read_table(options.config, "shape", DetectorShape))
    if options.start_from:
        load_average(student, options.start_from)
    run = Run(place(student, device), config)
    if options.out.exists():
        run.resume(options.out)
    seed_pictures(config.seed, run.step)
    bank = FaceBank.load(options.portraits, options.labels, device, options.limit)
    backgrounds = load_backgrounds(options.backgrounds, BACKGROUND_PX, device, options.limit)
    painter = CanvasPainter.build(bank, backgrounds)
    half = torch.float16 if device.type == "cuda" else torch.float32
    teachers = [
        place(load_detector(options.teachers / name), device, half)
        for name in ("det_500m.onnx", "scrfd_2.5g_bnkps.onnx")
    ]
    draw, look, teach = painter.draw_sharp, make_targets, learn
    if options.compile:
        draw, look, teach = (torch.compile(function, dynamic=False) for function in (draw, look, teach))
    term_weights = torch.tensor([weights.score_weight, weights.box_weight, weights.landmark_weight], device=device)
    started_s = time.monotonic()
    while run.step < config.steps and not is_time_up(run.step, started_s, options.stop_after_s):
        with torch.no_grad():
            canvases = worsen(draw(config.batch, weights.canvas_px))
            blob = ((canvases - 127.5) / 128).contiguous(memory_format=torch.channels_last)
            targets = look(*teachers, blob.to(half), weights.second_teacher_weight, weights.large_from_px)
        terms = teach(run.student, blob, targets, balance=weights.balance_levels)
        run.apply((terms * term_weights).sum())
        if rank() == 0 and (run.step % 100 == 0 or run.step == config.steps):
            took_s = time.monotonic() - started_s
            shown = " ".join(f"{term:.4f}" for term in terms.tolist())
            print(f"step {run.step} score, box, landmark {shown} {took_s:.0f} s", flush=True)
    run.save(options.out)


if __name__ == "__main__":
    main()
