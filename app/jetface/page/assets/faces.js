// The list of a picture's faces: crops, scores, attributes, and how alike they are to the chosen one.

import { el } from "./dom.js";
import { cosine } from "./picture.js";
import { service } from "./service.js";

/**
 * Return the cards of faces.
 * @param {object[]} faces As `find.js` keeps them.
 * @param {{chosen: object|null, onChoose: (index: number) => void, onHover: (index: number) => void}} how
 */
export function faceCards(faces, { chosen, onChoose, onHover }) {
  return faces.map((face, index) => {
    const isChosen = face === chosen;
    const alike = chosen && !isChosen ? likeness(chosen, face) : null;
    const button = el(
      "button",
      {
        type: "button", class: "face", "aria-pressed": String(isChosen),
        onclick: () => onChoose(index), onpointerenter: () => onHover(index), onpointerleave: () => onHover(-1),
        onfocus: () => onHover(index), onblur: () => onHover(-1),
      },
      face.crop ? el("img", { src: face.crop, alt: "", width: "112", height: "112" }) : el("span", { class: "no-crop" }),
      el("span", { class: "face-top" }, el("b", {}, face.who?.name ?? `Face ${index + 1}`), el("span", { class: "num" }, face.score.toFixed(2))),
      face.who && el("span", { class: "small quiet" }, `known, alike ${face.who.similarity.toFixed(2)}`),
      ...attributesOf(face.raw).map((text) => el("span", { class: "small quiet" }, text)),
      isChosen && el("span", { class: "small quiet" }, "chosen"),
      alike !== null && likenessBar(alike),
    );
    return el("li", {}, button);
  });
}

/** Return how alike two faces are, a cosine; null when one has no embedding. */
export function likeness(first, second) {
  return first.vector && second.vector ? cosine(first.vector, second.vector) : null;
}

function likenessBar(alike) {
  const fill = el("span", { class: "likeness-fill" });
  fill.style.width = `${Math.max(0, Math.min(1, alike)) * 100}%`;
  return el("span", { class: "likeness" }, el("span", { class: "small" }, "alike ", el("b", { class: "num" }, alike.toFixed(2))), el("span", { class: "likeness-bar" }, fill));
}

/** Return the attributes in words; those that are unknown are left out. */
export function attributesOf(raw) {
  const words = [];
  const gender = raw.gender === 0 ? "woman" : raw.gender === 1 ? "man" : null;
  const age = typeof raw.age === "number" ? `about ${Math.round(raw.age)}` : null;
  if (gender || age) words.push([gender, age].filter(Boolean).join(", "));
  if (typeof raw.mask === "boolean") words.push(raw.mask ? "masked" : "no mask");
  if (typeof raw.live === "number") words.push(`${raw.is_live ? "live" : "not live"} ${raw.live.toFixed(2)}`);
  for (const [name, told] of Object.entries(raw.attributes ?? {})) {
    const values = told ? (service.shown[name] ?? []).map((key) => told[key]) : [];
    if (values.length) words.push(`${name}: ${values.map(inWords).join(", ")}`);
  }
  if (raw.quality) words.push(`quality ${raw.quality.score.toFixed(2)}`);
  return words;
}

const inWords = (value) => (typeof value === "number" ? String(Number(value.toFixed(2))) : String(value));

/** Return what the quality of a face is made of, in one line; empty when it was not measured. */
export function qualityOf(raw) {
  if (!raw.quality) return "";
  const { sharpness, brightness, size, pose } = raw.quality;
  const angles = ["yaw", "pitch", "roll"].map((name) => `${name} ${Math.round(pose[name]) || 0}°`);
  return `Sharpness ${Math.round(sharpness)} · brightness ${brightness.toFixed(2)} · ${Math.round(size)} px · ${angles.join(", ")}`;
}
