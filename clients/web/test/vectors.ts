/** Files of the repository that the client is compared with. */
import { readFileSync } from "node:fs";

export function text(path: string): string {
  return readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");
}

export function json<T>(path: string): T {
  return JSON.parse(text(path));
}

/** The rows of a table of docs/frame.md, as lists of cells without code marks. */
export function table(heading: string): string[][] {
  const section = text("docs/frame.md").split(`\n${heading}\n`)[1]?.split(/\n##/)[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("| "));
  return rows.slice(1).map((row) =>
    row
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}
