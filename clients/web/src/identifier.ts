/**
 * Identifiers of meetings, sessions and participants.
 *
 * They become labels, so their alphabet is small; an application has any text. One function makes
 * an identifier of any text, the same in every language, so that both ends of a call and the token
 * agree on it. SHA-256 is the platform's.
 *
 * Invariant: what is returned has 1 to 128 bytes of `A-Z a-z 0-9 . _ : @ -`.
 */

/** Whether a text is an identifier already. */
export function isIdentifier(text: string): boolean {
  return /^[\w.:@-]{1,128}$/.test(text);
}

/** A text that is an identifier, as it is; of any other, `id-` and a part of its SHA-256. */
export async function identifierOf(text: string): Promise<string> {
  return isIdentifier(text) ? text : hiddenIdentifierOf(text);
}

/** An identifier that never shows its text: the hash of any. */
export async function hiddenIdentifierOf(text: string): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new Error(
      `the browser hashes on pages of https and localhost only; use ids of 1 to 128 of A-Z a-z 0-9 . _ : @ -`,
    );
  }
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return `id-${hexadecimal(new Uint8Array(hash, 0, 16))}`;
}

/** A part of a session's id that nobody can guess. */
export function random(): string {
  return hexadecimal(crypto.getRandomValues(new Uint8Array(12)));
}

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
