// A picture, and what was found drawn on it.

const LEAST_LABELLED_PX = 16;

/**
 * Decode a file as the service does: upright, as its EXIF orientation says.
 * @returns {Promise<ImageBitmap|null>} Null when this browser cannot show it.
 */
export async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
}

/**
 * Draw a picture and what was found on it, as wide as the canvas is shown, sharp on any screen.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap|{width: number, height: number}} bitmap With a size alone nothing lies under the marks.
 * @param {{box: number[], landmarks?: number[][], label?: string}[]} marks In source pixels.
 * @param {{chosen?: number, hovered?: number, matched?: Set<number>, landmarks?: boolean, labels?: boolean}} [how]
 */
export function draw(canvas, bitmap, marks, { chosen = -1, hovered = -1, matched = new Set(), landmarks = true, labels = true } = {}) {
  const ratio = devicePixelRatio || 1;
  // The style sheet limits width and height; the ratio of the attributes gives the shape within them.
  const width = canvas.clientWidth || bitmap.width;
  const scale = width / bitmap.width;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale * ratio));
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.imageSmoothingQuality = "high";
  if (bitmap instanceof ImageBitmap) pen.drawImage(bitmap, 0, 0, width, bitmap.height * scale);
  const accent = getComputedStyle(canvas).getPropertyValue("--on-picture").trim();
  if (chosen >= 0) dim(pen, width, bitmap.height * scale, marks, [chosen, ...matched], scale);
  const drawn = marks.map((mark, index) => {
    const isMarked = index === chosen || index === hovered;
    return { mark, isMarked, color: isMarked || matched.has(index) ? accent : "#fff" };
  }).sort((a, b) => a.isMarked - b.isMarked);
  for (const { mark, ...how } of drawn) drawBox(pen, mark, scale, { ...how, landmarks });
  // Above all boxes, so that none is crossed out by a neighbour's.
  if (labels) for (const { mark, ...how } of drawn) drawLabel(pen, mark, scale, how);
}

/** Darken all but some boxes a little. */
function dim(pen, width, height, marks, kept, scale) {
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, width, height);
  for (const [x1, y1, x2, y2] of kept.map((index) => marks[index].box)) pen.roundRect(x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale, 4);
  pen.fillStyle = "rgb(0 0 0 / .32)";
  pen.fill("evenodd");
  pen.restore();
}

function drawBox(pen, { box, landmarks: points }, scale, { color, isMarked, landmarks }) {
  const [x1, y1, x2, y2] = box.map((value) => value * scale);
  const size = x2 - x1;
  const stroke = size < 28 ? 1.25 : isMarked ? 2.5 : 1.75;
  pen.beginPath();
  pen.roundRect(x1, y1, size, y2 - y1, Math.min(5, size / 8));
  pen.lineWidth = stroke + 2;
  pen.strokeStyle = "rgb(0 0 0 / .45)";
  pen.stroke();
  pen.lineWidth = stroke;
  pen.strokeStyle = color;
  pen.stroke();
  if (!landmarks || !points || size < 24) return;
  const radius = Math.max(0.9, Math.min(3.2, size / 38));
  for (const [x, y] of points) {
    pen.beginPath();
    pen.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
    pen.fillStyle = color;
    pen.fill();
    pen.lineWidth = size < 60 ? 0.6 : 1;
    pen.strokeStyle = "rgb(0 0 0 / .55)";
    pen.stroke();
  }
}

/** Write a label over its box; of boxes of a few pixels it would hide more than it tells. */
function drawLabel(pen, { box: [left, top, right], label }, scale, { color, isMarked }) {
  const size = (right - left) * scale;
  if (!label || (size < LEAST_LABELLED_PX && !isMarked)) return;
  const isSmall = size < 34 && !isMarked;
  pen.font = `600 ${isSmall ? 10 : 11}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const [padding, height] = isSmall ? [3, 14] : [5, 17];
  const width = pen.measureText(label).width + 2 * padding;
  const x = Math.max(1, Math.min(left * scale - 1, pen.canvas.clientWidth - width - 1));
  const y = Math.max(1, top * scale - height - 3);
  pen.beginPath();
  pen.roundRect(x, y, width, height, 4);
  pen.fillStyle = isMarked ? color : "rgb(12 14 16 / .78)";
  pen.fill();
  pen.fillStyle = isMarked ? "#06201c" : color;
  pen.fillText(label, x + padding, y + height / 2 + 0.5);
}

/** Return the index of the smallest mark at a place of the canvas, or -1. Places are in CSS pixels. */
export function markAt(canvas, bitmap, marks, x, y) {
  const scale = canvas.clientWidth / bitmap.width;
  let found = -1;
  let foundArea = Infinity;
  marks.forEach(({ box: [x1, y1, x2, y2] }, index) => {
    const area = (x2 - x1) * (y2 - y1);
    const isInside = x >= x1 * scale && x <= x2 * scale && y >= y1 * scale && y <= y2 * scale;
    if (isInside && area < foundArea) [found, foundArea] = [index, area];
  });
  return found;
}
