// The service as this page uses it. Addresses are relative: the page works behind any path prefix.

const KEY = "jetface.key";

/** How often a request that found no place is sent before its person is told. */
const MOST_TRIES = 10;
/** What a busy service asks for where it says nothing. */
const REST_S = 2;

/** A failure in words for a person; `status` and `retryAfterS` as the service sent them. */
export class Fault extends Error {
  constructor(words, { status = 0, retryAfterS = 0 } = {}) {
    super(words);
    Object.assign(this, { status, retryAfterS });
  }
}

/** The API key of this tab. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key),
};

/**
 * Ask the service.
 * @param {string} path Relative to the page.
 * @param {{form?: FormData, json?: object, method?: string, as?: "json"|"blob", signal?: AbortSignal}} [options] A form
 *   or a value to send as JSON makes it a POST; `as` is what an answer is read as.
 * @returns {Promise<{status: number, answer: any, stages: {name: string, ms: number}[], tookMs: number}>}
 *   `status` is 200, or 503 of a health route.
 * @throws {Fault} In words; also `AbortError` when `signal` says so.
 */
export async function ask(path, { form, json, method, as = "json", signal } = {}) {
  const key = apiKey.get();
  const headers = { accept: "application/json", ...(json && { "content-type": "application/json" }), ...(key && { "x-api-key": key }) };
  const body = json ? JSON.stringify(json) : form;
  const started = performance.now();
  let response;
  let text;
  try {
    response = await fetch(path, { method: method ?? (body ? "POST" : "GET"), body, headers, signal, cache: "no-store" });
    if (as === "blob" && response.ok) return { status: response.status, answer: await response.blob(), stages: [], tookMs: performance.now() - started };
    text = await response.text();
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new Fault("The service does not answer. Is it running, and is this device still connected to it?");
  }
  const tookMs = performance.now() - started;
  const answer = parse(text);
  const isHealth = path.startsWith("health") && response.status === 503 && answer?.status;
  if (!response.ok && !isHealth) throw new Fault(inWords(response, answer, key), { status: response.status, retryAfterS: Number(response.headers.get("retry-after")) });
  if (answer === null) throw new Fault("The answer was not JSON. Is something else between this page and the service?");
  return { status: response.status, answer, stages: stagesOf(response.headers.get("server-timing")), tookMs };
}

/**
 * Ask for what a person waits for: again once a busy service has a place (429), and again with another key (401). The
 * page says why it waits; only what is wrong with the request itself is thrown. Arguments and answer are those of `ask`.
 */
export async function askPatiently(path, options = {}) {
  const request = {};
  try {
    for (let tries = 1; ; tries += 1) {
      const key = apiKey.get();
      try {
        return await ask(path, options);
      } catch (cause) {
        if (cause.status === 401) {
          // With a key that was entered meanwhile it is sent at once.
          if (key === apiKey.get()) await happening("keyaccepted", options.signal);
        } else if (cause.status === 429 && tries < MOST_TRIES) {
          const seconds = cause.retryAfterS || REST_S;
          refused.add(request);
          tellBusy(seconds);
          // Not all at the same moment.
          await resting((seconds + 0.3 * Math.random()) * 1000, options.signal);
        } else {
          throw cause;
        }
      }
    }
  } finally {
    if (refused.delete(request) && !refused.size) tellBusy(null);
  }
}

/** Requests that were refused for want of a place and are not answered yet. */
const refused = new Set();
const tellBusy = (seconds) => document.dispatchEvent(new CustomEvent("busy", { detail: seconds }));

function happening(event, signal) {
  return leavable(signal, (resolve, ended) => document.addEventListener(event, resolve, { signal: ended }));
}

function resting(ms, signal) {
  return leavable(signal, (resolve) => setTimeout(resolve, ms));
}

/** Wait for something until `signal` says that nobody does any more. */
function leavable(signal, start) {
  signal?.throwIfAborted();
  const ended = new AbortController();
  return new Promise((resolve, reject) => {
    start(resolve, ended.signal);
    signal?.addEventListener("abort", () => reject(signal.reason), { signal: ended.signal });
  }).finally(() => ended.abort());
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Return what a status means for the person in front of the page. */
function inWords(response, answer, key) {
  const said = answer?.error?.message ?? `The service answered ${response.status}.`;
  const wait = Number(response.headers.get("retry-after"));
  switch (response.status) {
    case 401:
      // Not when another key was entered meanwhile: that one has its own answer coming.
      if (key === apiKey.get()) document.dispatchEvent(new Event("keywanted"));
      return key ? "The service does not accept this API key." : "The service asks for an API key.";
    case 413:
      return tooLong(answer?.error?.details?.max_body_bytes) ?? said;
    case 429:
    case 503:
      return wait > 0 ? `${said} Try again in ${wait} s.` : said;
    default:
      return said;
  }
}

function tooLong(maxBytes) {
  return maxBytes ? `The file is larger than this service takes (${Math.floor(maxBytes / 2 ** 20)} MiB).` : null;
}

/** Parse `decode;dur=1.2, total;dur=30`. */
function stagesOf(header) {
  return (header ?? "").split(",").flatMap((part) => {
    const found = /^\s*([\w-]+)\s*;\s*dur=([\d.]+)/.exec(part);
    return found ? [{ name: found[1], ms: Number(found[2]) }] : [];
  });
}

/**
 * Return the same request as a line for a shell.
 * @param {string} path
 * @param {string[]} names Of the files.
 * @param {Object<string, string>} options
 */
export function curlLine(path, names, options) {
  const parts = [`curl -s ${quoted(new URL(path, document.baseURI).href)}`];
  if (apiKey.get()) parts.push("-H 'x-api-key: YOUR_KEY'");
  for (const name of names) {
    // curl itself reads `;` and `,` in a file's name unless it is in double quotes.
    const file = /[;,"\\]/.test(name) ? `"${name.replace(/(["\\])/g, "\\$1")}"` : name;
    parts.push(`-F ${quoted(`file=@${file}`)}`);
  }
  for (const [name, value] of Object.entries(options)) parts.push(`-F ${quoted(`${name}=${value}`)}`);
  return parts.join(" \\\n  ");
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return an answer as text to read: long strings cut, rows of numbers on one line. */
export function readable(answer) {
  const cut = (_name, value) =>
    typeof value === "string" && value.length > 72 ? `${value.slice(0, 40)}… (${value.length} characters)` : value;
  const text = JSON.stringify(answer, cut, 2);
  return text.replace(/\[\s+(?:-?[\d.eE+-]+,?\s+)+\]/g, (row) => row.replace(/\s+/g, " "));
}
