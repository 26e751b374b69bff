import { element } from "./dom.js";
import { ApiError } from "./api.js";

/** Chunks are handed over to the browser's blob store, which may lie on disk, in steps of this size. */
const SPILL_BYTES = 8_000_000;
/** How long the browser gets to begin saving before the memory is given back, in milliseconds. */
const SAVING_STARTS = 60_000;

/**
 * Reads an answer to its end. Nothing of it is kept when it breaks off.
 *
 * @param {Response} response
 * @param {(bytes: number) => void} onProgress takes the number of bytes received so far
 * @returns {Promise<Blob>}
 * @throws {ApiError} when the stream breaks off; AbortError when it was given up
 */
export async function receive(response, onProgress) {
  const blobs = [];
  let chunks = [];
  let unspilled = 0;
  let received = 0;
  try {
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      received += value.length;
      unspilled += value.length;
      if (unspilled >= SPILL_BYTES) {
        blobs.push(new Blob(chunks));
        chunks = [];
        unspilled = 0;
      }
      onProgress(received);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const { status } = response;
    throw new ApiError({ status, happened: "The export broke off.", remedy: "No file was saved. Try again." });
  }
  return new Blob([...blobs, ...chunks], { type: response.headers.get("Content-Type") ?? "" });
}

/**
 * Hands a file to the browser to save.
 *
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), SAVING_STARTS);
}

/**
 * @param {Response} response
 * @param {string} otherwise
 * @returns {string} the file name the server proposes, or the other one
 */
export function fileName(response, otherwise) {
  const [, name] = /filename="([^"/\\]+)"/.exec(response.headers.get("Content-Disposition") ?? "") ?? [];
  return name ?? otherwise;
}
