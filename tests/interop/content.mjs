// Bytes to store, and their digests.

import { createCipheriv, createHash } from "node:crypto";

export const MISSING = `blake3:${"0".repeat(64)}`;
// The published test vectors of BLAKE3: bytes 0 to 250, again and again.
export const BLAKE3 = {
  0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
  1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
  1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
  1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
  4097: "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995",
};

export const sha256 = (bytes) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export const pattern = (size) =>
  Buffer.from(Array.from({ length: size }, (_, index) => index % 251));

let seed = 0;

/** Give bytes that no other call gives, and that do not repeat within. */
export function fresh(size) {
  seed += 1;
  const key = createHash("md5").update(`${seed}`).digest();
  return createCipheriv("aes-128-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(size));
}

/** Give bytes in pieces of sizes that fit nothing. */
export async function* oddPieces(bytes) {
  const sizes = [1, 17, 4099, 262_143, 300_001, 0, 65_537];
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const piece = bytes.subarray(at, at + sizes[turn % sizes.length]);
    at += piece.length;
    yield piece;
  }
}

/** Give pieces until nobody asks for more. */
export async function* endless() {
  for (;;) yield Buffer.alloc(100_000);
}
