import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

export default defineConfig({
  test: {
    root: path("../.."),
    include: [path("orphan.ts")],
    globalSetup: [path("globalSetup.ts")],
    pool: "forks"
  }
})
