import { defineConfig } from "vitest/config";

export default defineConfig({
  // Folders beside the sources are links or build output.
  test: { include: ["test/**/*.test.ts"], testTimeout: 60_000 },
});
