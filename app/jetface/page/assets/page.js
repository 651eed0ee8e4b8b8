// Where the page begins: tabs, drop, paste, camera, copy.

import { takePicture } from "./camera.js";
import { addToCompare, startCompare, texts as compareTexts } from "./compare.js";
import { byId, copy, filesOf } from "./dom.js";
import { addPictures, startFind, texts as findTexts } from "./find.js";
import { addToPeople, startPeople } from "./people.js";
import { refresh, watchService } from "./service.js";

const TABS = ["find", "compare", "people"];
const activeTab = () => TABS.find((name) => !byId(name).hidden);

function openTab(name, { focus = false } = {}) {
  for (const tab of TABS) {
    const isOpen = tab === name;
    byId(tab).hidden = !isOpen;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(isOpen));
    byId(`tab-${tab}`).tabIndex = isOpen ? 0 : -1;
  }
  history.replaceState(null, "", name === "find" ? location.pathname : `#${name}`);
  if (focus) byId(`tab-${name}`).focus();
}

/** Take pictures in, wherever they came from, for the tab that is open. */
async function take(files) {
  if (!files.length) return;
  const takers = { find: addPictures, compare: addToCompare, people: addToPeople };
  await takers[activeTab()](files);
  refresh();
}

function startTabs() {
  for (const name of TABS) {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => openTab(name));
    tab.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key] ?? 0;
      const shown = TABS.filter((each) => !byId(`tab-${each}`).hidden);
      if (step) openTab(shown[(shown.indexOf(name) + step + shown.length) % shown.length], { focus: true });
    });
  }
  if (location.hash === "#compare") openTab("compare");
}

function startDrop() {
  const veil = byId("veil");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const hide = () => { veil.hidden = true; };
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    // Without this a browser leaves the page and opens the file.
    event.preventDefault();
    veil.hidden = activeTab() !== "find";
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) hide(); });
  document.addEventListener("drop", (event) => {
    hide();
    if (!hasFiles(event)) return;
    event.preventDefault();
    take(filesOf(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (files.length) event.preventDefault();
    take(files);
  });
}

function startButtons() {
  const input = byId("find-files");
  byId("find-choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // so that choosing the same file again is a change
  });
  byId("find-camera").addEventListener("click", async () => {
    const picture = await takePicture();
    if (picture) await take([picture]);
  });
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => {
      const what = button.dataset.copy;
      copy({ ...findTexts(), ...compareTexts() }[what], byId(what), button);
    });
  }
}

startTabs();
startDrop();
startButtons();
startFind();
startCompare();
startPeople();
watchService();
