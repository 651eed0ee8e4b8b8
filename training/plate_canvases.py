"""Canvases for the plate detector: real traffic and natural pictures with drawn vehicles, plates and signs on them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.photometry import add_noise, change_colours, lose_detail, some, uniform
from training.plate_art import Art
from training.plate_scenes import (
    Slots,
    apply,
    bounds,
    from_unit_square,
    inverse,
    keep_apart,
    place_quads,
    rectangles,
    touches,
)
from training.plates import PlatePicture
from training.pyramids import Pyramid
from training.weather import balance, compress, darken, move, rain, shine, tint

LETTERBOX = 114.0
NUM_VEHICLES, NUM_FREE, NUM_SIGNS = 3, 4, 6
LEAST_WIDTH_PX, LEAST_HEIGHT_PX = 12.0, 4.0
LEAST_VISIBLE = 0.6


@dataclass(frozen=True, slots=True)
class Canvases:
    """A batch.

    Attributes:
        pictures: (N, 3, S, S) float, RGB, 0 to 255.
        boxes: (N, M, 4) x1, y1, x2, y2 of plates in pixels, cut at the canvas.
        is_plate: (N, M): there is one, and it must be found.
        is_unclear: (N, M): there is one, too small or cut too far to insist on.
    """

    pictures: Tensor
    boxes: Tensor
    is_plate: Tensor
    is_unclear: Tensor


def normal(like: Tensor, *shape: int) -> Tensor:
    """Normal random numbers (N, *shape) on the device of `like` and with its N."""
    return torch.randn(len(like), *shape, device=like.device)


def pick(like: Tensor, count: int, *shape: int) -> Tensor:
    """Random indices (N, *shape) below `count`."""
    return torch.randint(count, (len(like), *shape), device=like.device)


def grid(canvas_px: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The x (1, 1, S) and y (1, S, 1) of the middles of a canvas's pixels."""
    line = torch.arange(canvas_px, device=device, dtype=torch.float32) + 0.5
    return line[None, None, :], line[None, :, None]


