// What answers: models, backends, states; the API key; a word about starter models.

import { apiKey, ask } from "./api.js";
import { byId, el } from "./dom.js";

const STEADY_MS = 15000;
const BUSY_MS = 1500;
const PLATE_STARTER = "starter_plate";
const TASKS = {
  detection: "finds faces", recognition: "tells them apart", gender_age: "guesses gender and age",
  mask: "sees masks", liveness: "tells people from pictures of them", classification: "names a class",
  plate_detection: "finds licence plates", plate_reading: "reads licence plates",
};

/** What the page knows of the service. */
export const service = { version: "", stages: { extract_embedding: "true" }, shown: {}, matchThreshold: null };

let tellKnown;
/** Settled once the service told what it can be asked for, or could not; not while it asks for a key. */
export const known = new Promise((resolve) => { tellKnown = resolve; });

let wasKeyAsked = false;
let isSteady = false;
let isAsking = false;

/** Begin to watch the service, and go on while the page is looked at. */
export function watchService() {
  byId("key-form").addEventListener("submit", useKey);
  document.addEventListener("keywanted", askForKey);
  document.addEventListener("busy", ({ detail: seconds }) => showBusy(seconds));
  // An answer may have loaded a model.
  document.addEventListener("answered", () => { if (!isSteady && !isAsking) refresh(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  refresh();
}

let timer = 0;

/** Ask how the service is now. */
export async function refresh() {
  clearTimeout(timer);
  let isBusy = true;
  isAsking = true;
  try {
    const { status, answer } = await ask("health/ready");
    isBusy = showState(status, answer);
    showStarters(Object.keys(answer.models ?? {}));
    if (!wasKeyAsked) await showDetails();
  } catch (fault) {
    // A missing key is asked for elsewhere; the service itself is well.
    if (!wasKeyAsked) setState("down", fault.message);
  }
  isAsking = false;
  if (!wasKeyAsked) tellKnown();
  isSteady = !isBusy && !byId("models").querySelector('.badge:not([data-state="serving"])');
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, isBusy ? BUSY_MS : STEADY_MS);
}

/** Say in one line how the service is; return whether it is about to change. */
function showState(status, answer) {
  const models = Object.entries(answer.models ?? {});
  const at = (state) => models.filter(([, model]) => model.state === state);
  if (status !== 200) {
    setState("down", `Not ready. ${answer.reason ?? ""}`);
    return true;
  }
  const [loading] = at("loading");
  if (loading) {
    setState("busy", `Loading ${loading[0]}…`);
    return true;
  }
  const built = models.find(([, model]) => isBuilt(model.engine));
  if (built) {
    const [name, { engine }] = built;
    const verb = engine.state === "checking" ? "Checking" : "Building";
    setState("busy", `Ready. ${verb} the engine of ${name} for ${Math.round(engine.elapsed_s)} s`);
    return true;
  }
  if (models.length && at("unloaded").length === models.length) {
    setState("ready", "Ready. The first picture loads the models");
    return false;
  }
  setState("ready", "Ready");
  return false;
}

/** Whether an engine is being built now. */
function isBuilt(engine) {
  return engine?.state === "building" || engine?.state === "checking";
}

function setState(kind, text) {
  byId("state").dataset.state = kind;
  if (byId("state-text").textContent !== text) byId("state-text").textContent = text;
}

/** Starter models are honest about themselves. */
function showStarters(names) {
  const starters = names.filter((name) => name.startsWith("starter_") && name !== PLATE_STARTER);
  byId("starter-plate").hidden = !names.includes(PLATE_STARTER);
  byId("starter").hidden = !starters.length;
}

/** Say that a busy service is given time: once, for however many pictures; null when none waits any more. */
function showBusy(seconds) {
  byId("busy-note").textContent = seconds === null ? "" : `The service is busy. Trying again in ${Math.ceil(seconds)} s.`;
  byId("busy-note").hidden = seconds === null;
}

async function showDetails() {
  const [{ answer: about }, { answer: registry }] = await Promise.all([ask("info"), ask("models")]);
  const isFirst = !service.version;
  service.version = about.version;
  service.matchThreshold = about.models.match_threshold;
  service.stages = { extract_embedding: String(about.models.rec_name !== null) };
  const named = about.models.attributes.filter(({ option }) => option === "attributes");
  for (const { option } of about.models.attributes) service.stages[option] = "true";
  if (named.length) service.stages.attributes = named.map(({ name }) => name).join(",");
  service.shown = Object.fromEntries(named.map(({ name, shown }) => [name, shown]));
  if (isFirst) document.dispatchEvent(new CustomEvent("defaults", { detail: about }));
  byId("version").textContent = `jetface ${about.version}`;
  const active = registry.models.filter((model) => model.is_active);
  const others = registry.models.filter((model) => !model.is_active);
  const wasOpen = byId("models").querySelector("details")?.open ?? false;
  const parts = [el("ul", { class: "models" }, ...active.map(modelCard))];
  if (others.length) {
    const names = el("ul", { class: "others" }, ...others.map(({ name, license }) => el("li", {}, el("b", {}, name), el("span", { class: "quiet" }, license))));
    parts.push(el("details", { open: wasOpen }, el("summary", {}, `${others.length} more in the registry`), names));
  }
  byId("models").replaceChildren(...parts);
}

function modelCard(model) {
  const facts = [TASKS[model.task] ?? model.task, model.backend, model.embedding_length && `${model.embedding_length} numbers per face`];
  return el(
    "li", { class: "card model" },
    el("div", { class: "model-top" }, el("b", {}, ...breakable(model.name)), el("span", { class: "badge", "data-state": model.state }, model.state)),
    el("p", { class: "quiet small" }, facts.filter(Boolean).join(" · ")),
    isBuilt(model.engine) && el("p", { class: "quiet small" }, `Engine: ${model.engine.phase ?? model.engine.state}`),
    model.reason && el("p", { class: "small fault-text" }, model.reason),
    model.engine?.state === "rejected" && el("p", { class: "small fault-text" }, `No engine: ${model.engine.reason}`),
    el("p", { class: "quiet small" }, `Licence: ${model.license}`),
  );
}

/** Let a long name break after its underscores. */
const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, el("wbr")]);

function askForKey() {
  const form = byId("key-form");
  const isNew = form.hidden;
  wasKeyAsked = true;
  form.hidden = false;
  form.querySelector("label").textContent = apiKey.get() ? "This service does not accept that key. Another one?" : "This service asks for an API key.";
  setState("key", "Needs an API key");
  if (isNew) byId("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  apiKey.set(byId("key").value.trim());
  byId("key").value = "";
  wasKeyAsked = false;
  await refresh();
  if (!wasKeyAsked) {
    byId("key-form").hidden = true;
    document.querySelector('[role="tab"][aria-selected="true"]').focus();
    document.dispatchEvent(new Event("keyaccepted"));
  }
}
