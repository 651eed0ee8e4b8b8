"""Teach the plate detector.

    python -m training.train_plates --out .train/plates.pt

Scores learn the overlap that their box reaches (task-aligned assignment, Feng et al. 2021), boxes by GIoU.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training import plate_art
from training.config import DetectorShape, PlateLoss, RunConfig, read_table
from training.face_bank import load_backgrounds
from training.losses import box_loss
from training.optimisation import Run, is_time_up, load_average, pick_device, place, rank, seed_pictures
from training.plate_canvases import Canvases, PlatePainter
from training.plate_detector import PlateDetector, cell_centers, to_boxes
from training.plate_targets import assign
from training.plates import read_plates

BACKGROUND_PX = 320


def loss_terms(cells: Tensor, canvases: Canvases, cells_a_plate: int) -> Tensor:
    """The score and the box term (2,) for one plate.

    Args:
        cells: (N, 5, cells) as `PlateDetector.cells` gives them.
        canvases: What was to be found.
        cells_a_plate: Most cells that learn one plate.
    """
    cells = cells.float()
    side = canvases.pictures.shape[2]
    centers, strides = cell_centers(side, side, cells.device)
    found = to_boxes(cells[:, 1:], centers, strides).transpose(1, 2)
    logits = cells[:, 0]
    target = assign(
        logits.detach().sigmoid(),
        found.detach(),
        canvases.boxes,
        canvases.is_plate,
        canvases.is_unclear,
        centers,
        strides,
        cells_a_plate,
    )
    weight = target.scores.sum().clamp(min=1)
    judged = functional.binary_cross_entropy_with_logits(logits, target.scores, reduction="none") * target.counts
    item, cell = (target.scores > 0).nonzero(as_tuple=True)
    wanted = target.boxes[item, cell]
    distances = torch.cat([centers[cell] - wanted[:, :2], wanted[:, 2:] - centers[cell]], 1) / strides[cell]
    boxes = (box_loss(cells[item, 1:, cell], distances) * target.scores[item, cell]).sum()
    return torch.stack([judged.sum(), boxes]) / weight


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("plates.toml"))
    parser.add_argument("--plates", type=Path, default=Path("../shared/plates/plates_romania_mit.tar"))
    parser.add_argument("--backgrounds", type=Path, default=Path("../shared/training/backgrounds.tar"))
    parser.add_argument("--out", type=Path, default=Path(".train/plates.pt"), help="checkpoint; resumed if there")
    parser.add_argument("--start-from", type=Path, default=None, help="begin with the average of this checkpoint")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="write the checkpoint and stop")
    parser.add_argument("--limit", type=int, default=None, help="use only so many pictures of each archive")
    return parser.parse_args()


def draw_art(recipe: PlateLoss, seed: int) -> tuple[plate_art.Art, plate_art.Art, plate_art.Art]:
    """Draw the plates, signs and vehicles of a run."""
    first_seed = seed * 1_000_000_000
    return (
        plate_art.draw_all(plate_art.draw_plate, recipe.num_plates, first_seed),
        plate_art.draw_all(plate_art.draw_sign, recipe.num_signs, first_seed + 100_000_000),
        plate_art.draw_all(plate_art.draw_vehicle, recipe.num_vehicles, first_seed + 200_000_000),
    )


def main() -> None:
    """Run or resume the training that the command line names."""
    options = parse_arguments()
    config = read_table(options.config, "run", RunConfig)
    recipe = read_table(options.config, "loss", PlateLoss)
    art = draw_art(recipe, config.seed)  # before the GPU is touched: it forks
    device = pick_device()
    torch.manual_seed(config.seed)
    student = PlateDetector(read_table(options.config, "shape", DetectorShape))
    if options.start_from:
        load_average(student, options.start_from)
    run = Run(place(student, device), config)
    if options.out.exists():
        run.resume(options.out)
    seed_pictures(config.seed, run.step)
    pictures = list(read_plates(options.plates, "train", options.limit))
    backgrounds = load_backgrounds(options.backgrounds, BACKGROUND_PX, device, options.limit)
    painter = PlatePainter.build(pictures, backgrounds, *art, recipe.real_share)
    half = torch.float16 if device.type == "cuda" else torch.float32
    started_s = time.monotonic()
    while run.step < config.steps and not is_time_up(run.step, started_s, options.stop_after_s):
        canvases = painter.draw(config.batch, recipe.canvas_px)
        blob = (canvases.pictures / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, half, enabled=half == torch.float16):
            cells = run.student.cells(blob)
        terms = loss_terms(cells, canvases, recipe.cells_a_plate)
        run.apply(terms[0] + recipe.box_weight * terms[1])
        if rank() == 0 and (run.step % 100 == 0 or run.step == config.steps):
            took_s = time.monotonic() - started_s
            shown = " ".join(f"{term:.4f}" for term in terms.tolist())
            print(f"step {run.step} score, box {shown} {took_s:.0f} s", flush=True)
    run.save(options.out)


if __name__ == "__main__":
    main()