@dataclass(frozen=True, slots=True)
class PlatePainter:
    """Draws training canvases from packed pictures.

    Attributes:
        frames: Real pictures of traffic.
        plates_of_frame: (F, R, 4) boxes in pixels, zeros where a frame has fewer than R.
        backgrounds: Natural pictures without plates.
        plates: Drawn plates, then drawn signs.
        aspect: (plates and signs,) width over height.
        inset: (plates and signs, 4) the plate within its frame: left, top, right, bottom in shares of the sides.
        num_plates: How many of these are plates.
        vehicles: Drawn vehicles.
        vehicle_aspect: (V,).
        mount: (V, 4) where a vehicle carries its plate.
        real_share: Share of canvases made of real pictures.
    """

    frames: Pyramid
    plates_of_frame: Tensor
    backgrounds: Pyramid
    plates: Pyramid
    aspect: Tensor
    inset: Tensor
    num_plates: int
    vehicles: Pyramid
    vehicle_aspect: Tensor
    mount: Tensor
    real_share: float

    @staticmethod
    def build(
        pictures: list[PlatePicture],
        backgrounds: Tensor,
        plates: Art,
        signs: Art,
        vehicles: Art,
        real_share: float,
    ) -> "PlatePainter":
        """Pack everything onto the device of `backgrounds`."""
        device = backgrounds.device
        boxes = torch.zeros(len(pictures), max(len(p.boxes) for p in pictures), 4)
        for row, picture in enumerate(pictures):
            boxes[row, : len(picture.boxes)] = torch.from_numpy(picture.boxes)
        frames = np.stack([p.image[:, :, ::-1].transpose(2, 0, 1) for p in pictures])
        sides = torch.from_numpy(np.concatenate([plates.inset, signs.inset]))
        inset = torch.stack([sides[:, 0], sides[:, 1], 1 - sides[:, 2], 1 - sides[:, 3]], 1)
        return PlatePainter(
            frames=Pyramid.build(torch.from_numpy(frames).to(device)),
            plates_of_frame=boxes.to(device),
            backgrounds=Pyramid.build(backgrounds),
            plates=Pyramid.build(torch.from_numpy(np.concatenate([plates.pictures, signs.pictures])).to(device), 6),
            aspect=torch.from_numpy(np.concatenate([plates.aspect, signs.aspect])).to(device),
            inset=inset.to(device),
            num_plates=len(plates.pictures),
            vehicles=Pyramid.build(torch.from_numpy(vehicles.pictures).to(device), 5),
            vehicle_aspect=torch.from_numpy(vehicles.aspect).to(device),
            mount=torch.from_numpy(vehicles.inset).to(device),
            real_share=real_share,
        )

    @torch.no_grad()
    def draw(self, batch: int, canvas_px: int) -> Canvases:
        """One batch."""
        like = torch.empty(batch, device=self.aspect.device)
        num_real = round(self.real_share * batch)
        is_real = torch.arange(batch, device=like.device) < num_real
        traffic, in_traffic, quads, has_plate = self._traffic(like[:num_real], canvas_px)
        nature, in_nature = self._nature(like[num_real:], canvas_px)
        canvas, inside = torch.cat([traffic, nature]), torch.cat([in_traffic, in_nature])
        real_quads = torch.cat([quads, quads.new_zeros(batch - num_real, *quads.shape[1:])])
        has_real = torch.cat([has_plate, has_plate.new_zeros(batch - num_real, has_plate.shape[1])])
        replaced, is_replaced = self._replacements(like, real_quads, has_real)
        plain = has_real & ~is_replaced
        # Nothing else may touch a real plate, nor the drawn one in its place.
        taken = torch.cat([bounds(real_quads), bounds(replaced.quads)], 1)
        is_taken = torch.cat([plain, is_replaced], 1)

        vehicles = self._vehicles(like, canvas_px, is_real, taken, is_taken)
        mounted = self._mounted(like, vehicles)
        taken = torch.cat([taken, bounds(mounted.quads)], 1)
        is_taken = torch.cat([is_taken, mounted.is_there], 1)
        free = self._scattered(like, canvas_px, NUM_FREE, torch.where(is_real, 0.12, 0.4), is_sign=False)
        is_kept = keep_apart(bounds(free.quads), free.is_there & ~touches(bounds(free.quads), taken, is_taken))
        free = Slots(free.quads, free.picture, is_kept)
        taken = torch.cat([taken, bounds(free.quads)], 1)
        is_taken = torch.cat([is_taken, is_kept], 1)
        signs = self._scattered(like, canvas_px, NUM_SIGNS, torch.where(is_real, 0.25, 0.4), is_sign=True)
        signs = Slots(signs.quads, signs.picture, signs.is_there & ~touches(bounds(signs.quads), taken, is_taken))

        light = self._light(canvas, is_real)
        canvas = self._overlay(canvas, vehicles, self.vehicles, light)
        drawn = Slots.join([replaced, mounted, free])
        canvas = self._overlay(canvas, Slots.join([signs, drawn]), self.plates, light)

        exact = apply(from_unit_square(drawn.quads), rectangles(self.inset[drawn.picture]))
        boxes = torch.cat([bounds(real_quads), bounds(exact)], 1)
        is_there = torch.cat([plain, drawn.is_there], 1)
        cut, is_plate, is_unclear = self._visible(boxes, is_there, inside, canvas_px)
        canvas = self._worsen(canvas)
        pictures = torch.where(inside[:, None], canvas, torch.full_like(canvas, LETTERBOX))
        return Canvases(pictures, cut, is_plate, is_unclear)

    def _traffic(self, like: Tensor, canvas_px: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real pictures behind everything: a quarter as the service sees them, whole and upright, the rest in part.

        Returns:
            Canvas (N, 3, S, S); where it shows the picture and not the letterbox's bars (N, S, S); quadrilaterals of
            the real plates (N, R, 4, 2) and whether there is one (N, R).
        """
        frame = pick(like, self.frames.count)
        labels = self.plates_of_frame[frame]
        zoom, linear, focus, target = self._view(like, canvas_px, labels)
        corners = rectangles(labels) - focus[:, None, None]
        quads = corners @ torch.linalg.inv(linear).transpose(1, 2)[:, None] + target[:, None, None]
        x, y = grid(canvas_px, like.device)
        dx, dy = x - target[:, 0, None, None], y - target[:, 1, None, None]
        m = linear[:, :, :, None, None]
        u = focus[:, 0, None, None] + m[:, 0, 0] * dx + m[:, 0, 1] * dy
        v = focus[:, 1, None, None] + m[:, 1, 0] * dx + m[:, 1, 1] * dy
        inside = (u > 0) & (v > 0) & (u < float(self.frames.width_px[0])) & (v < float(self.frames.height_px[0]))
        level = (torch.log2(1 / zoom) + uniform(like, -0.6, 0.4)).round().clamp(0, 3).long()
        frame, level = (t[:, None, None].expand(u.shape) for t in (frame, level))
        canvas = self.frames.sample(frame, level, u - 0.5, v - 0.5).transpose(0, 1)
        return canvas, inside, quads, labels[:, :, 2] > labels[:, :, 0]

    def _view(self, like: Tensor, canvas_px: int, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How each canvas looks at its real picture.

        Returns:
            Canvas pixels a picture pixel (N,); the mapping (N, 2, 2) of canvas steps to picture steps; a point (N, 2)
            of the picture and where on the canvas (N, 2) it comes to lie, mostly a plate.
        """
        width, height = float(self.frames.width_px[0]), float(self.frames.height_px[0])
        fit = canvas_px / max(width, height)
        is_whole = uniform(like, 0, 1) < 0.25
        zoom = fit * torch.exp(uniform(like, math.log(0.7), math.log(2.6)))
        zoom = torch.where(is_whole, torch.full_like(zoom, fit), zoom)
        flip = torch.where(uniform(like, 0, 1) < 0.5, 1.0, -1.0)
        roll = torch.where(is_whole, 0.0, normal(like) * math.radians(4))
        shear = torch.where(is_whole, 0.0, normal(like) * 0.06)
        turn = torch.stack([roll.cos(), roll.sin(), -roll.sin(), roll.cos()], 1).unflatten(1, (2, 2))
        slant = torch.stack([flip, shear, torch.zeros_like(flip), torch.ones_like(flip)], 1).unflatten(1, (2, 2))
        linear = turn @ slant / zoom[:, None, None]

        which = pick(like, labels.shape[1])[:, None, None].expand(-1, 1, 4)
        label = labels.gather(1, which)[:, 0]
        is_plate = (uniform(like, 0, 1, 1) < 0.8) & (label[:, 2:] > 0)
        anywhere = uniform(like, 0, 1, 2) * torch.tensor([width, height], device=like.device)
        focus = torch.where(is_plate, (label[:, :2] + label[:, 2:]) / 2, anywhere)
        target = uniform(like, 0.05, 0.95, 2) * canvas_px
        corner = torch.stack([torch.where(flip > 0, 0.0, width), torch.zeros_like(flip)], 1)
        bar = torch.tensor([0.0, 0.5, 1.0], device=like.device)[pick(like, 3)] * (canvas_px - height * fit)
        focus = torch.where(is_whole[:, None], corner, focus)
        target = torch.where(is_whole[:, None], torch.stack([torch.zeros_like(bar), bar], 1), target)
        return zoom, linear, focus, target

    def _nature(self, like: Tensor, canvas_px: int) -> tuple[Tensor, Tensor]:
        """Natural pictures behind everything: canvas (N, 3, S, S) and where no letterbox's bars hide it (N, S, S)."""
        x, y = grid(canvas_px, like.device)
        shape = (len(like), canvas_px, canvas_px)
        side = float(self.backgrounds.width_px[0])
        scale = torch.exp(uniform(like, math.log(0.25), 0.0, 1, 1)) * side / canvas_px
        room = side - scale * canvas_px
        u = x * scale + room * uniform(like, 0, 1, 1, 1)
        v = y * scale + room * uniform(like, 0, 1, 1, 1)
        u = torch.where(uniform(like, 0, 1, 1, 1) < 0.5, u, side - u)
        picture = pick(like, self.backgrounds.count, 1, 1).expand(shape)
        level = torch.zeros(shape, dtype=torch.long, device=like.device)
        canvas = self.backgrounds.sample(picture, level, u.expand(shape) - 0.5, v.expand(shape) - 0.5).transpose(0, 1)
        bars = (uniform(like, -0.6, 0.35, 1, 1) * canvas_px).clamp(min=0)
        before = torch.where(uniform(like, 0, 1, 1, 1) < 0.5, bars / 2, torch.zeros_like(bars))
        line = torch.where(uniform(like, 0, 1, 1, 1) < 0.7, y.expand(shape), x.expand(shape))
        return canvas, (line > before) & (line < canvas_px - bars + before)

    def _replacements(self, like: Tensor, quads: Tensor, has_real: Tensor) -> tuple[Slots, Tensor]:
        """Drawn plates over half of the real ones, as large as hides them, in the same pose."""
        count = quads.shape[1]
        picture = pick(like, self.num_plates, count)
        middle = quads.mean(2, keepdim=True)
        across = (quads[:, :, 1:2] - quads[:, :, 0:1] + quads[:, :, 2:3] - quads[:, :, 3:4]) / 4
        down = (quads[:, :, 3:4] - quads[:, :, 0:1] + quads[:, :, 2:3] - quads[:, :, 1:2]) / 4
        width, height = across.norm(dim=3, keepdim=True), down.norm(dim=3, keepdim=True)
        aspect = self.aspect[picture][:, :, None, None]
        wanted = width * uniform(like, 1.02, 1.25, count, 1, 1)
        wanted = torch.maximum(wanted, height * 1.05 * aspect)
        across = across * wanted / width.clamp(min=1e-3)
        down = down * (wanted / aspect) / height.clamp(min=1e-3)
        signs = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], device=like.device)
        placed = middle + signs[:, :1] * across + signs[:, 1:] * down
        is_replaced = has_real & (uniform(like, 0, 1, count) < 0.5)
        return Slots(placed, picture, is_replaced), is_replaced

    def _vehicles(self, like: Tensor, canvas_px: int, is_real: Tensor, taken: Tensor, is_taken: Tensor) -> Slots:
        """Drawn vehicles, apart from each other and from real plates; one fills the canvas now and then."""
        shape = (NUM_VEHICLES,)
        width = torch.exp(uniform(like, math.log(110), math.log(1.5 * canvas_px), *shape))
        picture = pick(like, self.vehicles.count, *shape)
        center = uniform(like, 0.1, 0.9, *shape, 2) * canvas_px
        turns = normal(like, *shape, 3) * torch.tensor([0.3, 0.08, 0.05], device=like.device)
        quads = place_quads(center, width, width / self.vehicle_aspect[picture], turns)
        wanted = uniform(like, 0, 1, *shape) < torch.where(is_real, 0.1, 0.75)[:, None]
        there = keep_apart(bounds(quads), wanted & ~touches(bounds(quads), taken, is_taken))
        return Slots(quads, picture, there)

    def _mounted(self, like: Tensor, vehicles: Slots) -> Slots:
        """The plates of the vehicles, in their perspective."""
        count = vehicles.picture.shape[1]
        picture = pick(like, self.num_plates, count)
        aspect, mount = self.aspect[picture], self.mount[vehicles.picture]
        middle = (mount[..., :2] + mount[..., 2:]) / 2
        half = (mount[..., 2] - mount[..., 0]) / 2 * (aspect / 4.5).clamp(max=1) ** 0.5
        rise = half / aspect * self.vehicle_aspect[vehicles.picture]
        sides = torch.stack([half, rise], -1)
        quads = apply(from_unit_square(vehicles.quads), rectangles(torch.cat([middle - sides, middle + sides], -1)))
        return Slots(quads, picture, vehicles.is_there & (uniform(like, 0, 1, count) < 0.93))

    def _scattered(self, like: Tensor, canvas_px: int, count: int, share: Tensor, *, is_sign: bool) -> Slots:
        """Plates or signs anywhere."""
        if is_sign:
            picture = self.num_plates + pick(like, len(self.aspect) - self.num_plates, count)
        else:
            picture = pick(like, self.num_plates, count)
        largest = 0.5 if is_sign else 0.75
        width = torch.exp(uniform(like, math.log(14), math.log(largest * canvas_px), count))
        center = uniform(like, 0, 1, count, 2) * canvas_px
        turns = normal(like, count, 3) * torch.tensor([0.45, 0.25, 0.12], device=like.device)
        quads = place_quads(center, width, width / self.aspect[picture], turns)
        return Slots(quads, picture, uniform(like, 0, 1, count) < share[:, None])

    def _light(self, canvas: Tensor, is_real: Tensor) -> Tensor:
        """(N, 3) what drawings are multiplied by, so that they share the light of the picture behind them."""
        mean = canvas.mean((2, 3))
        cast = mean / mean.mean(1, keepdim=True).clamp(min=1)
        strength = uniform(canvas, 0, 1, 1) * torch.where(is_real, 1.0, 0.5)[:, None]
        return cast.clamp(0.3, 2) ** strength * torch.exp(uniform(canvas, math.log(0.6), math.log(1.3), 1))

    def _overlay(self, canvas: Tensor, slots: Slots, art: Pyramid, light: Tensor) -> Tensor:
        """Lay drawings over the canvases."""
        batch, _, side, _ = canvas.shape
        device = canvas.device
        x, y = grid(side, device)
        into = inverse(from_unit_square(slots.quads))
        shown = torch.full((batch, side, side), -1, dtype=torch.long, device=device)
        u_shown, v_shown = torch.zeros(2, batch, side, side, device=device)
        for index in range(slots.picture.shape[1]):
            m = into[:, index, :, :, None, None]
            depth = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
            u = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) / depth
            v = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) / depth
            hit = (u > 0) & (u < 1) & (v > 0) & (v < 1) & slots.is_there[:, index, None, None]
            shown = torch.where(hit, index, shown)
            u_shown, v_shown = torch.where(hit, u, u_shown), torch.where(hit, v, v_shown)
        item, row, column = (shown >= 0).nonzero(as_tuple=True)
        slot = shown[item, row, column]
        u, v = u_shown[item, row, column], v_shown[item, row, column]
        size = bounds(slots.quads)
        size_px = (size[..., 2:] - size[..., :2]).clamp(min=1)
        level = torch.log2(float(art.width_px[0]) / size_px[..., 0]) + uniform(canvas, -0.5, 0.8, 1)
        level = level.round().clamp(0, len(art.width_px) - 1).long()
        drawn = art.sample(
            slots.picture[item, slot],
            level[item, slot],
            u * float(art.width_px[0]) - 0.5,
            v * float(art.height_px[0]) - 0.5,
        )
        # Light falls on each drawing in its own way: brighter or darker, flatter, from one side.
        count = slots.picture.shape[1]
        gain = torch.exp(normal(canvas, count) * 0.3)
        slope = normal(canvas, 2, count) * 0.2
        flat = uniform(canvas, 0.35, 1.0, count)
        shade = (gain[item, slot] + slope[item, 0, slot] * (u - 0.5) + slope[item, 1, slot] * (v - 0.5)).clamp(min=0.05)
        colour = (drawn[:3] * flat[item, slot] + 128 * (1 - flat[item, slot])) * shade * light[item].T
        edge = torch.minimum(
            torch.minimum(u, 1 - u) * size_px[item, slot, 0], torch.minimum(v, 1 - v) * size_px[item, slot, 1]
        )
        opacity = drawn[3] / 255 * (edge + 0.3).clamp(0, 1)
        result = canvas.clone()
        before = canvas[item, :, row, column]
        result[item, :, row, column] = before + (colour.T.clamp(0, 255) - before) * opacity[:, None]
        return result

    def _visible(
        self, boxes: Tensor, is_there: Tensor, inside: Tensor, canvas_px: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut boxes (N, M, 4) at the edges of the shown picture; which must be found, which are unclear."""
        columns, rows = inside.any(1), inside.any(2)
        line = torch.arange(canvas_px, device=boxes.device, dtype=torch.float32)
        far = torch.full_like(line, 1e6)
        low = torch.stack([torch.where(s, line, far).amin(1) for s in (columns, rows)], 1)
        high = torch.stack([torch.where(s, line, -far).amax(1) + 1 for s in (columns, rows)], 1)
        low, high = low[:, None].clamp(0, canvas_px), high[:, None].clamp(0, canvas_px)
        cut = torch.cat([boxes[..., :2].clamp(low, high), boxes[..., 2:].clamp(low, high)], 2)
        sides, whole = cut[..., 2:] - cut[..., :2], (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        share = sides.prod(2) / whole.prod(2)
        is_large = (sides[..., 0] >= LEAST_WIDTH_PX) & (sides[..., 1] >= LEAST_HEIGHT_PX)
        is_plate = is_there & is_large & (share >= LEAST_VISIBLE)
        return cut, is_plate, is_there & ~is_plate & (share > 0.05)

    def _worsen(self, canvas: Tensor) -> Tensor:
        """Everything that lies between the scene and the file."""
        canvas = change_colours(balance(canvas, 0.35))
        canvas = shine(darken(tint(canvas, 0.3), 0.15), 0.2)
        canvas = move(rain(canvas, 0.08), 0.2)
        canvas = add_noise(lose_detail(canvas, 0.3, 0.4), 0.3, 14)
        return torch.where(some(canvas, 0.02), 255 - canvas, compress(canvas, 0.5))
