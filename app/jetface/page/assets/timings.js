// Where a request's time went: the Server-Timing header as a bar.

import { el } from "./dom.js";

const KNOWN = ["decode", "load", "queue", "detect", "align", "recognize", "attributes", "serialise"];

/**
 * Return a bar with its legend. Stages of work done in parallel may add up to more than the total.
 * @param {{name: string, ms: number}[]} stages
 * @param {number} tookMs As the browser saw it, network included.
 */
export function timingBar(stages, tookMs) {
  const total = stages.find((stage) => stage.name === "total")?.ms ?? tookMs;
  const shown = stages.filter((stage) => stage.name !== "total" && stage.ms >= 0.005);
  const rest = total - shown.reduce((sum, stage) => sum + stage.ms, 0);
  if (rest > 0.05) shown.push({ name: "other", ms: rest });
  const sum = shown.reduce((before, stage) => before + stage.ms, 0) || 1;
  // Work done side by side adds up to more than the time it took.
  const isParallel = rest < -0.05;
  const bar = el("div", { class: "bar", "aria-hidden": "true" });
  const legend = el("ul", { class: "legend" });
  for (const stage of shown) {
    const part = el("span", { class: "part", "data-stage": colorOf(stage.name), title: `${stage.name} ${inMs(stage.ms)}` });
    part.style.flexGrow = String(stage.ms / sum);
    bar.append(part);
    legend.append(el("li", {}, el("span", { class: "swatch", "data-stage": colorOf(stage.name), "aria-hidden": "true" }), `${stage.name} `, el("b", {}, inMs(stage.ms))));
  }
  const head = el("p", { class: "timing-head" }, el("b", {}, inMs(total)), " in the service", el("span", { class: "quiet" }, ` · ${inMs(tookMs)} with the network${isParallel ? " · stages ran side by side" : ""}`));
  return el("div", { class: "timing" }, head, bar, legend);
}

const colorOf = (name) => (KNOWN.includes(name) ? name : "other");

/** Return milliseconds with no more digits than matter. */
export function inMs(ms) {
  return `${ms >= 100 ? Math.round(ms) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}
