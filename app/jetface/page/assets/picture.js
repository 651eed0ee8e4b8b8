// A picture, and faces drawn on it.

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
 * Draw a picture and its faces, as wide as the canvas is shown, sharp on any screen.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} bitmap
 * @param {{box: number[], landmarks?: number[][], label?: string}[]} faces In source pixels.
 * @param {{chosen?: number, hovered?: number, landmarks?: boolean, labels?: boolean}} [how]
 */
export function draw(canvas, bitmap, faces, { chosen = -1, hovered = -1, landmarks = true, labels = true } = {}) {
  const ratio = devicePixelRatio || 1;
  // The style sheet limits width and height; the ratio of the attributes gives the shape within them.
  const width = canvas.clientWidth || bitmap.width;
  const scale = width / bitmap.width;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale * ratio));
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, width, bitmap.height * scale);
  const accent = getComputedStyle(canvas).getPropertyValue("--on-picture").trim();
  const order = faces.map((_, index) => index).sort((a, b) => (a === chosen) - (b === chosen));
  if (chosen >= 0) dim(pen, width, bitmap.height * scale, faces[chosen].box, scale);
  for (const index of order) {
    const isMarked = index === chosen || index === hovered;
    drawFace(pen, faces[index], scale, { color: isMarked ? accent : "#fff", isMarked, landmarks, labels });
  }
}

/** Darken all but one box a little. */
function dim(pen, width, height, [x1, y1, x2, y2], scale) {
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, width, height);
  pen.roundRect(x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale, 4);
  pen.fillStyle = "rgb(0 0 0 / .32)";
  pen.fill("evenodd");
  pen.restore();
}

function drawFace(pen, face, scale, { color, isMarked, landmarks, labels }) {
  const [x1, y1, x2, y2] = face.box.map((value) => value * scale);
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
  if (landmarks && face.landmarks && size >= 24) {
    const radius = Math.max(0.9, Math.min(3.2, size / 38));
    for (const [x, y] of face.landmarks) {
      pen.beginPath();
      pen.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
      pen.fillStyle = color;
      pen.fill();
      pen.lineWidth = size < 60 ? 0.6 : 1;
      pen.strokeStyle = "rgb(0 0 0 / .55)";
      pen.stroke();
    }
  }
  // On a face of a few pixels a number would hide more than it tells.
  if (labels && face.label && (size >= 34 || isMarked)) drawLabel(pen, face.label, x1, y1, isMarked ? color : null);
}

function drawLabel(pen, text, x, y, color) {
  pen.font = "600 11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const width = pen.measureText(text).width + 10;
  const top = Math.max(1, y - 20);
  pen.beginPath();
  pen.roundRect(Math.max(1, x - 1), top, width, 17, 4);
  pen.fillStyle = color ?? "rgb(12 14 16 / .78)";
  pen.fill();
  pen.fillStyle = color ? "#06201c" : "#fff";
  pen.fillText(text, Math.max(1, x - 1) + 5, top + 9);
}

/** Return the index of the smallest face at a place of the canvas, or -1. Places are in CSS pixels. */
export function faceAt(canvas, bitmap, faces, x, y) {
  const scale = canvas.clientWidth / bitmap.width;
  let found = -1;
  let foundArea = Infinity;
  faces.forEach(({ box: [x1, y1, x2, y2] }, index) => {
    const area = (x2 - x1) * (y2 - y1);
    const isInside = x >= x1 * scale && x <= x2 * scale && y >= y1 * scale && y <= y2 * scale;
    if (isInside && area < foundArea) [found, foundArea] = [index, area];
  });
  return found;
}

/** Return an embedding that came as base64 of little-endian float32. */
export function toVector(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/** Return the cosine of two embeddings; they have unit length. */
export function cosine(first, second) {
  return first.reduce((sum, value, index) => sum + value * second[index], 0);
}
