import { describe, expect, it, vi } from "vitest";
import { hiddenIdentifierOf, identifierOf } from "../src/identifier.js";
import { json } from "./vectors.js";

interface Vector {
  text: string;
  identifier: string;
  hidden: string;
}

describe("an identifier", () => {
  it.each(json<Vector[]>("spec/vectors/identifiers.json"))(
    "of $text is that of the vectors",
    async (vector) => {
      const { text, identifier, hidden } = vector;
      expect(await identifierOf(text)).toBe(identifier);
      expect(await hiddenIdentifierOf(text)).toBe(hidden);
    },
  );

  it("needs no hash if the text is one, and says what to do where there is none", async () => {
    vi.stubGlobal("crypto", {});
    expect(await identifierOf("ana")).toBe("ana");
    await expect(identifierOf("Ana María")).rejects.toThrow("use ids of 1 to 128");
    vi.unstubAllGlobals();
  });
});
