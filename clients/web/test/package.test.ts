import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";

const home = fileURLToPath(new URL("..", import.meta.url));

describe("the package", () => {
  it("is built as one module of at most 10 KB, compressed, that needs no other", () => {
    const built = readFileSync(`${home}dist/callsight.js`);
    expect(gzipSync(built, { level: 9 }).length).toBeLessThanOrEqual(10_000);
    expect(built.toString()).not.toMatch(/\bimport\b\s*["'{*(]/);
    expect(built.toString()).toMatch(/^\/\*! callsight, .* contains @msgpack\/msgpack, ISC \*\//);
  });

  it("is in the program as it is built: after a change, run ./dev web", () => {
    const built = readFileSync(`${home}dist/callsight.js`, "utf8");
    const embedded = readFileSync(`${home}../../src/cli/demo/call/callsight.js`, "utf8");
    expect(embedded).toBe(built.replace(/^\/\/# sourceMappingURL=.*\n/m, ""));
  });

  it("contains modules, types, sources and licences, and nothing else", () => {
    const pack = ["pack", "--dry-run", "--json", "--ignore-scripts"];
    const [{ files }] = JSON.parse(execFileSync("npm", pack, { cwd: home, encoding: "utf8" }));
    const paths: string[] = files.map(({ path }: { path: string }) => path);
    const { exports, version } = JSON.parse(readFileSync(`${home}package.json`, "utf8"));
    const named = Object.values(exports).flatMap((to) => Object.values(to as object));
    for (const path of named
      .filter((to) => to.length > 1)
      .concat("./src/index.ts", "./README.md")) {
      expect(paths).toContain(path.slice(2));
    }
    const others = paths.filter(
      (path) => !/^(dist|src)\/(adapters\/)?[a-z]+\.(js|d\.ts|ts|js\.map)$/.test(path),
    );
    expect(others.sort()).toEqual(["LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json"]);
    expect(readFileSync(`${home}../../Cargo.toml`, "utf8")).toContain(`version = "${version}"`);
  });

  it.each(["janus", "livekit", "mediasoup"])("needs no other module for %s", async (adapter) => {
    const { exports } = JSON.parse(readFileSync(`${home}package.json`, "utf8"));
    const path = `${home}${exports[`./${adapter}`].default}`;
    const built = readFileSync(path, "utf8");
    const imported = [...built.matchAll(/\bfrom "(.*)"|\bimport\(/g)].map(([, from]) => from);
    expect(imported).toEqual(["./safely.js"]);
    expect(Object.keys(await import(/* @vite-ignore */ path))).toHaveLength(1);
  });

  it.each(["LICENSE-APACHE", "LICENSE-MIT"])("has the repository's %s", (licence) => {
    expect(readFileSync(`${home}${licence}`)).toEqual(readFileSync(`${home}../../${licence}`));
  });

  it("has a lock file that names no host of a registry", () => {
    const lock = readFileSync(`${home}package-lock.json`, "utf8");
    expect(lock).not.toContain('"resolved"');
  });
});
