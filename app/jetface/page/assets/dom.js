// The few lines this page needs of what a framework would bring.

/** Return the element of that id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. Text is always text: nothing here, and nothing on this page, parses HTML.
 * @param {string} tag
 * @param {Object<string, *>} attributes `onclick` and the like are listeners; null and false leave an attribute out.
 * @param {...(Node|string|null|false)} children
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** Say something to people who hear the page. */
export function announce(text) {
  const live = byId("live");
  live.textContent = "";
  // A reader only notices a change; a frame later it is one, even of the same words.
  requestAnimationFrame(() => { live.textContent = text; });
}

/**
 * Show why something went wrong, until it is dismissed; in one box, where the same goes wrong with many.
 * @param {Element} place
 * @param {string} text
 * @param {string} [subject] What it went wrong with.
 */
export function showFault(place, text, subject = "") {
  let fault = [...place.children].find((each) => each.text === text);
  if (!fault) {
    fault = el("div", { class: "notice fault", role: "alert" }, el("p"), el("button", { type: "button", class: "quiet-button", onclick: () => dismiss(fault) }, "Dismiss"));
    Object.assign(fault, { text, subjects: [] });
    place.append(fault);
  }
  if (subject) fault.subjects.push(subject);
  fault.firstChild.textContent = [several(fault.subjects), text].filter(Boolean).join(": ");
  // Pictures can be dropped anywhere on the page, also where its top is out of sight.
  fault.scrollIntoView({ block: "nearest" });
}

/** Return `a`, `a and b`, `a, b and 7 more`. */
function several(names) {
  if (names.length < 2) return names[0] ?? "";
  return names.length === 2 ? names.join(" and ") : `${names[0]}, ${names[1]} and ${names.length - 2} more`;
}

/** Take a box away; who was on its button goes on with the next one's, or with the panel. */
function dismiss(fault) {
  const next = fault.nextElementSibling?.querySelector("button") ?? fault.closest('[role="tabpanel"]');
  fault.remove();
  next?.focus({ preventScroll: true });
}

/** Return a file's name, of which the folders give way where there is little room. */
export function fileName(name) {
  const cut = name.lastIndexOf("/");
  return el("span", { class: "file", title: name }, cut >= 0 && el("span", { class: "file-folder" }, name.slice(0, cut)), el("span", { class: "file-own" }, name.slice(Math.max(cut, 0))));
}

/** Return `1 face`, `6 faces`. */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Put `text` on the clipboard; where the browser keeps it from pages (plain http), select it for the person. */
export async function copy(text, pre, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce("Copied");
  } catch {
    getSelection().selectAllChildren(pre);
    button.textContent = "Selected";
    announce("Selected, ready to copy");
  }
  setTimeout(() => { button.textContent = label; }, 1600);
}
