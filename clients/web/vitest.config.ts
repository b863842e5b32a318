import { defineConfig } from "vitest/config";

export default defineConfig({
  // Folders beside the sources are links or build output.
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    // Vitest would run it as a CommonJS module, which it becomes wherever there is a `module`.
    server: { deps: { external: [/janus-gateway/] } },
  },
});
