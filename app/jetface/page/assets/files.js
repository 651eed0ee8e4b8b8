// Files that are dropped, pasted or chosen, and the folders they lie in.

const PICTURE = /\.(jpe?g|jpe|jfif|mpo|png|webp|bmp|gif|heic|heif|avif|tiff?)$/i;
/** A folder is walked until so many of its pictures, or so many of its files, were met. */
const MOST_PICTURES = 2000;
const MOST_SEEN = 20000;

const paths = new WeakMap();

/** Return where a file lay, as far as the browser tells: `holiday/1.jpg`, or its name alone. */
export const pathOf = (file) => paths.get(file) || file.webkitRelativePath || file.name || "pasted picture";

/** Return the name of a file without its folders. */
export const nameOf = (file) => file.name || "pasted picture";

/** Whether a drop or a paste brings files or folders. */
export const hasFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");

/**
 * Return the files of a drop or a paste, and the pictures of its folders. Of files that were meant one by one, the
 * service says best whether they are pictures.
 */
export async function filesOf(transfer) {
  // All are asked for at once: when the event is over there are none.
  const items = [...(transfer?.items ?? [])].filter(({ kind }) => kind === "file");
  const given = items.map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const files = [];
  for (const { entry, file } of given) {
    if (entry?.isDirectory) files.push(...await walk(entry));
    else if (file) files.push(file);
  }
  return files;
}

/** Return the pictures of a folder that was chosen, in the order of their paths. */
export const picturesOf = (files) => inOrder([...files].filter(({ name }) => isPicture(name)));

const isPicture = (name) => PICTURE.test(name) && !name.startsWith(".");
const inOrder = (files) => files.sort((a, b) => pathOf(a).localeCompare(pathOf(b), undefined, { numeric: true }));

async function walk(folder) {
  const folders = [folder];
  const files = [];
  let numSeen = 0;
  for (let next = folders.shift(); next; next = folders.shift()) {
    const reader = next.createReader();
    // A reader gives some at a time, and none at its end; a folder that may not be read is as good as empty.
    const read = () => new Promise((resolve) => { reader.readEntries(resolve, () => resolve([])); });
    for (let some = await read(); some.length; some = await read()) {
      numSeen += some.length;
      folders.push(...some.filter((entry) => entry.isDirectory));
      for (const entry of some.filter(({ isFile, name }) => isFile && isPicture(name))) {
        const file = await new Promise((resolve) => { entry.file(resolve, () => resolve(null)); });
        if (!file) continue;
        paths.set(file, entry.fullPath.replace(/^\//, ""));
        files.push(file);
      }
      if (files.length >= MOST_PICTURES || numSeen >= MOST_SEEN) return inOrder(files);
    }
  }
  return inOrder(files);
}

/**
 * Name things by as little of their paths as tells them apart: `1.jpg`, or `ada/1.jpg` beside `bob/1.jpg`.
 * @param {{path: string, name: string}[]} things Their `name` is written.
 */
export function nameApart(things, depth = 1) {
  const byName = new Map();
  for (const thing of things) {
    const name = thing.path.split("/").slice(-depth).join("/");
    byName.set(name, [...(byName.get(name) ?? []), thing]);
  }
  for (const [name, same] of byName) {
    if (same.every(({ path }) => path === same[0].path)) same.forEach((thing, index) => { thing.name = index ? `${name} (${index + 1})` : name; });
    else nameApart(same, depth + 1);
  }
}
